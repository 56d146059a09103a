#!/usr/bin/env python3
"""Checks that weights go from PyTorch into a run and back, with this project's programs and nothing in between.

    cargo build --release
    python scripts/check_weights.py [--bin target/release] [--preset models/cifar10-resnet18.toml] [--set SECTION.KEY=VALUE]…

For a torchvision-named ResNet (the preset's; ResNet-18 with the small stem by default) it writes checkpoints in the
layout of the official training script, `epoch`, `state_dict` with `module.` in front of every name, `optimizer` and `amp`, in
PyTorch's zip format and in the legacy one. Then, for both:

1. `graphgen export --init FILE`: init.safetensors holds the file's values, bit by bit.
2. `swav-rt train --init FILE` trains a few steps on a synthetic data set.
3. `swav-rt export --format safetensors` with `--names torchvision` loads into torchvision's network with `strict=True`
   (its classifier replaced by Identity), and with `--names swav` into network, head and prototypes with `strict=True`.
4. The network loaded that way computes the `features` of the run's encoder.onnx.

Exit 0 when all hold, 1 when not.
"""

import argparse
import collections
import itertools
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnxruntime
import safetensors.torch
import torch
import torchvision

failures = []


def check(holds, text):
    print(f"{'ok' if holds else 'FAILED'}: {text}", flush=True)
    if not holds:
        failures.append(text)


def run(*command):
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\nfailed with {result.returncode}:\n{result.stdout}{result.stderr}")
    return result.stdout


def backbone(model):
    """torchvision's network of a preset's `[model]`, without classifier."""
    basic = {"resnet10": [1, 1, 1, 1], "resnet18": [2, 2, 2, 2], "resnet34": [3, 4, 6, 3]}
    blocks = {"resnet14": [1, 1, 1, 1], "resnet26": [2, 2, 2, 2], "resnet50": [3, 4, 6, 3]} | basic
    block = torchvision.models.resnet.BasicBlock if model["arch"] in basic else torchvision.models.resnet.Bottleneck
    network = torchvision.models.ResNet(block, blocks[model["arch"]])
    features, network.fc = network.fc.in_features, torch.nn.Identity()
    if model["stem"] == "small":
        network.conv1 = torch.nn.Conv2d(3, 64, 3, model["stem_stride"], 1, bias=False)
        network.maxpool = torch.nn.Identity()
    return network, features


class Swav(torch.nn.Module):
    """Backbone, projection head and prototypes under the names that a state dict has."""

    def __init__(self, model):
        super().__init__()
        network, features = backbone(model)
        for name, module in network.named_children():
            self.add_module(name, module)
        hidden, dimensions, linear = model["hidden_mlp"], model["feat_dim"], torch.nn.Linear
        if hidden == 0:
            self.projection_head = linear(features, dimensions)
        else:
            norm = [torch.nn.BatchNorm1d(hidden)] if model["projection_batch_norm"] else []
            self.projection_head = torch.nn.Sequential(linear(features, hidden), *norm, torch.nn.ReLU(), linear(hidden, dimensions))
        self.prototypes = linear(dimensions, model["nmb_prototypes"], bias=False)


def randomized(model):
    """A network whose every value, running statistics included, is random."""
    torch.manual_seed(1)
    network = Swav(model)
    for name, tensor in network.state_dict().items():
        if name.endswith("running_mean"):
            tensor.normal_(0, 0.1)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif name.endswith("num_batches_tracked"):
            tensor.fill_(1000)
        elif tensor.ndim == 1:
            tensor.add_(torch.randn_like(tensor) * 0.1)
    return network


def official_checkpoint(network):
    """Epoch, state dict, optimizer (momentum, and a NumPy scalar as learning rate) and amp, as the official script saves them."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.6, momentum=0.9, weight_decay=1e-6)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    saved = collections.OrderedDict((f"module.{name}", tensor.clone()) for name, tensor in network.state_dict().items())
    optimizer.step()
    optimizer.param_groups[0]["lr"] = np.linspace(0.6, 0.0006, 100)[7]
    amp = collections.OrderedDict(loss_scaler0={"loss_scale": 65536.0, "unskipped": 1955})
    return {"epoch": 8, "state_dict": saved, "optimizer": optimizer.state_dict(), "amp": amp}


def equal_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and bool((a.view(torch.int32) == b.view(torch.int32)).all())


def check_format(name, checkpoint, options, work, preset, settings):
    graphgen, swav = options.bin / "graphgen", options.bin / "swav-rt"
    source = ["--preset", options.preset, *settings]
    state = {key.removeprefix("module."): tensor for key, tensor in torch.load(checkpoint, weights_only=False)["state_dict"].items()}

    graphs = work / f"graphs-{name}"
    run(graphgen, "export", *source, "--init", checkpoint, "--out", graphs)
    init = safetensors.torch.load_file(graphs / "init.safetensors")
    expected = {key for key in state if not key.endswith("num_batches_tracked")}
    check(set(init) == expected, f"{name}: init.safetensors has the {len(expected)} parameters and statistics of the network")
    different = [key for key in expected & set(init) if not equal_bits(init[key], state[key])]
    check(not different, f"{name}: all of them are bit-equal to the file's {different[:3] or ''}".rstrip())
    report = json.loads((graphs / "manifest.json").read_text())["init"]
    check(report == {"taken": len(expected), "fresh": [], "unused": [], "not_tensors": []}, f"{name}: the manifest says so")

    trained = work / f"run-{name}"
    run(swav, "train", *source, "--init", checkpoint, "--data", work / "images", "--out", trained, "--max-steps", options.steps)
    losses = [json.loads(line)["loss"] for line in (trained / "metrics.jsonl").read_text().splitlines()]
    check(len(losses) == options.steps and np.isfinite(losses).all(), f"{name}: {len(losses)} steps from it, losses {np.round(losses, 4).tolist()}")
    record = json.loads((trained / "init.json").read_text())
    check(record["taken"] == len(expected), f"{name}: the run's init.json records {record['taken']} tensors taken")

    files = {}
    for names in ("torchvision", "swav"):
        files[names] = work / f"{name}-{names}.safetensors"
        run(swav, "export", "--run", trained, "--format", "safetensors", "--names", names, "--out", files[names])
        files[names] = safetensors.torch.load_file(files[names])
    model = preset["model"]
    network, _ = backbone(model)
    network.load_state_dict(files["torchvision"], strict=True)
    check(set(network.state_dict()) == set(files["torchvision"]), f"{name}: --names torchvision loads into torchvision's network with strict=True")
    with_classifier, _ = backbone(model)
    with_classifier.fc = torch.nn.Linear(8, 2)
    missing = with_classifier.load_state_dict(files["torchvision"], strict=False)
    check(set(missing.missing_keys) == {"fc.weight", "fc.bias"} and not missing.unexpected_keys, f"{name}: beside it only fc.* misses")
    whole = Swav(model)
    whole.load_state_dict(files["swav"], strict=True)
    check(set(whole.state_dict()) == set(files["swav"]), f"{name}: --names swav loads into backbone, head and prototypes with strict=True")
    moved = [key for key in expected if not equal_bits(files["swav"][key], state[key])]
    # The gradient of a bias in front of a BatchNorm is rounding noise, and may be too small to move it.
    still = expected - set(moved) - {"projection_head.0.bias"}
    check(not still, f"{name}: training has moved {len(moved)} of {len(expected)} tensors {sorted(still)[:3] or ''}".rstrip())
    groups = [size for size, _ in itertools.groupby(preset["crops"]["size_crops"])]
    passes = len(groups) if model["batch_norm_groups"] == "size" else sum(preset["crops"]["nmb_crops"])
    counter = files["swav"]["bn1.num_batches_tracked"]
    check(counter.dtype == torch.int64 and counter.item() == passes * options.steps, f"{name}: bn1.num_batches_tracked is {counter.item()}")

    images = np.random.default_rng(3).integers(0, 256, (4, 3, 64, 64), dtype=np.uint8)
    session = onnxruntime.InferenceSession(trained / "encoder.onnx", providers=["CPUExecutionProvider"])
    features = session.run(["features"], {"image": images})[0]
    mean, std = (torch.tensor(preset["data"][key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        reference = network.eval().double()((torch.from_numpy(images).double() / 255 - mean.double()) / std.double()).numpy()
    difference = np.abs(features - reference).max() / np.sqrt((reference ** 2).mean())
    check(difference <= 1e-4, f"{name}: torchvision computes the encoder's features: largest difference {difference:.1e} of their scale (limit 1e-4)")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = pathlib.Path(__file__).resolve().parent.parent
    parser.add_argument("--bin", type=pathlib.Path, default=root / "target/release", help="folder of graphgen and swav-rt")
    parser.add_argument("--preset", type=pathlib.Path, default=root / "models/cifar10-resnet18.toml")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="as for swav-rt train")
    parser.add_argument("--steps", type=int, default=3, help="steps of training")
    options = parser.parse_args()

    overrides = ["train.batch_size=16", "optim.freeze_prototypes_niters=0", *options.set]
    settings = [part for text in overrides for part in ("--set", text)]
    print(f"torch {torch.__version__}, torchvision {torchvision.__version__}, preset {options.preset.name}")
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        run(options.bin / "swav-rt", "data", "synth", "--out", work / "images", "--images", 16 * options.steps, "--size", 40)
        run(options.bin / "graphgen", "export", "--preset", options.preset, *settings, "--out", work / "graphs")
        preset = json.loads((work / "graphs/manifest.json").read_text())["preset"]
        for name, is_zip in (("zip", True), ("legacy", False)):
            file = work / f"{name}.pth.tar"
            torch.save(official_checkpoint(randomized(preset["model"])), file, _use_new_zipfile_serialization=is_zip)
            check_format(name, file, options, work, preset, settings)
    if failures:
        print(f"{len(failures)} checks failed", file=sys.stderr)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
