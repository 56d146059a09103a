#!/usr/bin/env python3
"""Windows drawn by torchvision's RandomResizedCrop → crop_sampler.json, for runtime/src/data/augment/crop_tests.rs.

    python tests/golden/crop_sampler.py

For each size of image and range of areas the distributions of six figures of a window: values at equal steps of their
ranks, each with the share of all draws that are not above it.
"""

import json
import pathlib

import torch
from torchvision.transforms import RandomResizedCrop

DRAWS = 40_000
STEPS = 64
CASES = [
    {"width": 500, "height": 375, "scale": [0.14, 1.0]},
    {"width": 500, "height": 375, "scale": [0.05, 0.14]},
    # Many windows do not fit, and some draws end in the centre.
    {"width": 640, "height": 200, "scale": [0.14, 1.0]},
    {"width": 32, "height": 32, "scale": [0.08, 1.0]},
]


def distribution(values):
    ordered = sorted(values)
    chosen = sorted({ordered[round(step * (len(ordered) - 1) / STEPS)] for step in range(STEPS + 1)})
    not_above = torch.searchsorted(torch.tensor(ordered, dtype=torch.float64), torch.tensor(chosen, dtype=torch.float64), right=True)
    return [[value, round(count / len(ordered), 6)] for value, count in zip(chosen, not_above.tolist())]


def case(settings):
    image = torch.empty(3, settings["height"], settings["width"])
    windows = [RandomResizedCrop.get_params(image, settings["scale"], [3 / 4, 4 / 3]) for _ in range(DRAWS)]
    figures = {
        "area": [width * height for _, _, height, width in windows],
        "ratio": [width / height for _, _, height, width in windows],
        "left": [left for _, left, _, _ in windows],
        "top": [top for top, _, _, _ in windows],
        "right": [left + width for _, left, _, width in windows],
        "bottom": [top + height for top, _, height, _ in windows],
    }
    return settings | {"draws": DRAWS, "figures": {name: distribution(values) for name, values in figures.items()}}


def main():
    torch.manual_seed(1)
    path = pathlib.Path(__file__).with_suffix(".json")
    lines = ",\n".join(json.dumps(case(settings), separators=(",", ":")) for settings in CASES)
    path.write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
