#!/usr/bin/env python3
"""Checks that TensorBoard itself reads the event files of `swav-rt train --tensorboard`.

    python scripts/check_tensorboard.py --run RUN

Every figure of every step of metrics.jsonl is a scalar of its name and step, and `crops` is a picture. Needs tensorboard
and Pillow.
"""

import argparse
import io
import json
import pathlib
import sys

import tensorboard
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

failures = []


def check(holds, text):
    print(f"{'ok' if holds else 'FAILED'}: {text}")
    if not holds:
        failures.append(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=pathlib.Path, required=True)
    run = parser.parse_args().run

    print(f"tensorboard {tensorboard.__version__}")
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    tags = events.Tags()
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    expected = {}
    for step in steps:
        for name, value in step.items():
            if name != "step" and isinstance(value, (int, float)) and not isinstance(value, bool):
                expected.setdefault(name, []).append((step["step"], value))
    check(set(tags["scalars"]) == set(expected), f"scalars {', '.join(sorted(expected))}")
    for name, values in expected.items():
        found = [(event.step, event.value) for event in events.Scalars(name)] if name in tags["scalars"] else []
        same = len(found) == len(values) and all(a[0] == b[0] and abs(a[1] - b[1]) <= 1e-6 * abs(b[1]) for a, b in zip(found, values))
        check(same, f"{name}: {len(values)} steps")
    check(tags["images"] == ["crops"], f"one picture, crops (found {tags['images']})")
    for event in events.Images("crops") if tags["images"] else []:
        image = Image.open(io.BytesIO(event.encoded_image_string))
        check(image.size == (event.width, event.height), f"crops at step {event.step}: a {image.format} of {image.size[0]}x{image.size[1]} px")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
