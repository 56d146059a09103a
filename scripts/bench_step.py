#!/usr/bin/env python3
"""The same training step here and in PyTorch eager, interleaved in one run: medians and their ratio.

    python scripts/bench_step.py --preset models/cifar10-small.toml [--set section.key=value]… [--threads 1,2]
        [--rounds 5] [--steps 8] [--swav-rt target/release/swav-rt] [--graphgen target/release/graphgen] [--provider cuda]

A step is forward, codes, swapped loss, backward and optimizer on random crops, without a loader. Every round runs
PyTorch in NCHW, PyTorch in channels_last and `swav-rt bench step`, each in a process of its own, one after the other;
the better of PyTorch's two layouts counts. A ratio below 1 means that swav-rt takes less time.

With --provider cuda both run on the GPU, PyTorch under autocast where the preset says train.precision = "mixed-f16", and
the largest memory that nvidia-smi shows during the steps is printed. Threads do not matter then.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
WARM_UP = 2


def pytorch_step(config, threads, steps, channels_last, device):
    """Prints the median milliseconds of a step."""
    import numpy as np
    import torch

    sys.path.insert(0, str(ROOT / "tests/golden"))
    import swav_reference as reference

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    torch.set_default_device(device)
    model = reference.SwAV(config)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    optimizer = reference.Optimizer(model.named_parameters(), config)
    queue = reference.Queue(config, torch.float32) if config["loss"]["queue_length"] else None
    batch = config["train"]["batch_size"]
    random = np.random.default_rng(0)
    crops = [torch.from_numpy(random.integers(0, 256, (count * batch, 3, size, size), dtype=np.uint8)).to(device)
             for size, count in reference.crop_groups(config)]
    if channels_last:
        crops = [group.contiguous(memory_format=torch.channels_last) for group in crops]
    times = []
    for step in range(WARM_UP + steps):
        began = time.perf_counter()
        # The time of a step is the same without a loss scale.
        with torch.autocast(device, torch.float16, enabled=config["train"]["precision"] == "mixed-f16"):
            reference.forward_backward(model, crops, queue, config)
        optimizer.step(config["optim"]["base_lr"], True)
        if device == "cuda":
            torch.cuda.synchronize()
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


class GpuMemory(threading.Thread):
    """Watches the memory in use on the first GPU, MiB."""

    def __init__(self):
        super().__init__(daemon=True)
        self.largest, self.ends = 0, threading.Event()

    def run(self):
        query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
        while not self.ends.wait(0.2):
            self.largest = max(self.largest, int(subprocess.run(query, check=True, capture_output=True, text=True).stdout))

    @classmethod
    def during(cls, provider, measure):
        """What measure gives, and the largest memory while it ran; None on the CPU."""
        if provider == "cpu":
            return measure(), None
        watch = cls()
        watch.start()
        result = measure()
        watch.ends.set()
        watch.join()
        return result, watch.largest


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", help="preset of the step")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="overrides a setting")
    parser.add_argument("--threads", default="1,2", help="numbers of threads, separated by commas")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help="steps of a round")
    parser.add_argument("--swav-rt", default=str(ROOT / "target/release/swav-rt"))
    parser.add_argument("--graphgen", default=str(ROOT / "target/release/graphgen"))
    parser.add_argument("--provider", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--worker", nargs=5, metavar=("CONFIG", "THREADS", "STEPS", "LAYOUT", "DEVICE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        config, threads, steps, layout, device = arguments.worker
        pytorch_step(json.loads(config), int(threads), int(steps), layout == "channels_last", device)
        return 0
    if not arguments.preset:
        parser.error("--preset is missing: name a preset, for example --preset models/cifar10-small.toml")

    arguments.set.append(f"train.provider={arguments.provider}")
    config = resolved_preset(arguments.graphgen, arguments.preset, arguments.set)
    all_threads = arguments.threads.split(",") if arguments.provider == "cpu" else ["0"]
    for threads in map(int, all_threads):
        times, memory = {"NCHW": [], "channels_last": [], "swav-rt": []}, {}
        for _ in range(arguments.rounds):
            for layout in ["NCHW", "channels_last"]:
                worker = [sys.executable, __file__, "--worker", json.dumps(config), str(max(threads, 1)), str(arguments.steps), layout, arguments.provider]
                run = lambda: json.loads(subprocess.run(worker, check=True, capture_output=True, text=True).stdout)
                milliseconds, memory[layout] = GpuMemory.during(arguments.provider, run)
                times[layout].append(milliseconds)
            run = lambda: swav_rt_step(arguments.swav_rt, arguments.preset, arguments.set, threads, arguments.steps)
            milliseconds, memory["swav-rt"] = GpuMemory.during(arguments.provider, run)
            times["swav-rt"].append(milliseconds)
        medians = {name: statistics.median(values) for name, values in times.items()}
        best = min(medians["NCHW"], medians["channels_last"])
        print(f"{threads} threads: PyTorch NCHW {medians['NCHW']:.1f}, channels_last {medians['channels_last']:.1f}, "
              f"swav-rt {medians['swav-rt']:.1f} ms; ratio {medians['swav-rt'] / best:.2f}", flush=True)
        if arguments.provider != "cpu":
            batch = config["train"]["batch_size"]
            for name, milliseconds in medians.items():
                print(f"{name}: {batch / milliseconds * 1e3:.0f} images/s, {memory[name]} MiB", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
