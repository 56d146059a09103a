#!/usr/bin/env bash
# Everything that CI checks: formatting, lints, tests, documentation. Needs no network once it has run.
#
# scripts/test.sh --cuda-placement runs another test alone: where the real CUDA provider puts the nodes of the training
# graphs, over stand-in CUDA libraries, without a GPU. It fetches the CUDA build of ONNX Runtime (250 MB) into .ort/lib
# and goes back to the CPU build; CUDA_PROVIDER_FOLDER=/path names a folder that holds the build's libraries already.
#
# scripts/test.sh --sanitize runs the native kernels' tests alone, with AddressSanitizer: reads and writes outside of tensors.
# It needs a nightly Rust (`rustup toolchain install nightly`) and builds in target/sanitize.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

step() { printf '\n== %s\n' "$*"; }

if [ "${1:-}" = --cuda-placement ]; then
    libraries=${CUDA_PROVIDER_FOLDER:-}
    if [ -z "$libraries" ]; then
        step "setup"
        ORT_DYLIB_PATH='' scripts/setup.sh --provider cuda
        trap 'ORT_DYLIB_PATH= scripts/setup.sh' EXIT
        libraries=$PWD/.ort/lib
    fi
    step "stand-in CUDA libraries"
    stand_ins=$(mktemp -d)
    python3 scripts/cuda_stand_ins.py "$libraries/libonnxruntime_providers_cuda.so" "$stand_ins"
    step "placement"
    ORT_DYLIB_PATH=$(ls "$libraries"/libonnxruntime.so.*) LD_LIBRARY_PATH=$stand_ins \
        cargo test -p tests --locked --test cuda_placement -- --ignored --nocapture
    rm -rf "$stand_ins"
    exit 0
fi

if [ "${1:-}" = --sanitize ]; then
    step "setup"
    scripts/setup.sh
    step "native kernels with AddressSanitizer"
    # With the target named, build scripts and procedural macros stay without the sanitizer.
    host=$(rustc -vV | sed -n 's/^host: //p')
    RUSTFLAGS=-Zsanitizer=address CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/sanitize \
        cargo +nightly test -p runtime --lib --locked --target "$host" kernels::
    exit 0
fi

step "setup"
scripts/setup.sh
# The training build is published for this platform alone; elsewhere its tests are skipped.
if [ "$(uname -s)/$(uname -m)" = Linux/x86_64 ]; then
    scripts/setup.sh --engine training-api
fi

step "shell scripts"
for script in scripts/*.sh .ci/run; do
    bash -n "$script"
done

step "cargo fmt"
cargo fmt --all --check

step "cargo clippy"
cargo clippy --workspace --all-targets --locked -- -D warnings

step "cargo test"
cargo test --workspace --locked

step "gallery and report in a browser"
scripts/check_pages.sh

step "cargo doc"
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

step "all checks passed"
