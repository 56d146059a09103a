#!/usr/bin/env python3
"""One forward and backward pass of many networks → step.safetensors, for tests/tests/golden/step.rs.

    python tests/golden/step.py          writes the goldens (f64)
    python tests/golden/step.py --f32    prints how far PyTorch's own f32 is from its f64, and writes nothing
    python tests/golden/step.py --margins    prints how near pre-activations come to 0 with different crops

`cases` in the file's metadata holds name and settings. For each case and kind of tensor there is one f64 matrix, whose
rows are formula.project of a tensor, in the order of the tensors' names: `CASE/gradients`, `CASE/statistics` (after the
step) and `CASE/outputs` (codes, embeddings, scores, of each head). `CASE/loss` is [1].
"""

import json
import pathlib
import sys

import numpy as np
import torch
from safetensors.numpy import save_file

import formula
import swav_reference as swav


def cropped(sizes, counts):
    """Settings of a preset's crops; the scales do not matter here, but a preset wants as many."""
    return [f"crops.size_crops={sizes}", f"crops.nmb_crops={counts}",
            f"crops.min_scale_crops={[0.5] * len(sizes)}", f"crops.max_scale_crops={[1.0] * len(sizes)}"]


TINY = ["model.arch=resnet10", "model.width=4", "model.stem=small", "model.hidden_mlp=12", "model.feat_dim=8",
        "model.nmb_prototypes=10", "train.batch_size=4"]
REAL = ["model.hidden_mlp=256", "model.feat_dim=64", "model.nmb_prototypes=60", "train.batch_size=8"]

# Small enough for graphgen's interpreter, which is compared at 1e-9. The bottlenecks are too narrow for f32.
TINY_CASES = {
    "tiny 2x": cropped([16], [2]),
    "tiny 2x+4x": cropped([16, 8], [2, 4]),
    "tiny 2x+6x": cropped([16, 8], [2, 6]),
    "tiny adjacent entries of one size": [*cropped([16, 8, 8, 16], [1, 1, 2, 1]), "crops.crops_for_assign=[0, 4]"],
    "tiny first crop assigned": [*cropped([16], [3]), "crops.crops_for_assign=[0]"],
    "tiny last crops assigned": [*cropped([16, 8], [2, 2]), "crops.crops_for_assign=[3, 1]"],
    "tiny all crops assigned": [*cropped([16], [3]), "crops.crops_for_assign=[0, 1, 2]"],
    "tiny heads": [*cropped([16, 8], [2, 1]), "model.nmb_prototypes=[10, 7, 5]"],
    "tiny one statistic per crop": [*cropped([16, 8], [2, 2]), "model.batch_norm_groups=crop"],
    "narrow bottlenecks": [*cropped([32, 24], [2, 1]), "model.arch=resnet50", "model.width=2", "model.stem=imagenet"],
    "tiny one linear layer": [*cropped([16], [2]), "model.arch=resnet18", "model.hidden_mlp=0", "loss.temperature=0.3",
                              "loss.epsilon=0.02", "loss.sinkhorn_iterations=5"],
    "tiny head without batch norm": [*cropped([24], [2]), "model.projection_batch_norm=false", "model.stem_stride=2",
                                     "data.mean=[0.1, 0.2, 0.3]", "data.std=[0.4, 0.5, 0.6]"],
}

# For ONNX Runtime in f32.
REAL_CASES = {
    "resnet18": [*cropped([64, 32], [2, 2]), "model.arch=resnet18"],
    "resnet18 small stem": [*cropped([32, 16], [2, 2]), "model.arch=resnet18", "model.stem=small", "train.batch_size=16"],
    "resnet50": [*cropped([48, 32], [2, 2]), "train.batch_size=4"],
    "resnet50 w2": [*cropped([48, 32], [2, 2]), "train.batch_size=4", "model.width=128"],
}

CASES = {name: TINY + changes for name, changes in TINY_CASES.items()} | {
    name: REAL + changes for name, changes in REAL_CASES.items()}


# What the names of a case's crops begin with. A pre-activation that lies within f32's rounding of 0 changes sides, and
# one in the last stages moves the gradients of nearly all parameters by 1e-3; `--margins` finds crops that have none.
PREFIXES = {"resnet18": "12/", "resnet18 small stem": "8/", "resnet50": "18/", "resnet50 w2": "6/"}


def crops(config, prefix=""):
    batch = config["train"]["batch_size"]
    return [formula.pixels(f"{prefix}crops/{index}", (count * batch, 3, size, size))
            for index, (size, count) in enumerate(swav.crop_groups(config))]


def model(config, dtype):
    """The network with weights by formula."""
    result = swav.SwAV(config).to(dtype)
    state = {name: torch.from_numpy(formula.weight(name, tuple(value.shape))) if value.ndim else value
             for name, value in result.state_dict().items()}
    result.load_state_dict(state)
    return result


def run(config, dtype, prefix):
    """Named tensors: loss, gradients, statistics, outputs."""
    network = model(config, dtype)
    loss, embeddings, scores, codes = swav.forward_backward(network, crops(config, prefix), None, config)
    outputs = {"embeddings": embeddings}
    for kind, heads in [("scores", scores), ("codes", codes)]:
        for index, head in enumerate(heads):
            outputs[kind if len(heads) == 1 else f"{kind}/{index}"] = head
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    statistics = {name: value for name, value in network.state_dict().items() if name.endswith(("running_mean", "running_var"))}
    return loss, {"gradients": gradients, "statistics": statistics, "outputs": outputs}


def projections(tensors):
    return np.stack([formula.project(name, tensors[name].double().numpy()) for name in sorted(tensors)])


def own_error():
    for name in REAL_CASES:
        config = swav.settings(CASES[name])
        prefix = PREFIXES.get(name, "")
        (loss64, exact), (loss32, rounded) = (run(config, dtype, prefix) for dtype in (torch.float64, torch.float32))
        line = f"{name}: loss {abs(loss32 / loss64 - 1):.1e}"
        for kind in exact:
            errors = [((rounded[kind][key] - value).norm() / value.norm()).item() for key, value in exact[kind].items()
                      if key != "projection_head.0.bias"]
            line += f"; {kind} median {np.median(errors):.1e} max {max(errors):.1e}"
        print(line, flush=True)


@torch.no_grad()
def margins():
    """For crops of 20 prefixes, the pre-activation nearest 0 over the root mean square of its layer."""
    relu, nearest = torch.nn.functional.relu, []

    def watched(x, inplace=False):
        nearest.append((x.abs().min() / x.square().mean().sqrt()).item())
        return relu(x)

    torch.nn.functional.relu = watched
    for name in REAL_CASES:
        config = swav.settings(CASES[name])
        network = model(config, torch.float64)
        for number in range(20):
            nearest.clear()
            network.embed([swav.normalize_pixels(group, config, torch.float64) for group in crops(config, f"{number}/")], None)
            layers = len(nearest) // 2  # of each of two groups; the head's comes last
            late = nearest[layers // 2 : layers] + nearest[layers + layers // 2 :]
            print(f"{name} {number}/: all layers {min(nearest):.1e}, second half of each group {min(late):.1e}", flush=True)


def main():
    if "--margins" in sys.argv:
        return margins()
    if "--f32" in sys.argv:
        return own_error()
    tensors = {}
    for name, overrides in CASES.items():
        loss, kinds = run(swav.settings(overrides), torch.float64, PREFIXES.get(name, ""))
        tensors[f"{name}/loss"] = np.array([loss])
        for kind, values in kinds.items():
            tensors[f"{name}/{kind}"] = projections(values)
    cases = json.dumps([{"name": name, "crops": PREFIXES.get(name, ""), "settings": overrides} for name, overrides in CASES.items()])
    save_file(tensors, pathlib.Path(__file__).with_suffix(".safetensors"), {"cases": cases, "torch": torch.__version__})


if __name__ == "__main__":
    main()
