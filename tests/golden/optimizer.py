#!/usr/bin/env python3
"""Updates by every optimizer → optimizer.safetensors, for tests/tests/golden/optimizer.rs.

    python tests/golden/optimizer.py

Parameters and gradients are formulas, so that only the optimizer is compared. For each optimizer and step there is an
f64 matrix `OPTIMIZER/STEP`, whose rows are formula.project of every state (parameters, momentum/…, variance/…) after
the step, in the order of their names. The metadata hold settings, learning rates, and the parameters with shape and
what is zero in them: `parameter` for its initial values, `gradient` for all its gradients. Gradients are uniform in ±1,
to the `power` if there is one.
"""

import json
import math
import pathlib

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file

import formula
import swav_reference as swav

SETTINGS = ["optim.weight_decay=0.1", "optim.freeze_prototypes_niters=1"]
RATES = [0.3, 0.05, 0.2]
PARAMETERS = [
    {"name": "conv1.weight", "shape": [5, 3, 3, 3], "zero": []},
    {"name": "bn1.weight", "shape": [5], "zero": ["gradient"]},
    {"name": "bn1.bias", "shape": [5], "zero": ["parameter"]},
    {"name": "projection_head.0.weight", "shape": [4, 6], "zero": ["parameter", "gradient"]},
    {"name": "projection_head.0.bias", "shape": [4], "zero": []},
    # Large, and most of its gradients near 0: squares added up one by one in f32 are off by 1.7e-4.
    {"name": "projection_head.3.weight", "shape": [1024, 2048], "zero": [], "power": 5},
    {"name": "prototypes.weight", "shape": [7, 4], "zero": []},
]


def tensor(value, zero):
    value = torch.from_numpy(value).double()
    return torch.zeros_like(value) if zero else value


def run(name):
    """Projections of all states after each step."""
    config = swav.settings(SETTINGS + [f"optim.name={name}"])
    parameters = {spec["name"]: torch.nn.Parameter(tensor(formula.weight(spec["name"], spec["shape"]), "parameter" in spec["zero"]))
                  for spec in PARAMETERS}
    optimizer = swav.Optimizer(parameters.items(), config)
    for step, rate in enumerate(RATES):
        with torch.no_grad():
            parameters["prototypes.weight"].copy_(F.normalize(parameters["prototypes.weight"], dim=1))
        for spec in PARAMETERS:
            uniform = formula.uniform(f"step{step}/grad/{spec['name']}", spec["shape"])
            gradient = math.prod([uniform] * spec.get("power", 1)).astype(np.float32)
            parameters[spec["name"]].grad = tensor(gradient, "gradient" in spec["zero"])
        optimizer.step(rate, step >= config["optim"]["freeze_prototypes_niters"])
        states = {key: value.detach() for key, value in parameters.items()} | optimizer.moments()
        yield np.stack([formula.project(key, states[key].numpy()) for key in sorted(states)])


def main():
    tensors = {f"{name}/{step}": states for name in ["lars", "sgd", "adam", "adamw"] for step, states in enumerate(run(name))}
    metadata = {"settings": json.dumps(SETTINGS), "rates": json.dumps(RATES), "parameters": json.dumps(PARAMETERS),
                "torch": torch.__version__}
    save_file(tensors, pathlib.Path(__file__).with_suffix(".safetensors"), metadata)


if __name__ == "__main__":
    main()
