#!/usr/bin/env python3
"""Codes by Sinkhorn-Knopp → sinkhorn.safetensors, for tests/tests/golden/sinkhorn.rs.

    python tests/golden/sinkhorn.py

`codes` is f64 [cases, B, K] in f64 from f32 scores by formula, in the order of the nested loops over the metadata's
`epsilons`, `iterations`, `largest` (scores are uniform in ± largest; 8 overflows f64's exp at the small ε) and `queue`
(rows in front of the batch's). The epsilons are the numbers that f32 holds, since an ONNX attribute is f32.
"""

import itertools
import json
import pathlib

import numpy as np
import torch
from safetensors.numpy import save_file

import formula
import swav_reference as swav

BATCH, PROTOTYPES = 4, 7
AXES = {"epsilons": [0.005, 0.01, 0.03, 0.05, 0.1, 0.5], "iterations": [1, 2, 3, 10], "largest": [1.0, 8.0], "queue": [0, 8]}


def codes(epsilon, iterations, largest, queue):
    rows = [formula.scaled(name, (count, PROTOTYPES), largest) for name, count in [("queue_scores", queue), ("scores", BATCH)]]
    scores = torch.from_numpy(np.concatenate(rows)).double()
    return swav.sinkhorn(scores, float(np.float32(epsilon)), iterations)[-BATCH:].numpy()


def main():
    cases = np.stack([codes(*case) for case in itertools.product(*AXES.values())])
    metadata = {"axes": json.dumps(AXES), "torch": torch.__version__}
    save_file({"codes": cases}, pathlib.Path(__file__).with_suffix(".safetensors"), metadata)


if __name__ == "__main__":
    main()
