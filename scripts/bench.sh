#!/usr/bin/env bash
# The figures of docs/performance.md: images/s of the loader, ms/step of the training step.
#
#   scripts/bench.sh PHOTOS [SMALL]    PHOTOS: folder or .tar of photos; SMALL: of images up to 64 px
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ $# -lt 1 ] || [ $# -gt 2 ]; then
    echo "usage: scripts/bench.sh PHOTOS [SMALL]" >&2
    exit 2
fi
photos=$1
small=${2:-}

scripts/setup.sh
cargo build --release --locked
swav_rt=${CARGO_TARGET_DIR:-target}/release/swav-rt

measure() {
    printf '\n$ swav-rt %s\n' "$*"
    "$swav_rt" "$@"
}

echo "commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown), $(uname -sm), $(getconf _NPROCESSORS_ONLN) cores"
measure bench loader --data "$photos"
[ -z "$small" ] || measure bench loader --data "$small" --preset models/cifar10-small.toml
measure bench step --preset models/cifar10-small.toml
measure bench step --preset models/imagenet-resnet50-200ep-bs256.toml --set train.batch_size=4 --set loss.queue_length=0
