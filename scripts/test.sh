#!/usr/bin/env bash
# Everything that CI checks: formatting, lints, tests, documentation. Needs no network once it has run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

step() { printf '\n== %s\n' "$*"; }

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
