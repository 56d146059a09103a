#!/usr/bin/env bash
# The loader beside torchvision on Pillow: both on the same core, in turn, medians and their ratio.
#
#   scripts/bench_loader.sh PHOTOS [ROUNDS] [SECONDS]    PHOTOS: a folder of photographs
#
# CORE picks the core (default 0), PYTHON the interpreter that has scripts/requirements.txt.
set -euo pipefail

if [ $# -lt 1 ] || [ $# -gt 3 ]; then
    echo "usage: scripts/bench_loader.sh PHOTOS [ROUNDS] [SECONDS]" >&2
    exit 2
fi
photos=$(realpath "$1")
rounds=${2:-5}
seconds=${3:-8}
core=${CORE:-0}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-.venv/bin/python}

cargo build --release --locked --package runtime
swav_rt=${CARGO_TARGET_DIR:-target}/release/swav-rt

rate() {
    taskset -c "$core" "$@" | tail -n 1 | cut -d ' ' -f 1
}
median() {
    sort -n | awk '{ value[NR] = $1 } END { print (NR % 2) ? value[(NR + 1) / 2] : (value[NR / 2] + value[NR / 2 + 1]) / 2 }'
}

echo "commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown), core $core of $(getconf _NPROCESSORS_ONLN), $rounds rounds of $seconds s, images/s"
official=()
ours=()
plain=()
printf '%-6s %12s %12s %12s\n' round torchvision swav-rt 'no colour'
for ((round = 1; round <= rounds; round++)); do
    official+=("$(rate "$python" scripts/torchvision_loader.py "$photos" --seconds "$seconds")")
    ours+=("$(rate "$swav_rt" bench loader --data "$photos" --threads 1 --seconds "$seconds")")
    plain+=("$(rate "$swav_rt" bench loader --data "$photos" --threads 1 --seconds "$seconds" \
        --set crops.jitter=0 --set crops.blur=0 --set crops.grayscale=0)")
    printf '%-6s %12s %12s %12s\n' "$round" "${official[-1]}" "${ours[-1]}" "${plain[-1]}"
done
medians=()
for name in official ours plain; do
    declare -n rates=$name
    medians+=("$(printf '%s\n' "${rates[@]}" | median)")
done
printf '%-6s %12s %12s %12s\n' median "${medians[@]}"
awk -v official="${medians[0]}" -v ours="${medians[1]}" -v plain="${medians[2]}" \
    'BEGIN { printf "%-6s %12s %11.2fx %11.2fx\n", "ratio", "1", ours / official, plain / official }'
