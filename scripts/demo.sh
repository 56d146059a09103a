#!/usr/bin/env bash
# From images to encoder.onnx in under ten minutes on two CPU cores, the build included.
#
#   scripts/demo.sh            trains on a procedural data set that it makes itself
#   scripts/demo.sh FOLDER     trains on your images: a folder of any shape, or a .tar
#   scripts/demo.sh --engine training-api [FOLDER]     the same through ONNX Runtime's training API (Linux on x86-64)
#
# Leaves the run in runs/demo (encoder.onnx, checkpoints, metrics.jsonl) and moves an earlier one aside.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

preset=models/demo.toml
run=runs/demo
data=runs/demo-data
train_images=5000
test_images=1000
started=$(date +%s)

fail() {
    echo "demo.sh: $*" >&2
    exit 1
}
say() { printf '\n== %s\n' "$*"; }

case "${1:-}" in -h | --help)
    sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 0
    ;;
esac
engine=stock
if [ "${1:-}" = --engine ]; then
    engine=${2:-}
    case "$engine" in
        stock | training-api) shift 2 ;;
        *) fail "--engine: expected stock or training-api, got ${2:-nothing}" ;;
    esac
fi
[ $# -le 1 ] || fail "expected at most one argument, the folder with your images; got $#"
command -v cargo >/dev/null || fail "Rust is needed to build the project: https://rustup.rs"

images_in() { find -L "$1" -mindepth 1 -name '.*' -prune -o -type f \( -iname '*.jpg' -o -iname '*.jpeg' -o -iname '*.png' -o -iname '*.bmp' \
    -o -iname '*.gif' -o -iname '*.webp' -o -iname '*.tif' -o -iname '*.tiff' \) -print; }

# Settings for the user's images, found before anything is built: `settings` for train, `classes` for the kNN.
settings=()
classes=no
own=${1:-}
if [ -n "$own" ]; then
    [ -e "$own" ] || fail "$own: no such folder or .tar"
    own=$(cd "$(dirname "$own")" && pwd)/$(basename "$own")
    if [ -d "$own" ]; then
        list=$(mktemp)
        trap 'rm -f "$list"' EXIT
        images_in "$own" | sort >"$list"
        count=$(wc -l <"$list" | tr -d ' ')
        bytes=$(awk 'NR <= 500' "$list" | while IFS= read -r file; do wc -c <"$file"; done |
            awk '{ sum += $1 } END { print (NR ? int(sum / NR) : 0) }')
        folders=$(sed 's|/[^/]*$||' "$list" | sort -u)
        if [ "$(printf '%s\n' "$folders" | grep -c .)" -ge 2 ] && ! printf '%s\n' "$folders" | grep -qxF "$own"; then
            classes=yes
        fi
    else
        count=$(tar tf "$own" | grep -icE '\.(jpe?g|png|bmp|gif|webp|tiff?)$' || true)
        bytes=$(($(wc -c <"$own") / (count > 0 ? count : 1)))
    fi
    [ "$count" -ge 16 ] || fail "$own holds $count images; at least 16 are needed, and thousands to learn something"

    # About 200 seconds of training, estimated for two cores: a step costs 3 ms an image, decoding 12 ms a megabyte.
    # Small sets are seen more often, huge ones are sampled.
    read -r batch limit epochs <<<"$(awk -v count="$count" -v bytes="$bytes" 'BEGIN {
        batch = 128; while (batch > count) batch /= 2
        samples = int(200000 / (3 + 12 * bytes / 1e6)); if (samples < 8 * batch) samples = 8 * batch
        limit = count < samples ? count : samples
        epochs = int(samples / limit); if (epochs < 1) epochs = 1; if (epochs > 200) epochs = 200
        print batch, limit, epochs }')"
    settings=(--set "train.batch_size=$batch" --set "data.limit=$limit" --set "train.epochs=$epochs" --set "train.checkpoint_every_epochs=$(((epochs + 3) / 4))")
    echo "$own: $count images; training on $limit of them for $epochs epochs in batches of $batch"
    [ "$count" -ge 1000 ] || echo "Fewer than 1,000 images teach little: take this as a check that everything works."
fi

say "ONNX Runtime"
scripts/setup.sh
[ "$engine" = stock ] || scripts/setup.sh --engine "$engine"

say "Building"
cargo build --release --locked
swav_rt=${CARGO_TARGET_DIR:-target}/release/swav-rt

if [ -e "$run" ]; then
    aside=$run-$(date +%Y%m%d-%H%M%S)
    mv "$run" "$aside"
    echo "The earlier run is now $aside"
fi

# The images to train on, and the labelled ones of the kNN.
if [ -z "$own" ]; then
    say "Making images"
    rm -rf "$data"
    "$swav_rt" data synth --out "$data/train" --images "$train_images" --seed 1
    "$swav_rt" data synth --out "$data/test" --images "$test_images" --seed 2
    images=$data/train bank=$data/train test=$data/test
else
    images=$own bank='' test=''
    if [ "$classes" = yes ]; then
        # Every fifth image (at most 500) is asked about, others (at most 2,000) answer; both are links.
        rm -rf "$data"
        every=$((count / 2500 + 1))
        number=0
        while IFS= read -r file; do
            number=$((number + 1))
            part=train
            [ $((number % 5)) -ne 0 ] || part='test'
            class=${file%/*}
            class=${class##*/}
            mkdir -p "$data/$part/$class"
            ln -s "$file" "$data/$part/$class/$number-${file##*/}"
        done < <(awk -v every="$every" 'NR % every == 0' "$list")
        bank=$data/train test=$data/test
    fi
fi

say "The untrained encoder"
rm -rf "$run-untrained"
"$swav_rt" train --engine "$engine" --preset "$preset" ${settings[@]+"${settings[@]}"} --data "$images" --out "$run-untrained" --max-steps 0
"$swav_rt" export --run "$run-untrained" --out "$run-untrained/encoder.onnx"

say "Training"
"$swav_rt" train --engine "$engine" --preset "$preset" ${settings[@]+"${settings[@]}"} --data "$images" --out "$run"
"$swav_rt" export --run "$run" --out "$run/encoder.onnx"

if [ -n "$bank" ]; then
    say "kNN accuracy, untrained"
    "$swav_rt" eval knn --encoder "$run-untrained/encoder.onnx" --train "$bank" --test "$test"
    say "kNN accuracy, trained"
    "$swav_rt" eval knn --encoder "$run/encoder.onnx" --train "$bank" --test "$test"
    [ -z "$own" ] || echo "(The images asked about were trained on too, but without their labels.)"
else
    say "No kNN accuracy"
    echo "It needs labels: a folder with one folder of images for each class. Training does not."
fi

seconds=$(($(date +%s) - started))
say "Done in $((seconds / 60)) min $((seconds % 60)) s: $run/encoder.onnx"
cat <<TEXT
It takes 8-bit RGB images [N, 3, H, W] of any size from 32 px and gives features and embeddings, in any ONNX Runtime.

Next:
  features of your images   $swav_rt embed --encoder $run/encoder.onnx --data FOLDER --out features.npy
  the course of the run     $run/metrics.jsonl
  images of your own        scripts/demo.sh FOLDER
  a real training run       $swav_rt train --preset models/cifar10-resnet18.toml --data FOLDER --out runs/mine
  use it from other stacks  README.md, "Use the encoder"
TEXT
