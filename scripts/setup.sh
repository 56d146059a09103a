#!/usr/bin/env bash
# Puts a pinned ONNX Runtime into the project's own folder .ort/lib, where the binaries and tests look for it.
#
#   scripts/setup.sh                          the stock ONNX Runtime, into .ort/lib
#   scripts/setup.sh --engine training-api    its last training build, into .ort/training (Linux on x86-64; needs Rust)
#
# The library comes out of the official wheel of the PyPI package `onnxruntime`, or `onnxruntime-training-cpu`. Python is
# used to fetch and unpack it and for nothing else: any Python 3 with pip does, without root and without a virtual environment.
# ORT_DYLIB_PATH=/path/to/libonnxruntime.so uses a library of your own instead.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

fail() {
    echo "setup.sh: $*" >&2
    exit 1
}

engine=stock
case "${1:-} ${2:-}" in
    ' ') ;;
    '--engine stock' | '--engine training-api') engine=$2 ;;
    *) fail "expected nothing, or --engine stock|training-api; got $*" ;;
esac
[ $# -le 2 ] || fail "expected nothing, or --engine stock|training-api; got $*"

if [ -n "${ORT_DYLIB_PATH:-}" ]; then
    echo "ORT_DYLIB_PATH is set: $ORT_DYLIB_PATH is used, nothing is installed" >&2
    exit 0
fi

# Version and package, folder, platform tag of the wheel, library inside it, name without version, SHA-256 of the library.
case "$engine/$(uname -s)/$(uname -m)" in
    training-api/Linux/x86_64)
        version=1.19.2
        package=onnxruntime-training-cpu
        folder=.ort/training
        platform=manylinux_2_28_x86_64
        library=onnxruntime_pybind11_state.cpython-311-x86_64-linux-gnu.so
        short=
        sha256=637012bc7b9b9e8a00b006be918091d04d143ca5c57ee820584478a15298d0ee
        ;;
    training-api/*)
        fail "ONNX Runtime's training build is fetched for Linux on x86-64 only; docs/training-api.md says what to do on" \
            "$(uname -s) on $(uname -m)"
        ;;
    stock/Linux/x86_64)
        platform=manylinux_2_28_x86_64
        library=libonnxruntime.so.1.32.0
        short=libonnxruntime.so
        sha256=6c1585d1bbf45b0712ea4a21b705c5fcb4ba04ff2e30f1fbf81a49faf658638f
        ;;
    stock/Linux/aarch64 | stock/Linux/arm64)
        platform=manylinux_2_28_aarch64
        library=libonnxruntime.so.1.32.0
        short=libonnxruntime.so
        sha256=49852228a93995158b2a813d4df487d47a1b76b0eaa894507ef49e91b6d7954a
        ;;
    stock/Darwin/arm64)
        platform=macosx_14_0_arm64
        library=libonnxruntime.1.32.0.dylib
        short=libonnxruntime.dylib
        sha256=fa585fabbea65b823b9a8f7e27d46aee3989d1be7e36b528203d3a1fd613aae7
        ;;
    *)
        fail "no ONNX Runtime is fetched for $(uname -s) on $(uname -m);" \
            "set ORT_DYLIB_PATH to an ONNX Runtime library of your own"
        ;;
esac
if [ "$engine" = stock ]; then
    version=1.32.0
    package=onnxruntime
    folder=.ort/lib
fi
name="ONNX Runtime $version ($package)"

sha256_of() {
    if command -v sha256sum >/dev/null; then
        sha256sum "$1" | cut -d ' ' -f 1
    else
        shasum -a 256 "$1" | cut -d ' ' -f 1
    fi
}

# The training build's own library exports nothing but Python's entry point; the one beside it finds the C interface in it.
build_shim() {
    command -v cargo >/dev/null || fail "Rust is needed to build the training build's C interface: https://rustup.rs"
    (cd "$root" && cargo build --quiet --release --locked --package onnxruntime-training-shim) ||
        fail "the package onnxruntime-training-shim cannot be built (cargo's message is above)"
    local built=${CARGO_TARGET_DIR:-target}/release/libonnxruntime_training_shim.so
    case $built in /*) ;; *) built=$root/$built ;; esac
    cp "$built" "$root/$folder/libonnxruntime.so.tmp"
    mv -f "$root/$folder/libonnxruntime.so.tmp" "$root/$folder/libonnxruntime.so"
}
in_place() {
    [ "$engine" = stock ] || build_shim
    echo "$name is in place: $folder/${short:-libonnxruntime.so}" >&2
}

if [ -f "$root/$folder/$library" ]; then
    if [ "$(sha256_of "$root/$folder/$library")" = "$sha256" ]; then
        in_place
        exit 0
    fi
    echo "setup.sh: $folder/$library is damaged or another build; fetching it again" >&2
fi

python=
for candidate in python3 python; do
    if command -v "$candidate" >/dev/null && "$candidate" -m pip --version >/dev/null 2>&1; then
        python=$candidate
        break
    fi
done
[ -n "$python" ] || fail "Python 3 with pip is needed to fetch ONNX Runtime and was not found" \
    "(Debian, Ubuntu: apt install python3-pip); or set ORT_DYLIB_PATH to an ONNX Runtime library of your own"

# Everything happens in a temporary folder on the same file system; the last step is a rename.
mkdir -p "$root/$folder"
work=$(mktemp -d "$root/.ort/setup.XXXXXX")
trap 'rm -rf "$work"' EXIT

echo "Fetching $name for $platform" >&2
PIP_REQUIRE_VIRTUALENV=0 PIP_DISABLE_PIP_VERSION_CHECK=1 "$python" -m pip download --quiet \
    --only-binary=:all: --no-deps --python-version 3.11 --implementation cp --abi cp311 --platform "$platform" \
    --dest "$work" "$package==$version" >&2 ||
    fail "pip could not fetch $package $version (its message is above). Without a network, set ORT_DYLIB_PATH to an" \
        "ONNX Runtime library, or copy $library from another machine into $folder/"

wheels=("$work"/*.whl)
[ -f "${wheels[0]}" ] || fail "pip fetched no wheel of $package $version for $platform"
"$python" -m zipfile -e "${wheels[0]}" "$work/wheel" || fail "the wheel ${wheels[0]##*/} cannot be unpacked"
fetched=$work/wheel/onnxruntime/capi/$library
[ -f "$fetched" ] || fail "the wheel ${wheels[0]##*/} holds no onnxruntime/capi/$library"

actual=$(sha256_of "$fetched")
[ "$actual" = "$sha256" ] || fail "$library has the SHA-256 $actual, expected $sha256; nothing was installed"

for text in LICENSE ThirdPartyNotices.txt; do
    [ ! -f "$work/wheel/onnxruntime/$text" ] || mv -f "$work/wheel/onnxruntime/$text" "$root/$folder/$text"
done
chmod 755 "$fetched"
mv -f "$fetched" "$root/$folder/$library"
[ -z "$short" ] || ln -sf "$library" "$root/$folder/$short"
in_place
