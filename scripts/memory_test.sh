#!/usr/bin/env bash
# Memory of a training run over time: trains on the CPU for some minutes, with a checkpoint after every epoch, and notes
# every 10 s the highest resident memory that the process has had since the last note: no peak is missed. Linux only.
# The run ends by SIGTERM, so it saves and can go on.
# Usage: scripts/memory_test.sh DATA [MINUTES] [RUN]     (30 minutes, a new folder)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ $# -lt 1 ] || [ $# -gt 3 ]; then
    echo "usage: scripts/memory_test.sh DATA [MINUTES] [RUN]" >&2
    exit 2
fi
data=$1 minutes=${2:-30} run=${3:-$(mktemp -d)/run}
program=${SWAV_RT:-target/release/swav-rt}

"$program" train --preset models/cifar10-small.toml --data "$data" --out "$run" --set train.epochs=1000 &
process=$!
samples=()
began=$SECONDS
while [ $((SECONDS - began)) -lt $((60 * minutes)) ] && kill -0 $process 2>/dev/null; do
    sleep 10
    kib=$(awk '/^VmHWM/ { print $2 }' /proc/$process/status) || break
    echo 5 > /proc/$process/clear_refs # VmHWM starts again from the present
    samples+=("$((SECONDS - began)) $kib")
done
kill -TERM $process
wait $process

printf '%s\n' "${samples[@]}" > "$run/memory.txt"
awk -v from=300 '
    $1 >= from { n++; sum += $2; if (!low || $2 < low) low = $2; if ($2 > high) high = $2; if (!first) first = $2; last = $2 }
    END {
        printf "%d samples after %d s: first %.1f MiB, last %.1f MiB, lowest %.1f MiB, highest %.1f MiB, spread %.2f %% of the mean\n",
            n, from, first / 1024, last / 1024, low / 1024, high / 1024, 100 * (high - low) / (sum / n)
    }' "$run/memory.txt"
