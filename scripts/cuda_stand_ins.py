"""Builds stand-in CUDA libraries, over which the real CUDA provider of ONNX Runtime creates sessions without a GPU.

    python scripts/cuda_stand_ins.py PROVIDER_LIBRARY OUT

PROVIDER_LIBRARY is libonnxruntime_providers_cuda.so of onnxruntime-gpu; OUT becomes a folder for LD_LIBRARY_PATH.
Needs gcc and nm, and nothing of CUDA. What the stand-ins do stands in scripts/cuda_stand_ins.c.
"""

import pathlib
import re
import subprocess
import sys

SOURCE = pathlib.Path(__file__).with_suffix(".c")
# Functions that the provider finds by name when it runs, and libraries it only has to find.
BY_NAME = {
    "libcudnn.so.9": re.compile(rb"(?<![A-Za-z0-9_])cudnn[A-Z][A-Za-z]+(?![A-Za-z0-9_])"),
    "libcufft.so.12": re.compile(rb"(?<![A-Za-z0-9_])cufft[A-Z][A-Za-z0-9]+(?![A-Za-z0-9_])"),
}
ALWAYS = {
    "libcuda.so.1": ["cuTensorMapEncodeTiled", "cuGetErrorString", "cuGetErrorName", "cuInit", "cuDriverGetVersion", "cuDeviceGet", "cuCtxGetCurrent"],
    "libcurand.so.10": [],
}


def symbols(provider):
    wanted = {library: set(names) for library, names in ALWAYS.items()}
    listing = subprocess.run(["nm", "-D", "--undefined-only", provider], check=True, capture_output=True, text=True).stdout
    for name, library in re.findall(r"U (\w+)@+(lib(?:cu|nv)\w+\.so\.\d+)", listing):
        wanted.setdefault(library, set()).add(name)
    content = pathlib.Path(provider).read_bytes()
    for library, pattern in BY_NAME.items():
        wanted.setdefault(library, set()).update(name.decode() for name in pattern.findall(content))
    return wanted


def build(library, names, out):
    short = re.match(r"lib(\w+)\.so", library).group(1)
    defined = set(re.findall(r"\b(\w+)\(", subprocess.run(["gcc", "-E", f"-DLIB_{short}", SOURCE], check=True, capture_output=True, text=True).stdout))
    source = f'#include "{SOURCE}"\n'
    for name in sorted(names - defined):
        handle = name.startswith("cudnnCreate") or name.endswith("Create")
        source += f"HANDLE({name})\n" if handle else f"int {name}(void) {{ return 0; }}\n"
    (out / f"{library}.c").write_text(source)
    # The provider asks for the symbols in a version of the library's name.
    (out / f"{library}.map").write_text(f"{library} {{ global: *; }};\n")
    command = ["gcc", "-w", "-O1", "-fPIC", "-shared", f"-DLIB_{short}", f"-Wl,-soname,{library}", f"-Wl,--version-script,{out}/{library}.map"]
    subprocess.run([*command, "-o", out / library, out / f"{library}.c"], check=True)
    for leftover in ("c", "map"):
        (out / f"{library}.{leftover}").unlink()


def main(provider, out):
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    for library, names in symbols(provider).items():
        build(library, names, out)
        print(f"{out}/{library}: {len(names)} functions")


if __name__ == "__main__":
    main(*sys.argv[1:])
