#!/usr/bin/env python3
"""The same training step here and in PyTorch eager, interleaved in one run: medians and their ratio.

    python scripts/bench_step.py --preset models/cifar10-small.toml [--set section.key=value]… [--threads 1,2]
        [--rounds 5] [--steps 8] [--swav-rt target/release/swav-rt] [--graphgen target/release/graphgen]

A step is forward, codes, swapped loss, backward and optimizer on random crops, without a loader. Every round runs
PyTorch in NCHW, PyTorch in channels_last and `swav-rt bench step`, each in a process of its own, one after the other;
the better of PyTorch's two layouts counts. A ratio below 1 means that swav-rt takes less time.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
WARM_UP = 2


def pytorch_step(config, threads, steps, channels_last):
    """Prints the median milliseconds of a step."""
    import numpy as np
    import torch

    sys.path.insert(0, str(ROOT / "tests/golden"))
    import swav_reference as reference

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = reference.SwAV(config)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    optimizer = reference.Optimizer(model.named_parameters(), config)
    queue = reference.Queue(config, torch.float32) if config["loss"]["queue_length"] else None
    batch = config["train"]["batch_size"]
    random = np.random.default_rng(0)
    crops = [torch.from_numpy(random.integers(0, 256, (count * batch, 3, size, size), dtype=np.uint8))
             for size, count in reference.crop_groups(config)]
    if channels_last:
        crops = [group.contiguous(memory_format=torch.channels_last) for group in crops]
    times = []
    for step in range(WARM_UP + steps):
        began = time.perf_counter()
        reference.forward_backward(model, crops, queue, config)
        optimizer.step(config["optim"]["base_lr"], True)
        if step >= WARM_UP:
            times.append((time.perf_counter() - began) * 1e3)
    print(json.dumps(statistics.median(times)))


def resolved_preset(graphgen, preset, overrides):
    """Every setting of a preset, as graphgen resolves it."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "graphs"
        command = [graphgen, "export", "--preset", preset, "--out", str(out)]
        subprocess.run(command + [part for override in overrides for part in ("--set", override)], check=True, stdout=subprocess.DEVNULL)
        return json.loads((out / "manifest.json").read_text())["preset"]


def swav_rt_step(program, preset, overrides, threads, steps):
    """Median milliseconds of a step."""
    command = [program, "bench", "step", "--preset", preset, "--steps", str(steps), "--threads", str(threads)]
    command += [part for override in overrides for part in ("--set", override)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(output.strip().splitlines()[-1].split()[0])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", help="preset of the step")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="overrides a setting")
    parser.add_argument("--threads", default="1,2", help="numbers of threads, separated by commas")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help="steps of a round")
    parser.add_argument("--swav-rt", default=str(ROOT / "target/release/swav-rt"))
    parser.add_argument("--graphgen", default=str(ROOT / "target/release/graphgen"))
    parser.add_argument("--worker", nargs=4, metavar=("CONFIG", "THREADS", "STEPS", "LAYOUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        config, threads, steps, layout = arguments.worker
        pytorch_step(json.loads(config), int(threads), int(steps), layout == "channels_last")
        return 0
    if not arguments.preset:
        parser.error("--preset is missing: name a preset, for example --preset models/cifar10-small.toml")

    config = resolved_preset(arguments.graphgen, arguments.preset, arguments.set)
    for threads in map(int, arguments.threads.split(",")):
        times = {"NCHW": [], "channels_last": [], "swav-rt": []}
        for _ in range(arguments.rounds):
            for layout in ["NCHW", "channels_last"]:
                worker = [sys.executable, __file__, "--worker", json.dumps(config), str(threads), str(arguments.steps), layout]
                milliseconds = json.loads(subprocess.run(worker, check=True, capture_output=True, text=True).stdout)
                times[layout].append(milliseconds)
            times["swav-rt"].append(swav_rt_step(arguments.swav_rt, arguments.preset, arguments.set, threads, arguments.steps))
        medians = {name: statistics.median(values) for name, values in times.items()}
        best = min(medians["NCHW"], medians["channels_last"])
        print(f"{threads} threads: PyTorch NCHW {medians['NCHW']:.1f}, channels_last {medians['channels_last']:.1f}, "
              f"swav-rt {medians['swav-rt']:.1f} ms; ratio {medians['swav-rt'] / best:.2f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
