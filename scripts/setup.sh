#!/usr/bin/env bash
# Puts a pinned ONNX Runtime into the project's own folder .ort/lib, where the binaries and tests look for it.
#
#   scripts/setup.sh                          the stock ONNX Runtime, into .ort/lib
#   scripts/setup.sh --provider cuda          its CUDA build, into .ort/lib as well (Linux on x86-64); also runs on the CPU
#   scripts/setup.sh --engine training-api    its last training build, into .ort/training (Linux on x86-64; needs Rust)
#
# The library comes out of the official wheel of the PyPI package `onnxruntime`, or `onnxruntime-training-cpu`. Python is
# used to fetch and unpack it and for nothing else: any Python 3 with pip does, without root and without a virtual environment.
# --provider cuda --with-libraries fetches the CUDA and cuDNN libraries too, 2 GB in .ort/cuda, for machines that have only
# NVIDIA's driver. DirectML: docs/providers.md. Without options the script goes back to the CPU build.
# ORT_DYLIB_PATH=/path/to/libonnxruntime.so uses a library of your own instead.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

fail() {
    echo "setup.sh: $*" >&2
    exit 1
}

engine=stock
provider=cpu
with_libraries=
while [ $# -gt 0 ]; do
    case "$1 ${2:-}" in
        '--engine stock' | '--engine training-api') engine=$2 ;;
        '--provider cpu' | '--provider cuda') provider=$2 ;;
        '--provider '*) fail "expected --provider cpu or cuda, got '${2:-}'; docs/providers.md says how to set DirectML up" ;;
        '--with-libraries '*)
            with_libraries=yes
            shift
            continue
            ;;
        *) fail "expected --engine stock|training-api, --provider cpu|cuda or --with-libraries; got $*" ;;
    esac
    shift 2
done
[ "$provider" = cuda ] || [ -z "$with_libraries" ] || fail "--with-libraries goes with --provider cuda"
[ "$provider" = cpu ] || [ "$engine" = stock ] || fail "the training build is fetched for the CPU only; leave --provider out"

if [ -n "${ORT_DYLIB_PATH:-}" ]; then
    echo "ORT_DYLIB_PATH is set: $ORT_DYLIB_PATH is used, nothing is installed" >&2
    exit 0
fi

# Version and package, folder, platform tag of the wheel, library inside it, name without version, SHA-256 of the library.
# companions: further files of the wheel, each with its SHA-256.
companions=()
build=$engine
[ "$provider" = cpu ] || build=$provider
case "$build/$(uname -s)/$(uname -m)" in
    cuda/Linux/x86_64)
        version=1.31.1
        package=onnxruntime-gpu
        folder=.ort/lib
        platform=manylinux_2_28_x86_64
        library=libonnxruntime.so.1.31.1
        short=libonnxruntime.so
        sha256=5104254339ecadae808da771bd0b63b240f0dbd466514234905e54372435c303
        companions=(
            libonnxruntime_providers_shared.so 086ec1d5388f64153d9c63470d126693db9a182c8ce236d3a1119068471b8a0d
            libonnxruntime_providers_cuda.so d5290158115fa5569a3fe8f1f4037ee9b0e86658a96e52f852bbb7039aa88137
        )
        ;;
    cuda/*)
        fail "the CUDA build is published for Linux on x86-64; elsewhere set ORT_DYLIB_PATH to an ONNX Runtime with CUDA"
        ;;
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
if [ "$build" = stock ]; then
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
    # A CPU and a CUDA build may lie side by side; the name without a version is that of the one in use.
    [ -z "$short" ] || ln -sf "$library" "$root/$folder/$short"
    [ -z "$with_libraries" ] || fetch_cuda
    echo "$name is in place: $folder/${short:-libonnxruntime.so}" >&2
}

find_python() {
    for candidate in python3 python; do
        if command -v "$candidate" >/dev/null && "$candidate" -m pip --version >/dev/null 2>&1; then
            python=$candidate
            return
        fi
    done
    fail "Python 3 with pip is needed to fetch ONNX Runtime and was not found" \
        "(Debian, Ubuntu: apt install python3-pip); or set ORT_DYLIB_PATH to an ONNX Runtime library of your own"
}

# Temporary folders, removed however the script ends.
work='' wheels=''
trap 'rm -rf ${work:+"$work"} ${wheels:+"$wheels"}' EXIT

# NVIDIA's libraries into .ort/cuda.
fetch_cuda() {
    local into=$root/.ort/cuda
    if [ ! -f "$into/complete" ]; then
        find_python
        wheels=$(mktemp -d "$root/.ort/cuda.XXXXXX")
        echo "Fetching CUDA 13 and cuDNN 9" >&2
        "$python" -m pip download --quiet --only-binary=:all: --no-deps --dest "$wheels" "nvidia-cuda-runtime~=13.0" \
            "nvidia-cuda-nvrtc~=13.0" "nvidia-cublas~=13.0" "nvidia-cufft~=12.0" "nvidia-curand~=10.0" "nvidia-cudnn-cu13~=9.0" >&2 ||
            fail "pip could not fetch NVIDIA's libraries (its message is above)"
        for wheel in "$wheels"/*.whl; do
            "$python" -m zipfile -e "$wheel" "$wheels/unpacked"
        done
        mkdir -p "$into"
        find "$wheels/unpacked" -name '*.so*' -type f -exec mv -f {} "$into/" \;
        rm -rf "$wheels"
        wheels=''
        touch "$into/complete"
    fi
    echo "Let the system find CUDA: export LD_LIBRARY_PATH=$into\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}" >&2
}

# Whether a folder holds the library and its companions as they should be.
is_intact() {
    [ -f "$1/$library" ] && [ "$(sha256_of "$1/$library")" = "$sha256" ] || return 1
    local index
    for ((index = 0; index < ${#companions[@]}; index += 2)); do
        [ -f "$1/${companions[index]}" ] && [ "$(sha256_of "$1/${companions[index]}")" = "${companions[index + 1]}" ] || return 1
    done
}

if [ -f "$root/$folder/$library" ]; then
    if is_intact "$root/$folder"; then
        in_place
        exit 0
    fi
    echo "setup.sh: $folder/$library is damaged or another build; fetching it again" >&2
fi

find_python

# Everything happens in a temporary folder on the same file system; the last step is a rename.
mkdir -p "$root/$folder"
work=$(mktemp -d "$root/.ort/setup.XXXXXX")

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

is_intact "$work/wheel/onnxruntime/capi" ||
    fail "$library has the SHA-256 $(sha256_of "$fetched"), expected $sha256, or a file beside it is not as expected; nothing was installed"

for text in LICENSE ThirdPartyNotices.txt; do
    [ ! -f "$work/wheel/onnxruntime/$text" ] || mv -f "$work/wheel/onnxruntime/$text" "$root/$folder/$text"
done
for ((index = 0; index < ${#companions[@]}; index += 2)); do
    mv -f "$work/wheel/onnxruntime/capi/${companions[index]}" "$root/$folder/${companions[index]}"
done
chmod 755 "$fetched"
mv -f "$fetched" "$root/$folder/$library"
in_place
