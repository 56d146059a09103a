#!/usr/bin/env python3
"""Runs DIR/train_step.onnx in Python's stock onnxruntime: no native kernels, so the function bodies compute everything.

    graphgen export --preset models/cifar10-small.toml --out DIR
    python scripts/check_graphs.py DIR [--native FILE.safetensors]

Prints the loss and the norm of every gradient. With --native, compares them with a native run: FILE holds `loss`,
`grad/<parameter>`, and every graph input that the run was given (`crops/0`, …; parameters that it does not hold are
those of DIR/init.safetensors). Without it the crops come from a formula.

Exit 0 when the loss agrees to 1e-5 relative and the gradients to 1e-5 (median over the parameters of the relative L2
distance) and 1e-2 (maximum: the sign of one activation near zero can flip a ReLU and move a BatchNorm bias); 1 when
not. A bias in front of a BatchNorm has a gradient of zero in theory and rounding noise in practice: it only has to be
small beside its weight's gradient.
"""

import argparse
import json
import pathlib
import sys

import numpy as np
import onnx
import onnxruntime
from safetensors.numpy import load_file

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden"))
import formula

DTYPES = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8, "tensor(int64)": np.int64, "tensor(bool)": np.bool_}


def inputs_of(session, directory, native):
    weights = load_file(directory / "init.safetensors")
    feed = {}
    for spec in session.get_inputs():
        dtype, shape = DTYPES[spec.type], tuple(spec.shape)
        if spec.name in native:
            value, origin = native[spec.name], "the native run"
        elif spec.name in weights:
            value, origin = weights[spec.name], "init.safetensors"
        elif spec.name.startswith("crops/"):
            value, origin = formula.pixels(spec.name, shape), "the formula"
        elif spec.name.startswith("queue/"):
            value, origin = np.zeros(shape, dtype), "an empty queue"
        else:
            sys.exit(f"input {spec.name}: neither in init.safetensors nor in the native run")
        if value.shape != shape or value.dtype != dtype:
            sys.exit(f"input {spec.name}: expected {np.dtype(dtype)} {list(shape)}, "
                     f"got {value.dtype} {list(value.shape)} from {origin}")
        feed[spec.name] = value
    unknown = sorted(name for name in weights if name not in feed)
    if unknown:
        sys.exit(f"init.safetensors holds tensors that are no input of train_step.onnx: {', '.join(unknown)}")
    return feed


def relative(value, reference):
    scale = np.linalg.norm(reference.astype(np.float64))
    distance = np.linalg.norm(value.astype(np.float64) - reference.astype(np.float64))
    if scale == 0:
        return 0.0 if distance == 0 else np.inf
    return distance / scale


def zero_in_theory(manifest):
    """Parameters whose gradient vanishes: biases directly in front of a BatchNorm."""
    model = manifest["preset"]["model"]
    return {"projection_head.0.bias"} if model["hidden_mlp"] and model["projection_batch_norm"] else set()


def compare(outputs, native, noise_only):
    failures = []

    loss = relative(outputs["loss"], native["loss"].reshape(outputs["loss"].shape))
    print(f"loss: relative difference {loss:.2e} (limit 1e-5)")
    if not loss <= 1e-5:
        failures.append("the loss differs")

    gradients = [name for name in outputs if name.startswith("grad/")]
    missing = sorted(set(gradients) ^ {name for name in native if name.startswith("grad/")})
    if missing:
        failures.append(f"gradients on one side only: {', '.join(missing)}")
    distances = {}
    for name in gradients:
        if name not in native:
            continue
        parameter = name.removeprefix("grad/")
        if parameter in noise_only:
            weight = np.linalg.norm(native["grad/" + parameter.replace(".bias", ".weight")])
            norms = [np.linalg.norm(side[name]) for side in (outputs, native)]
            print(f"{parameter}: zero in theory, norms {norms[0]:.1e} and {norms[1]:.1e} beside {weight:.1e} of its weight")
            if max(norms) > 1e-4 * weight:
                failures.append(f"the gradient of {parameter} should vanish")
        else:
            distances[parameter] = relative(outputs[name], native[name])
    if distances:
        median = np.median(list(distances.values()))
        worst, maximum = max(distances.items(), key=lambda item: item[1])
        print(f"gradients of {len(distances)} parameters: median {median:.2e} (limit 1e-5), "
              f"maximum {maximum:.2e} in {worst} (limit 1e-2)")
        if not median <= 1e-5:
            failures.append("the median gradient differs")
        if not maximum <= 1e-2:
            failures.append(f"the gradient of {worst} differs")
    else:
        failures.append("no gradient to compare")

    for name in outputs:
        if name in native and name != "loss" and not name.startswith("grad/"):
            print(f"{name}: relative difference {relative(outputs[name], native[name].reshape(outputs[name].shape)):.2e}")
    return failures


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=pathlib.Path, help="what `graphgen export` wrote")
    parser.add_argument("--native", type=pathlib.Path, help="safetensors dump of a native run")
    parser.add_argument("--quiet", action="store_true", help="no norm for each gradient")
    options = parser.parse_args()

    for file in ("train_step.onnx", "init.safetensors", "manifest.json"):
        if not (options.directory / file).is_file():
            sys.exit(f"{options.directory} holds no {file}; `graphgen export --out {options.directory}` writes it")
    path = options.directory / "train_step.onnx"
    manifest = json.loads((options.directory / "manifest.json").read_text())
    model = onnx.load(path, load_external_data=False)
    bodies = sorted({function.name for function in model.functions})
    print(f"onnxruntime {onnxruntime.__version__}, {len(model.graph.node)} nodes, functions with bodies: {', '.join(bodies)}")

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    native = load_file(options.native) if options.native else {}
    names = [output.name for output in session.get_outputs()]
    outputs = dict(zip(names, session.run(names, inputs_of(session, options.directory, native))))

    if not options.quiet:
        for name, value in outputs.items():
            if name.startswith("grad/"):
                print(f"{name:48} {str(list(value.shape)):20} norm {np.linalg.norm(value):.6e}")
    print(f"loss {outputs['loss'].item():.8f} (ln K {np.log(outputs['scores'].shape[1]):.4f})" if "scores" in outputs
          else f"loss {outputs['loss'].item():.8f}")

    failures = [f"{name} is not finite" for name, value in outputs.items()
                if value.dtype.kind == "f" and not np.isfinite(value).all()]
    if native:
        failures += compare(outputs, native, zero_in_theory(manifest))
    for failure in failures:
        print(f"FAILED: {failure}", file=sys.stderr)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
