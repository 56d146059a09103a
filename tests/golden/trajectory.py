#!/usr/bin/env python3
"""Whole runs of the training loop → trajectory.safetensors, for tests/tests/golden/trajectory.rs.

    python tests/golden/trajectory.py          writes the goldens (f64)
    python tests/golden/trajectory.py --f32    prints how far PyTorch's own f32 runs away from its f64, writes nothing

For each run: `RUN/losses` [steps]; `RUN/codes` [steps, 1 + projections], formula.project of the codes of the first
head; and `RUN/STEP` after the steps named in the metadata's `states`, whose rows are formula.project of every parameter,
running statistic, `momentum/…` and, with a queue, `queue/embeddings`, in the order of their names.

The bias in front of the projection head's BatchNorm starts as zeros: its gradient is rounding noise, and LARS would
scale noise to the size of any other gradient.
"""

import json
import pathlib
import sys

import numpy as np
import torch
from safetensors.numpy import save_file

import formula
import step
import swav_reference as swav

RUNS = {
    # Queue: none before epoch 1 (step 2), empty, half full, full from step 4 on; frozen prototypes; warm-up; two heads.
    "queue": {
        "steps_per_epoch": 2, "states": [0, 2, 4, 7],
        "settings": step.TINY + step.cropped([16, 8], [2, 1]) + [
            "loss.queue_length=11", "loss.epoch_queue_starts=1",
            "optim.freeze_prototypes_niters=3", "optim.warmup_epochs=1.5", "optim.start_warmup=0.2", "optim.base_lr=2.0",
            "optim.final_lr=0.1", "optim.weight_decay=0.1", "optim.trust_coefficient=0.01", "train.epochs=4"],
    },
    "resnet18": {
        "steps_per_epoch": 10, "states": [0, 9, 19],
        "settings": step.TINY + step.cropped([32, 16], [2, 2]) + [
            "model.arch=resnet18", "model.width=8", "model.stem_stride=2", "model.hidden_mlp=32", "model.feat_dim=16",
            "model.nmb_prototypes=20", "train.batch_size=8",
            "optim.freeze_prototypes_niters=2", "optim.warmup_epochs=0.5", "optim.base_lr=1.0", "optim.final_lr=0.001",
            "optim.weight_decay=0.1", "train.epochs=2"],
    },
}
NOISE = "projection_head.0.bias"


def states(network, optimizer, queue):
    tensors = {name: value.detach() for name, value in network.state_dict().items() if value.ndim} | optimizer.moments()
    if queue is not None:
        tensors["queue/embeddings"] = queue.rows
    return np.stack([formula.project(name, tensors[name].double().numpy()) for name in sorted(tensors)])


def run(name, dtype):
    """(step, loss, codes' projection, states' projections or None) of every step."""
    description = RUNS[name]
    config = swav.settings(description["settings"])
    network = step.model(config, dtype)
    with torch.no_grad():
        network.get_parameter(NOISE).zero_()
    crops = lambda number: step.crops(config, f"step{number}/")
    for number, loss, codes, optimizer, queue in swav.train(network, config, description["steps_per_epoch"], crops):
        kept = states(network, optimizer, queue) if number in description["states"] else None
        yield number, loss, formula.project("codes", codes[0].double().numpy()), kept


def main():
    if "--f32" in sys.argv:
        for name in RUNS:
            losses = [np.array([loss for _, loss, _, _ in run(name, dtype)]) for dtype in (torch.float64, torch.float32)]
            print(name, np.array2string(losses[0], precision=4), "f32 relative:", np.array2string(losses[1] / losses[0] - 1, precision=1))
        return
    tensors = {}
    for name in RUNS:
        steps = list(run(name, torch.float64))
        tensors[f"{name}/losses"] = np.array([loss for _, loss, _, _ in steps])
        tensors[f"{name}/codes"] = np.stack([codes for _, _, codes, _ in steps])
        tensors |= {f"{name}/{number}": kept for number, _, _, kept in steps if kept is not None}
    metadata = {"runs": json.dumps(RUNS), "torch": torch.__version__}
    save_file(tensors, pathlib.Path(__file__).with_suffix(".safetensors"), metadata)


if __name__ == "__main__":
    main()
