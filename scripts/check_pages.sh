#!/usr/bin/env bash
# Makes a small run, its report and its gallery, and clicks through both in headless Chromium: scripts/check_pages.mjs.
# Where Chromium or Node.js is missing, or playwright-core cannot be fetched, it says so and does nothing.
#
#   scripts/check_pages.sh [SWAV_RT [SCREENSHOTS]]
#
# playwright-core is fetched into target/playwright with npm, once; PLAYWRIGHT_FOLDER names a folder that has it already.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

skip() {
    echo "check_pages.sh: skipped, $*"
    exit 0
}
command -v node >/dev/null || skip "Node.js is not installed"
command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || skip "Chromium is not installed"
export PLAYWRIGHT_FOLDER=${PLAYWRIGHT_FOLDER:-${CARGO_TARGET_DIR:-target}/playwright}
if [ ! -e "$PLAYWRIGHT_FOLDER/node_modules/playwright-core" ]; then
    command -v npm >/dev/null || skip "npm is not installed"
    npm install --silent --no-audit --no-fund --prefix "$PLAYWRIGHT_FOLDER" playwright-core || skip "npm cannot fetch playwright-core"
fi

swav_rt=${1:-${CARGO_TARGET_DIR:-target}/debug/swav-rt}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$swav_rt" data synth --quiet --out "$folder/images" --images 900 --classes 6 --size 32
for epsilon in 0.03 0.05; do
    "$swav_rt" train --quiet --preset models/demo.toml --data "$folder/images" --out "$folder/epsilon-$epsilon" --set train.epochs=2 \
        --set train.batch_size=32 --set loss.epsilon=$epsilon --set model.nmb_prototypes=80 --set model.width=8 \
        --probe-train "$folder/images" --probe-test "$folder/images" --probe-limit 200
done
"$swav_rt" report --quiet --run "$folder/epsilon-0.03" "$folder/epsilon-0.05" --out "$folder/report.html"
"$swav_rt" clusters --quiet --run "$folder/epsilon-0.03" --data "$folder/images" --out "$folder/clusters"
node scripts/check_pages.mjs --gallery "$folder/clusters" --report "$folder/report.html" ${2:+--screenshots "$2"}
