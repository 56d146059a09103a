#!/usr/bin/env python3
"""Learning rates of the official settings → schedule.json, for tests/tests/golden/schedule.rs.

    python tests/golden/schedule.py

Each case holds its settings, the steps of an epoch, and the rates of some steps: both ends of the run, the steps around
the end of the warm-up, and a few in between. Warm-up by numpy.linspace, as the official code has it.
"""

import json
import pathlib

import numpy as np

import swav_reference as swav

IMAGENET = 1281167
OFFICIAL = {
    "100 epochs, batch 4096": (4096, ["optim.base_lr=4.8", "optim.final_lr=0.0048", "optim.start_warmup=0.3", "train.epochs=100"]),
    "800 epochs, batch 4096": (4096, ["optim.base_lr=4.8", "optim.final_lr=0.0048", "optim.start_warmup=0.3", "train.epochs=800"]),
    "200 epochs, batch 256": (256, ["optim.base_lr=0.6", "optim.final_lr=0.0006", "optim.warmup_epochs=0", "train.epochs=200"]),
    "400 epochs, batch 2560": (2560, ["optim.base_lr=4.8", "optim.final_lr=0.0048", "optim.start_warmup=0.3", "train.epochs=400"]),
}
SMALL = {
    "short": (5, ["optim.base_lr=1.7", "optim.final_lr=0.3", "optim.start_warmup=0.1", "optim.warmup_epochs=2", "train.epochs=6"]),
    "fractional warm-up": (4, ["optim.warmup_epochs=0.75", "train.epochs=3"]),
    "one warm-up step": (4, ["optim.start_warmup=0.5", "optim.warmup_epochs=0.25", "train.epochs=2"]),
    "per epoch": (7, ["optim.base_lr=0.06", "optim.warmup_epochs=0", "optim.schedule_per=epoch", "train.epochs=5"]),
}


def case(name, steps_per_epoch, overrides):
    config = swav.settings(overrides)
    rates = swav.learning_rates(config, steps_per_epoch)
    optim = config["optim"]
    warmup = round(steps_per_epoch * optim["warmup_epochs"]) if optim["schedule_per"] == "step" else 0
    assert rates[:warmup] == np.linspace(optim["start_warmup"], optim["base_lr"], warmup).tolist(), name
    total = len(rates)
    steps = range(total) if total < 50 else sorted({
        *range(5), *range(max(warmup - 3, 0), warmup + 4), *np.linspace(0, total - 1, 23).astype(int).tolist(), total - 2, total - 1})
    return {"name": name, "settings": overrides, "steps_per_epoch": steps_per_epoch, "total_steps": total,
            "warmup_steps": warmup, "rates": [[step, rates[step]] for step in steps]}


def main():
    cases = [case(name, IMAGENET // batch, overrides) for name, (batch, overrides) in OFFICIAL.items()]
    cases += [case(name, steps, overrides) for name, (steps, overrides) in SMALL.items()]
    path = pathlib.Path(__file__).with_suffix(".json")
    path.write_text("[\n" + ",\n".join(json.dumps(entry) for entry in cases) + "\n]\n")


if __name__ == "__main__":
    main()
