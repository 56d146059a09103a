#!/usr/bin/env python3
"""Checks `swav-rt eval` against scikit-learn on the very same features.

    python scripts/check_eval.py --swav-rt target/release/swav-rt --encoder encoder.onnx --train TRAIN --test TEST

`swav-rt embed` writes the features of both sets (folders of class folders, or tars of them).

1. kNN: scikit-learn's KNeighborsClassifier (brute force, cosine distance, weights exp(similarity / temperature)) gives
   the same class for every test image, for k = 10, 20 and 200 and temperatures 0.07 and 0.1.
2. Linear: scikit-learn's LogisticRegression (L-BFGS until it converges, with the L2 penalty on weights and bias that the
   weight decay amounts to) is within one point of `swav-rt eval linear` in top-1 accuracy, at two weight decays:
   - 1e-3, where both reach the optimum: SGD takes as many steps as 100 epochs of 50,000 images have, at any number of images;
   - 1e-6, the official protocol of 100 epochs, on 20,000 images and more. The optimum of few images is one of overfitting
     there: accuracy on other images falls on the way to it, and a classifier that was stopped after 100 epochs cannot be
     compared with one that has arrived. Both figures are printed then, and not judged.

Needs numpy and scikit-learn.
"""

import argparse
import csv
import json
import math
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import sklearn
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

EPOCHS = 100
ITERATIONS = 10000
KNN = [(10, 0.07), (20, 0.07), (200, 0.07), (200, 0.1)]
failures = []


def check(holds, text):
    print(f"{'ok' if holds else 'FAILED'}: {text}", flush=True)
    if not holds:
        failures.append(text)


def with_bias(rows):
    """The bias as the weight of a constant feature, so that scikit-learn penalises it as SGD's weight decay does."""
    return np.hstack([rows.astype("f8"), np.ones((len(rows), 1))])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--swav-rt", default="swav-rt")
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", required=True)
    options = parser.parse_args()

    def swav_rt(*arguments):
        return subprocess.run([options.swav_rt, *map(str, arguments)], check=True, stdout=subprocess.PIPE, text=True).stdout

    def predictions(folder):
        with open(folder / "predictions.csv", newline="") as file:
            return np.array([row["predicted"] for row in csv.DictReader(file)])

    print(f"scikit-learn {sklearn.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)

        def embed(data, name):
            swav_rt("embed", "--encoder", options.encoder, "--data", data, "--out", folder / f"{name}.npy", "--quiet")
            return np.load(folder / f"{name}.npy"), np.array(json.loads((folder / f"{name}.json").read_text())["classes"])

        train, train_classes = embed(options.train, "train")
        test, test_classes = embed(options.test, "test")
        print(f"{len(train)} training and {len(test)} test images, features of {train.shape[1]}")
        sets = ("--encoder", options.encoder, "--train", options.train, "--test", options.test, "--quiet", "--json")

        for weight_decay, epochs, judged in [(1e-3, max(EPOCHS, math.ceil(EPOCHS * 50000 / len(train))), True), (1e-6, EPOCHS, len(train) >= 20000)]:
            out = folder / f"linear-{weight_decay}"
            ours = json.loads(swav_rt("eval", "linear", *sets, "--weight-decay", weight_decay, "--epochs", epochs, "--out", out))
            # Loss + wd/2·|W|² a mean over N images is 1/2·|W|² + C·(sum of losses) with C = 1 / (N·wd).
            regression = LogisticRegression(C=1 / (len(train) * weight_decay), fit_intercept=False, tol=1e-6, max_iter=ITERATIONS)
            theirs = regression.fit(with_bias(train), train_classes).predict(with_bias(test))
            accuracy = (theirs == test_classes).mean()
            iterations = regression.n_iter_.max()
            differ = (theirs != predictions(out)).sum()
            text = (f"linear, weight decay {weight_decay}: {100 * ours['top1']:.2f} % after {epochs} epochs, scikit-learn {100 * accuracy:.2f} % "
                    f"after {iterations} iterations, {differ} of {len(test)} predictions differ")
            if judged:
                check(iterations < ITERATIONS and abs(ours["top1"] - accuracy) <= 0.01, text)
            else:
                print(f"not judged: {text}", flush=True)
            check((predictions(out) == test_classes).mean() == ours["top1"], "predictions.csv has the printed accuracy")

        for k, temperature in KNN:
            out = folder / f"knn-{k}-{temperature}"
            ours = json.loads(swav_rt("eval", "knn", *sets, "--k", k, "--temperature", temperature, "--out", out))
            neighbours = KNeighborsClassifier(k, algorithm="brute", metric="cosine", weights=lambda distance: np.exp((1 - distance) / temperature))
            theirs = neighbours.fit(train.astype("f8"), train_classes).predict(test.astype("f8"))
            accuracy = (theirs == test_classes).mean()
            differ = (theirs != predictions(out)).sum()
            check(differ == 0, f"kNN k={k} temperature {temperature}: {100 * ours['top1']:.2f} %, scikit-learn {100 * accuracy:.2f} %, "
                  f"{differ} of {len(test)} predictions differ")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
