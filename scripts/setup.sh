#!/usr/bin/env bash
# Puts a pinned ONNX Runtime into the project's own folder .ort/lib, where the binaries and tests look for it.
#
# The library comes out of the official wheel of the PyPI package `onnxruntime`. Python is used to fetch and unpack it
# and for nothing else: any Python 3 with pip does, without root and without a virtual environment.
# ORT_DYLIB_PATH=/path/to/libonnxruntime.so uses a library of your own instead.
set -euo pipefail

version=1.32.0
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
folder=$root/.ort/lib

fail() {
    echo "setup.sh: $*" >&2
    exit 1
}

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

sha256_of() {
    if command -v sha256sum >/dev/null; then
        sha256sum "$1" | cut -d ' ' -f 1
    else
        shasum -a 256 "$1" | cut -d ' ' -f 1
    fi
}

if [ -f "$folder/$library" ]; then
    if [ "$(sha256_of "$folder/$library")" = "$sha256" ]; then
        echo "ONNX Runtime $version is in place: .ort/lib/$library" >&2
        exit 0
    fi
    echo "setup.sh: .ort/lib/$library is damaged or another build; fetching it again" >&2
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
mkdir -p "$folder"
work=$(mktemp -d "$root/.ort/setup.XXXXXX")
trap 'rm -rf "$work"' EXIT

echo "Fetching ONNX Runtime $version for $platform" >&2
PIP_REQUIRE_VIRTUALENV=0 PIP_DISABLE_PIP_VERSION_CHECK=1 "$python" -m pip download --quiet \
    --only-binary=:all: --no-deps --python-version 3.11 --implementation cp --abi cp311 --platform "$platform" \
    --dest "$work" "onnxruntime==$version" >&2 ||
    fail "pip could not fetch onnxruntime $version (its message is above). Without a network, set ORT_DYLIB_PATH to an" \
        "ONNX Runtime library, or copy $library from another machine into .ort/lib/"

wheels=("$work"/onnxruntime-*.whl)
[ -f "${wheels[0]}" ] || fail "pip fetched no wheel of onnxruntime $version for $platform"
"$python" -m zipfile -e "${wheels[0]}" "$work/wheel" || fail "the wheel ${wheels[0]##*/} cannot be unpacked"
fetched=$work/wheel/onnxruntime/capi/$library
[ -f "$fetched" ] || fail "the wheel ${wheels[0]##*/} holds no onnxruntime/capi/$library"

actual=$(sha256_of "$fetched")
[ "$actual" = "$sha256" ] || fail "$library has the SHA-256 $actual, expected $sha256; nothing was installed"

for text in LICENSE ThirdPartyNotices.txt; do
    [ ! -f "$work/wheel/onnxruntime/$text" ] || mv -f "$work/wheel/onnxruntime/$text" "$folder/$text"
done
chmod 755 "$fetched"
mv -f "$fetched" "$folder/$library"
ln -sf "$library" "$folder/$short"
echo "ONNX Runtime $version is in place: .ort/lib/$library" >&2
