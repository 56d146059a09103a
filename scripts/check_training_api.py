#!/usr/bin/env python3
"""Trains with DIR/training_api in Microsoft's own Python training API: no native kernels, so the function bodies compute.

    graphgen export --preset models/cifar10-small.toml --set train.batch_size=16 --training-api --target ort-training --out DIR
    python3.11 -m venv .venv-training
    .venv-training/bin/pip install onnxruntime-training-cpu==1.19.2 'numpy<2' onnx==1.16.2
    .venv-training/bin/python scripts/check_training_api.py DIR [--steps 5] [--learning-rate 0.002]

Loads the checkpoint, takes steps on one batch of random pixels, runs the evaluation model, saves the checkpoint with the
optimizer's state and goes on from the saved one beside the first session. With train.accumulate above 1 a step embeds all
micro-batches by EvalStep, assigns their codes in an ordinary session, and takes a TrainStep for each; the evaluation model is
then left out, as a session has one model for EvalStep. Exit 0 when every loss is finite, the last is
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

    def __init__(self, folder, checkpoint, learning_rate, spec):
        self.state = CheckpointState.load_checkpoint(str(checkpoint))
        self.assign = onnxruntime.InferenceSession(str(folder / "assign_step.onnx")) if (folder / "assign_step.onnx").exists() else None
        eval_model = "embed_step.onnx" if self.assign else "eval_model.onnx"
        self.module = Module(str(folder / "training_model.onnx"), self.state, str(folder / eval_model))
        self.optimizer = Optimizer(str(folder / "optimizer_model.onnx"), self.module)
        self.learning_rate = learning_rate
        self.spec = spec

    def gradients(self, micro_batches):
        """Outputs of the last TrainStep, with the mean loss. `micro_batches`: the inputs by name, without codes."""
        codes = self.codes(micro_batches) if self.assign else [{} for _ in micro_batches]
        self.module.train()
        losses = []
        for inputs in (given | own for given, own in zip(micro_batches, codes, strict=True)):
            outputs = self.module(*(inputs[tensor["name"]] for tensor in self.spec["inputs"]))
            losses.append(float(outputs[0][0]))
        return [np.array([np.mean(losses)], np.float32), *outputs[1:]]

    def codes(self, micro_batches):
        self.module.eval()
        feeds = {name: parameter.data for name, parameter in self.state.parameters if name.startswith("prototypes")}
        for micro, crops in enumerate(micro_batches):
            feeds[f"micro/{micro}/embeddings"] = self.module(*crops.values())[0]
        for tensor in self.assign.get_inputs():
            if tensor.name.startswith("queue/"):
                feeds[tensor.name] = np.zeros(tensor.shape, np.int64 if tensor.name == "queue/filled" else np.float32)
        outputs = dict(zip((tensor.name for tensor in self.assign.get_outputs()), self.assign.run(None, feeds), strict=True))
        prefixes = [f"micro/{micro}/" for micro in range(len(micro_batches))]
        return [{name.removeprefix(prefix): value for name, value in outputs.items() if name.startswith(prefix)} for prefix in prefixes]

    def step(self, micro_batches):
        outputs = self.gradients(micro_batches)
        self.optimizer.set_learning_rate(self.learning_rate)
        self.optimizer.step()
        self.module.lazy_reset_grad()
        return outputs


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--learning-rate", type=float, help="the preset's base_lr if absent")
    arguments = parser.parse_args()
    manifest = json.loads((arguments.directory / "manifest.json").read_text())
    folder, spec = arguments.directory / "training_api", manifest["training_api"]
    learning_rate = arguments.learning_rate or manifest["preset"]["optim"]["base_lr"]
    random = np.random.default_rng(1)
    count = manifest["preset"]["train"]["accumulate"]
    inputs = [{} for _ in range(count)]
    for tensor in spec["inputs"]:
        shape, dtype = tensor["shape"], DTYPES[tensor["dtype"]]
        for micro_batch in inputs:
            if tensor["name"].startswith("crops/"):
                micro_batch[tensor["name"]] = random.integers(0, 256, shape, dtype=dtype)
            elif not tensor["name"].startswith("codes"):
                micro_batch[tensor["name"]] = np.zeros(shape, dtype)
    print(f"onnxruntime {onnxruntime.__version__}, inputs {[tensor['name'] for tensor in spec['inputs']]}, {count} times a step")

    session = Session(folder, folder / "checkpoint", learning_rate, spec)
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
    if count == 1:
        size = manifest["preset"]["crops"]["size_crops"][0]
        features, embedding = session.module(random.integers(0, 256, (3, 3, size, size), dtype=np.uint8))
        print(f"evaluation: features {features.shape}, embeddings {embedding.shape} of length {np.linalg.norm(embedding, axis=1).round(5)}")
    else:
        embedding = session.module(*inputs[0].values())[0]

    with tempfile.TemporaryDirectory() as saved:
        CheckpointState.save_checkpoint(session.state, os.path.join(saved, "checkpoint"), include_optimizer_state=True)
        again = Session(folder, pathlib.Path(saved) / "checkpoint", learning_rate, spec)
    both = [[float(one.step(inputs)[0][0]) for _ in range(3)] for one in (session, again)]
    print(f"going on: losses {both[0]}, from the saved checkpoint {both[1]}")

    good = np.isfinite(losses).all() and losses[-1] < losses[0] and np.allclose(lengths, 1, atol=0.1)
    good = good and np.allclose(np.linalg.norm(embedding, axis=1), 1, atol=1e-4) and np.allclose(both[0], both[1], rtol=1e-6)
    print("the artifacts train" if good else "something is wrong", file=sys.stdout if good else sys.stderr)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
