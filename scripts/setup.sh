#!/usr/bin/env bash
# Puts a pinned ONNX Runtime into the project's own folder .ort/lib, where the binaries and tests look for it.
#
# The library comes out of the official wheel of the PyPI package `onnxruntime`. Python is used to fetch and unpack it
# and for nothing else: any Python 3 with pip does, without root and without a virtual environment.
# ORT_DYLIB_PATH=/path/to/libonnxruntime.so uses a library of your own instead.
#
# setup.sh --provider cuda takes the CUDA build (PyPI package `onnxruntime-gpu`, Linux on x86_64) instead, which also runs
# on the CPU; with --with-libraries the CUDA and cuDNN libraries as well, 2 GB in .ort/cuda, for machines that have only
# NVIDIA's driver. setup.sh without options goes back to the CPU build. DirectML: docs/providers.md.
set -euo pipefail

version=1.32.0
package=onnxruntime
provider=cpu
with_libraries=
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
folder=$root/.ort/lib

fail() {
    echo "setup.sh: $*" >&2
    exit 1
}

while [ $# -gt 0 ]; do
    case "$1" in
        --provider)
            provider=${2:-}
            shift $(($# > 1 ? 2 : 1))
            ;;
        --with-libraries)
            with_libraries=yes
            shift
            ;;
        *) fail "expected --provider cpu|cuda and --with-libraries, got $1" ;;
    esac
done
case "$provider" in
    cpu) [ -z "$with_libraries" ] || fail "--with-libraries goes with --provider cuda" ;;
    cuda) ;;
    *) fail "expected --provider cpu or cuda, got '$provider'; docs/providers.md says how to set DirectML up" ;;
esac

if [ -n "${ORT_DYLIB_PATH:-}" ]; then
    echo "ORT_DYLIB_PATH is set: $ORT_DYLIB_PATH is used, nothing is installed" >&2
    exit 0
fi

# Platform tag of the wheel, library inside it, short name, SHA-256 of the library.
case "$(uname -s)/$(uname -m)" in
    Linux/x86_64)
        platform=manylinux_2_28_x86_64
        library=libonnxruntime.so.$version
        short=libonnxruntime.so
        sha256=6c1585d1bbf45b0712ea4a21b705c5fcb4ba04ff2e30f1fbf81a49faf658638f
        ;;
    Linux/aarch64 | Linux/arm64)
        platform=manylinux_2_28_aarch64
        library=libonnxruntime.so.$version
        short=libonnxruntime.so
        sha256=49852228a93995158b2a813d4df487d47a1b76b0eaa894507ef49e91b6d7954a
        ;;
    Darwin/arm64)
        platform=macosx_14_0_arm64
        library=libonnxruntime.$version.dylib
        short=libonnxruntime.dylib
        sha256=fa585fabbea65b823b9a8f7e27d46aee3989d1be7e36b528203d3a1fd613aae7
        ;;
    *)
        fail "no ONNX Runtime $version is published for $(uname -s) on $(uname -m);" \
            "set ORT_DYLIB_PATH to an ONNX Runtime library of your own"
        ;;
esac

# Further files of the wheel, with their SHA-256.
companions=()
if [ "$provider" = cuda ]; then
    [ "$(uname -s)/$(uname -m)" = Linux/x86_64 ] ||
        fail "the CUDA build is published for Linux on x86_64; elsewhere set ORT_DYLIB_PATH to an ONNX Runtime with CUDA"
    version=1.31.1
    package=onnxruntime-gpu
    platform=manylinux_2_28_x86_64
    library=libonnxruntime.so.$version
    short=libonnxruntime.so
    sha256=5104254339ecadae808da771bd0b63b240f0dbd466514234905e54372435c303
    companions=(
        libonnxruntime_providers_shared.so 086ec1d5388f64153d9c63470d126693db9a182c8ce236d3a1119068471b8a0d
        libonnxruntime_providers_cuda.so d5290158115fa5569a3fe8f1f4037ee9b0e86658a96e52f852bbb7039aa88137
    )
fi

sha256_of() {
    if command -v sha256sum >/dev/null; then
        sha256sum "$1" | cut -d ' ' -f 1
    else
        shasum -a 256 "$1" | cut -d ' ' -f 1
    fi
}

# What is fetched and what is there already: a file with the expected hash.
is_intact() { [ -f "$1" ] && [ "$(sha256_of "$1")" = "$2" ]; }

all_intact() {
    is_intact "$1/$library" "$sha256" || return 1
    local index
    for ((index = 0; index < ${#companions[@]}; index += 2)); do
        is_intact "$1/${companions[index]}" "${companions[index + 1]}" || return 1
    done
}

# NVIDIA's libraries, if asked for.
fetch_libraries() {
    [ -n "$with_libraries" ] || return 0
    local into=$root/.ort/cuda
    if [ -f "$into/complete" ]; then
        echo "CUDA and cuDNN are in place: .ort/cuda" >&2
    else
        local wheels
        wheels=$(mktemp -d "$root/.ort/cuda.XXXXXX")
        echo "Fetching CUDA 13 and cuDNN 9" >&2
        "$python" -m pip download --quiet --only-binary=:all: --no-deps --dest "$wheels" \
            "nvidia-cuda-runtime~=13.0" "nvidia-cuda-nvrtc~=13.0" "nvidia-cublas~=13.0" "nvidia-cufft~=12.0" \
            "nvidia-curand~=10.0" "nvidia-cudnn-cu13~=9.0" >&2 || fail "pip could not fetch NVIDIA's libraries (its message is above)"
        mkdir -p "$into"
        for wheel in "$wheels"/*.whl; do
            "$python" -m zipfile -e "$wheel" "$wheels/unpacked"
        done
        find "$wheels/unpacked" -name '*.so*' -type f -exec mv -f {} "$into/" \;
        rm -rf "$wheels"
        touch "$into/complete"
    fi
    echo "Let the system find them: export LD_LIBRARY_PATH=$into\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}" >&2
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

if [ -f "$folder/$library" ]; then
    if all_intact "$folder"; then
        ln -sf "$library" "$folder/$short"
        echo "ONNX Runtime $version is in place: .ort/lib/$library" >&2
        [ -z "$with_libraries" ] || { find_python && fetch_libraries; }
        exit 0
    fi
    echo "setup.sh: .ort/lib/$library is damaged or another build; fetching it again" >&2
fi

find_python

# Everything happens in a temporary folder on the same file system; the last step is a rename.
mkdir -p "$folder"
work=$(mktemp -d "$root/.ort/setup.XXXXXX")
trap 'rm -rf "$work"' EXIT

echo "Fetching ONNX Runtime $version for $platform" >&2
PIP_REQUIRE_VIRTUALENV=0 PIP_DISABLE_PIP_VERSION_CHECK=1 "$python" -m pip download --quiet \
    --only-binary=:all: --no-deps --python-version 3.11 --implementation cp --abi cp311 --platform "$platform" \
    --dest "$work" "$package==$version" >&2 ||
    fail "pip could not fetch $package $version (its message is above). Without a network, set ORT_DYLIB_PATH to an" \
        "ONNX Runtime library, or copy $library from another machine into .ort/lib/"

wheels=("$work"/onnxruntime*.whl)
[ -f "${wheels[0]}" ] || fail "pip fetched no wheel of $package $version for $platform"
"$python" -m zipfile -e "${wheels[0]}" "$work/wheel" || fail "the wheel ${wheels[0]##*/} cannot be unpacked"
fetched=$work/wheel/onnxruntime/capi/$library
[ -f "$fetched" ] || fail "the wheel ${wheels[0]##*/} holds no onnxruntime/capi/$library"

all_intact "$work/wheel/onnxruntime/capi" ||
    fail "the files of ${wheels[0]##*/} are not the expected ones ($library has the SHA-256 $(sha256_of "$fetched"), expected $sha256);" \
        "nothing was installed"

for text in LICENSE ThirdPartyNotices.txt; do
    [ ! -f "$work/wheel/onnxruntime/$text" ] || mv -f "$work/wheel/onnxruntime/$text" "$folder/$text"
done
chmod 755 "$fetched"
for ((index = 0; index < ${#companions[@]}; index += 2)); do
    mv -f "$work/wheel/onnxruntime/capi/${companions[index]}" "$folder/${companions[index]}"
done
mv -f "$fetched" "$folder/$library"
ln -sf "$library" "$folder/$short"
echo "ONNX Runtime $version is in place: .ort/lib/$library" >&2
fetch_libraries
