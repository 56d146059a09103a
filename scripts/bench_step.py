#!/usr/bin/env python3
"""The same training step here and in PyTorch eager, interleaved in one run: medians and their ratio.

    python scripts/bench_step.py --preset models/cifar10-small.toml [--set section.key=value]… [--threads 1,2]
        [--rounds 5] [--steps 8] [--kernels functions] [--swav-rt target/release/swav-rt] [--graphgen target/release/graphgen] [--provider cuda]

A step is forward, codes, swapped loss, backward and optimizer on random crops, without a loader. Every round runs
PyTorch in NCHW, PyTorch in channels_last and `swav-rt bench step`, each in a process of its own, one after the other;
the better of PyTorch's two layouts counts. A ratio below 1 means that swav-rt takes less time.

The largest memory is printed beside: that of the process, or, with --provider cuda, what nvidia-smi shows during the steps.
On the GPU PyTorch runs under autocast where the preset says train.precision = "mixed-f16", and threads do not matter.
"""

import argparse
import json
import os
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


def run_and_watch(command):
    """What a command prints, and the largest memory of its process, MiB."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{' '.join(command[:4])} … failed with {process.returncode}")
    return output, usage.ru_maxrss // 1024


def pytorch_in_a_process(config, threads, steps, layout, provider):
    """Median milliseconds of a step, and the process's largest memory."""
    output, memory = run_and_watch([sys.executable, __file__, "--worker", json.dumps(config), str(max(threads, 1)), str(steps), layout, provider])
    return json.loads(output), memory


def swav_rt_step(program, preset, overrides, threads, steps, kernels):
    """Median milliseconds of a step, and the process's largest memory."""
    command = [program, "bench", "step", "--preset", preset, "--steps", str(steps), "--threads", str(threads), "--kernels", kernels]
    command += [part for override in overrides for part in ("--set", override)]
    output, memory = run_and_watch(command)
    return float(output.strip().splitlines()[-1].split()[0]), memory


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
        """The milliseconds that measure gives, and the largest memory: on the CPU the process's, which measure gives, too."""
        if provider == "cpu":
            return measure()
        watch = cls()
        watch.start()
        milliseconds, _ = measure()
        watch.ends.set()
        watch.join()
        return milliseconds, watch.largest


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", help="preset of the step")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="overrides a setting")
    parser.add_argument("--threads", default="1,2", help="numbers of threads, separated by commas")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help="steps of a round")
    parser.add_argument("--swav-rt", default=str(ROOT / "target/release/swav-rt"))
    parser.add_argument("--graphgen", default=str(ROOT / "target/release/graphgen"))
    parser.add_argument("--kernels", choices=["native", "functions"], default="native", help="functions: stock operators alone; with --set train.target=cpu the fastest ones")
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
                run = lambda: pytorch_in_a_process(config, threads, arguments.steps, layout, arguments.provider)
                milliseconds, memory[layout] = GpuMemory.during(arguments.provider, run)
                times[layout].append(milliseconds)
            run = lambda: swav_rt_step(arguments.swav_rt, arguments.preset, arguments.set, threads, arguments.steps, arguments.kernels)
            milliseconds, memory["swav-rt"] = GpuMemory.during(arguments.provider, run)
            times["swav-rt"].append(milliseconds)
        medians = {name: statistics.median(values) for name, values in times.items()}
        best = min(medians["NCHW"], medians["channels_last"])
        print(f"{threads} threads: PyTorch NCHW {medians['NCHW']:.1f}, channels_last {medians['channels_last']:.1f}, "
              f"swav-rt {medians['swav-rt']:.1f} ms; ratio {medians['swav-rt'] / best:.2f}; MiB {memory}", flush=True)
        if arguments.provider != "cpu":
            batch = config["train"]["batch_size"]
            for name, milliseconds in medians.items():
                print(f"{name}: {batch / milliseconds * 1e3:.0f} images/s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
