#!/usr/bin/env bash
# A hundred runs of a tiny preset, each killed (SIGKILL) one to three times at random moments and resumed: all of them
# must end with the parameters, metrics and files of a run that was left alone.
# Usage: scripts/kill_test.sh [RUNS]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
library=$(ls "$PWD"/.ort/lib/libonnxruntime.so* 2>/dev/null | head -1 || true)
export ORT_DYLIB_PATH=${ORT_DYLIB_PATH:-$library}
KILL_RUNS=${1:-100} cargo test -p runtime --locked --test reliability runs_killed_at_any_moment -- --nocapture
