"""The dearest operators of a training step, from ONNX Runtime's profiler: a table of their time on the provider.

    python scripts/profile_step.py GRAPHS [--provider cuda|cpu] [--steps 5] [--top 10]

GRAPHS is what graphgen export wrote; for the CPU provider with --target cpu, whose bodies are the fastest there. Needs onnxruntime (with --provider cuda onnxruntime-gpu), onnx and safetensors.
Functions run as their bodies; Sinkhorn-Knopp too.
"""

import argparse
import collections
import json
import pathlib
import tempfile

import numpy as np
import onnxruntime
from safetensors.numpy import load_file

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
TYPES = {"f32": np.float32, "u8": np.uint8, "i64": np.int64, "bool": np.bool_}


def inputs(manifest, weights):
    random = np.random.default_rng(0)
    values = {}
    for spec in manifest["train_step"]["inputs"]:
        name, dtype, shape = spec["name"], TYPES[spec["dtype"]], spec["shape"]
        if name.startswith("crops/"):
            values[name] = random.integers(0, 256, shape, dtype=np.uint8)
        elif name == "loss_scale":
            values[name] = np.full(shape, manifest["initial_loss_scale"], dtype)
        else:
            values[name] = weights.get(name, np.zeros(shape, dtype))
    return values


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graphs", type=pathlib.Path)
    parser.add_argument("--provider", choices=PROVIDERS, default="cuda")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--top", type=int, default=10)
    arguments = parser.parse_args()

    manifest = json.loads((arguments.graphs / "manifest.json").read_text())
    values = inputs(manifest, load_file(arguments.graphs / "init.safetensors"))
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(pathlib.Path(folder) / "profile")
        session = onnxruntime.InferenceSession(str(arguments.graphs / "train_step.onnx"), options, providers=[PROVIDERS[arguments.provider]])
        if session.get_providers()[0] != PROVIDERS[arguments.provider]:
            raise SystemExit(f"{PROVIDERS[arguments.provider]} is not available: {onnxruntime.get_available_providers()}")
        wanted = [spec["name"] for spec in manifest["train_step"]["outputs"] if spec["name"] == "loss" or spec["name"].startswith(("grad/", "next/"))]
        for _ in range(1 + arguments.steps):
            session.run(wanted, values)
        events = json.loads(pathlib.Path(session.end_profiling()).read_text())

    times, calls = collections.Counter(), collections.Counter()
    for event in events:
        operator = event.get("args", {}).get("op_name")
        # On a GPU a node's time is that of its launch; kernels have events of their own.
        if operator and (event["cat"] == "Kernel" or (arguments.provider == "cpu" and event["name"].endswith("_kernel_time"))):
            times[operator] += event["dur"]
            calls[operator] += 1
    total = sum(times.values())
    if not total:
        raise SystemExit("the profile holds no kernel times; is this build of ONNX Runtime one with CUPTI?")
    for operator, time in times.most_common(arguments.top):
        print(f"{operator:24} {100 * time / total:5.1f} %  {time / 1e3 / (1 + arguments.steps):9.2f} ms a step  {calls[operator] // (1 + arguments.steps):6d} calls")


if __name__ == "__main__":
    main()
