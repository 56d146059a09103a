"""Checkpoints written by PyTorch, for the reader of weights: run `python weights.py`, which rewrites `weights/`.

Needs torch (made with 2.15.0) and numpy. Tensors hold a formula, repeated in the Rust tests: element i of the tensor
number t of its file is ((31 t + 7 i) mod 101 − 50) / 16, which every float type holds exactly.

* `official.zip.pth.tar`, `official.legacy.pth.tar`: the layout of the official training script for a ResNet of one block
  a stage and one channel: epoch, state_dict with `module.` in front of every name, optimizer (its learning rate is a NumPy
  scalar, as there) and amp; in both containers.
* `kinds.zip.pt`, `kinds.legacy.pt`, `kinds.protocol4.pt`: a bare state dict with every element type, views of several
  shapes, and values that are no tensors.
* `namespace.pt`: a checkpoint with an argparse.Namespace in it, which is refused.
"""

import argparse
import collections
import pathlib

import numpy as np
import torch

OUT = pathlib.Path(__file__).parent / "weights"


def formula(number, shape):
    index = np.arange(int(np.prod(shape)))
    return torch.from_numpy((((31 * number + 7 * index) % 101 - 50) / 16).astype(np.float32).reshape(shape))


def resnet10():
    """Names and shapes of the network: width 1, stem 3x3, projection head 8 → 4 → 3, 5 prototypes."""
    shapes = {}

    def batch_norm(name, channels):
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = (channels,)
        shapes[f"{name}.num_batches_tracked"] = None

    shapes["conv1.weight"] = (1, 3, 3, 3)
    batch_norm("bn1", 1)
    channels = 1
    for stage, out in enumerate((1, 2, 4, 8), 1):
        block = f"layer{stage}.0"
        shapes[f"{block}.conv1.weight"] = (out, channels, 3, 3)
        batch_norm(f"{block}.bn1", out)
        shapes[f"{block}.conv2.weight"] = (out, out, 3, 3)
        batch_norm(f"{block}.bn2", out)
        if stage > 1:
            shapes[f"{block}.downsample.0.weight"] = (out, channels, 1, 1)
            batch_norm(f"{block}.downsample.1", out)
        channels = out
    shapes["projection_head.0.weight"], shapes["projection_head.0.bias"] = (4, 8), (4,)
    batch_norm("projection_head.1", 4)
    shapes["projection_head.3.weight"], shapes["projection_head.3.bias"] = (3, 4), (3,)
    shapes["prototypes.weight"] = (5, 3)
    return shapes


def official():
    state = collections.OrderedDict()
    for number, (name, shape) in enumerate(resnet10().items()):
        state[f"module.{name}"] = torch.tensor(1234) if shape is None else formula(number, shape)
    state._metadata = collections.OrderedDict({"": {"version": 1}, "module": {"version": 1}})
    learning_rates = np.linspace(0.3, 4.8, 10)
    group = {"lr": learning_rates[3], "momentum": 0.9, "dampening": 0, "weight_decay": 1e-6, "nesterov": False, "params": [0, 1]}
    optimizer = {"state": {0: {"momentum_buffer": formula(900, (1, 3, 3, 3))}, 1: {"momentum_buffer": None}}, "param_groups": [group]}
    amp = collections.OrderedDict(loss_scaler0={"loss_scale": 65536.0, "unskipped": 1955})
    return {"epoch": 100, "state_dict": state, "optimizer": optimizer, "amp": amp}


def kinds():
    flat = formula(20, (40,))
    with_channels_last = formula(21, (2, 3, 2, 2)).contiguous(memory_format=torch.channels_last)
    assert with_channels_last.stride() == (12, 1, 6, 3)
    return {
        "f64": formula(0, (2, 3)).double(),
        "f32": formula(1, (2, 3)),
        "f16": formula(2, (2, 3)).half(),
        "bf16": formula(3, (2, 3)).bfloat16(),
        "i64": torch.arange(4),
        "i32": torch.arange(4, dtype=torch.int32),
        "i16": torch.arange(4, dtype=torch.int16),
        "i8": torch.arange(4, dtype=torch.int8),
        "u8": torch.arange(4, dtype=torch.uint8),
        "bool": torch.tensor([True, False]),
        "scalar": formula(10, ()),
        "empty": torch.zeros(3, 0),
        "transposed": formula(11, (3, 4)).t(),
        "slice": flat[5:35].view(5, 6)[1:4, ::2],
        "shared": flat[38:],
        "channels_last": with_channels_last,
        "expanded": formula(12, (1,)).expand(6),
        "parameter": torch.nn.Parameter(formula(13, (4,))),
        "size": torch.Size([2, 3]),
        "device": torch.device("cpu"),
        "dtype": torch.float16,
        "plain": [1, -2.5, None, True, (), (1, 2, 3, 4), "text", b"bytes", {3, 4}, frozenset([5]), 1 << 70, -70000, {"a": {}}],
        "best": np.float64(76.5),
    }


def main():
    OUT.mkdir(exist_ok=True)
    for old in OUT.iterdir():
        old.unlink()
    torch.save(official(), OUT / "official.zip.pth.tar")
    torch.save(official(), OUT / "official.legacy.pth.tar", _use_new_zipfile_serialization=False)
    torch.save(kinds(), OUT / "kinds.zip.pt")
    torch.save(kinds(), OUT / "kinds.legacy.pt", _use_new_zipfile_serialization=False)
    torch.save(kinds(), OUT / "kinds.protocol4.pt", pickle_protocol=4)
    torch.save({"state_dict": {"a": formula(0, (2,))}, "args": argparse.Namespace(lr=1.0)}, OUT / "namespace.pt")


if __name__ == "__main__":
    main()
