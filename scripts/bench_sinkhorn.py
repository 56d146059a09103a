#!/usr/bin/env python3
"""Sinkhorn-Knopp here and in PyTorch, interleaved in one run: medians and their ratio.

    python scripts/bench_sinkhorn.py [--samples 512,4096] [--prototypes 3000] [--threads 1,2] [--rounds 5]

PyTorch computes as the official code does, exponentials and three scalings in f32; swav-rt in f32 with sums in
f64. A ratio below 1 means that swav-rt takes less time.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import time

import torch

from pytorch_cifar10 import sinkhorn_codes

ROOT = pathlib.Path(__file__).resolve().parent.parent
WARM_UP, CALLS = 2, 10


def pytorch(samples, prototypes, threads):
    """Median milliseconds."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    scores = torch.rand(samples, prototypes) * 2 - 1
    times = []
    for call in range(WARM_UP + CALLS):
        began = time.perf_counter()
        sinkhorn_codes(scores)
        if call >= WARM_UP:
            times.append((time.perf_counter() - began) * 1e3)
    return statistics.median(times)


def swav_rt(program, samples, prototypes, threads):
    """Median milliseconds."""
    command = [program, "bench", "sinkhorn", "--json", "--samples", samples, "--prototypes", prototypes, "--threads", threads, "--calls", CALLS]
    output = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout
    return json.loads(output.strip().splitlines()[-1])["ms"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", default="512,4096", help="numbers of samples, separated by commas")
    parser.add_argument("--prototypes", type=int, default=3000)
    parser.add_argument("--threads", default="1,2", help="numbers of threads, separated by commas")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--swav-rt", default=str(ROOT / "target/release/swav-rt"))
    arguments = parser.parse_args()
    for samples in map(int, arguments.samples.split(",")):
        for threads in map(int, arguments.threads.split(",")):
            there, here = [], []
            for _ in range(arguments.rounds):
                there.append(pytorch(samples, arguments.prototypes, threads))
                here.append(swav_rt(arguments.swav_rt, samples, arguments.prototypes, threads))
            there, here = statistics.median(there), statistics.median(here)
            print(f"{samples} x {arguments.prototypes}, {threads} threads: PyTorch {there:.1f}, swav-rt {here:.1f} ms; ratio {here / there:.2f}", flush=True)


if __name__ == "__main__":
    main()
