#!/usr/bin/env python3
"""Trains with DIR/training_api in Microsoft's own Python training API: no native kernels, so the function bodies compute.

    graphgen export --preset models/cifar10-small.toml --set train.batch_size=16 --training-api --out DIR
    python3.11 -m venv .venv-training
    .venv-training/bin/pip install onnxruntime-training-cpu==1.19.2 'numpy<2' onnx==1.16.2
    .venv-training/bin/python scripts/check_training_api.py DIR [--steps 5] [--learning-rate 0.1]

Loads the checkpoint, takes steps on one batch of random pixels, runs the evaluation model, saves the checkpoint with the
optimizer's state and goes on from the saved one beside the first session. Exit 0 when every loss is finite, the last is
below the first, the prototypes have rows of length 1, and both sessions go on with the same loss; 1 when not.
"""

import argparse
import json
import os
import pathlib
import sys
import tempfile
import types

import numpy as np
import onnxruntime

# The package `onnxruntime.training` imports PyTorch for its other parts; its `api` needs none of them.
package = types.ModuleType("onnxruntime.training")
package.__path__ = [os.path.join(path, "training") for path in onnxruntime.__path__]
sys.modules["onnxruntime.training"] = package
from onnxruntime.training.api import CheckpointState, Module, Optimizer  # noqa: E402

DTYPES = {"u8": np.uint8, "f32": np.float32, "i64": np.int64, "bool": np.bool_}


class Session:
    """A training session from a checkpoint."""

    def __init__(self, folder, checkpoint, learning_rate):
        self.state = CheckpointState.load_checkpoint(str(checkpoint))
        self.module = Module(str(folder / "training_model.onnx"), self.state, str(folder / "eval_model.onnx"))
        self.optimizer = Optimizer(str(folder / "optimizer_model.onnx"), self.module)
        self.learning_rate = learning_rate

    def step(self, inputs):
        self.module.train()
        outputs = self.module(*inputs)
        self.optimizer.set_learning_rate(self.learning_rate)
        self.optimizer.step()
        self.module.lazy_reset_grad()
        return outputs


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--learning-rate", type=float, default=0.1)
    arguments = parser.parse_args()
    manifest = json.loads((arguments.directory / "manifest.json").read_text())
    folder, spec = arguments.directory / "training_api", manifest["training_api"]
    random = np.random.default_rng(1)
    inputs = []
    for tensor in spec["inputs"]:
        shape, dtype = tensor["shape"], DTYPES[tensor["dtype"]]
        inputs.append(random.integers(0, 256, shape, dtype=dtype) if tensor["name"].startswith("crops/") else np.zeros(shape, dtype))
    print(f"onnxruntime {onnxruntime.__version__}, inputs {[tensor['name'] for tensor in spec['inputs']]}")

    session = Session(folder, folder / "checkpoint", arguments.learning_rate)
    names = [tensor["name"] for tensor in spec["outputs"]]
    losses = []
    for step in range(arguments.steps):
        outputs = dict(zip(names, session.step(inputs), strict=True))
        losses.append(float(outputs["loss"][0]))
        scalars = {name.removeprefix("stats/"): round(float(outputs[name][0]), 4) for name in names if name.startswith("stats/")}
        print(f"step {step}: loss {losses[-1]:.6f}, {scalars}")

    prototypes = [parameter for name, parameter in session.state.parameters if name.startswith("prototypes")]
    # The update has moved them; before it they had length 1.
    lengths = np.concatenate([np.linalg.norm(parameter.data, axis=1) for parameter in prototypes])
    print(f"lengths of the prototypes {lengths.min():.4f} to {lengths.max():.4f}")

    session.module.eval()
    size = manifest["preset"]["crops"]["size_crops"][0]
    features, embedding = session.module(random.integers(0, 256, (3, 3, size, size), dtype=np.uint8))
    print(f"evaluation: features {features.shape}, embeddings {embedding.shape} of length {np.linalg.norm(embedding, axis=1).round(5)}")

    with tempfile.TemporaryDirectory() as saved:
        CheckpointState.save_checkpoint(session.state, os.path.join(saved, "checkpoint"), include_optimizer_state=True)
        again = Session(folder, pathlib.Path(saved) / "checkpoint", arguments.learning_rate)
    both = [[float(one.step(inputs)[0][0]) for _ in range(3)] for one in (session, again)]
    print(f"going on: losses {both[0]}, from the saved checkpoint {both[1]}")

    good = np.isfinite(losses).all() and losses[-1] < losses[0] and np.allclose(lengths, 1, atol=0.1)
    good = good and np.allclose(np.linalg.norm(embedding, axis=1), 1, atol=1e-4) and np.allclose(both[0], both[1], rtol=1e-6)
    print("the artifacts train" if good else "something is wrong", file=sys.stdout if good else sys.stderr)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
