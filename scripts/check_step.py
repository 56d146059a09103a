#!/usr/bin/env python3
"""Reproduces a PyTorch step with DIR/train_step.onnx and DIR/optimizer.onnx in Python's stock onnxruntime.

    graphgen export --preset models/NAME.toml --out DIR [--set train.batch_size=8]
    python scripts/check_step.py DIR [--state FILE]

The weights are a PyTorch state dict, fed to the graphs by name: that of a freshly initialised network, or the one in
FILE (`torch.save`; a dictionary with `state_dict` and a prefix `module.` are fine). Crops come from a formula; a queue is
full of random unit vectors. The step is that of tests/golden/swav_reference.py in f64, and the optimizer is fed with
PyTorch's gradients, so that its error is its own.

PyTorch's own step in f32 is compared with f64 as well: in deep networks with random weights some activations lie within
rounding of 0, and no f32 reaches the bounds. Exit 0 when every error is below its bound or four times PyTorch's own; 1
when one is not. Large batches take PyTorch's memory: export with a small one.
"""

import argparse
import copy
import json
import pathlib
import sys

import numpy as np
import onnxruntime
import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden"))
import formula
import swav_reference as swav

# Loss; relative L2 of scores, embeddings and codes; gradients, median and largest; running statistics; next state.
BOUNDS = {"loss": 1e-5, "outputs": 1e-5, "gradients, median": 1e-4, "gradients, largest": 5e-2,
          "running statistics": 1e-5, "optimizer": 1e-5}
SLACK = 4


def load_state(network, path):
    state = torch.load(path, map_location="cpu", weights_only=True)
    state = state.get("state_dict", state)
    network.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})


def crops(config):
    batch = config["train"]["batch_size"]
    return [formula.pixels(f"crops/{index}", (count * batch, 3, size, size))
            for index, (size, count) in enumerate(swav.crop_groups(config))]


def queue_rows(config):
    """A full queue f32 [A, L, D], or None."""
    shape = swav.Queue(config, torch.float32).rows.shape
    if shape[1] == 0:
        return None
    return torch.nn.functional.normalize(torch.randn(shape, generator=torch.Generator().manual_seed(2)), dim=2)


def pytorch_step(network, config, rows, dtype):
    """Named tensors of one step from the network's weights."""
    network = copy.deepcopy(network).to(dtype)
    queue = None
    if rows is not None:
        queue = swav.Queue(config, dtype)
        queue.rows = rows.to(dtype)
    loss, embeddings, scores, codes = swav.forward_backward(network, crops(config), queue, config)
    result = {"loss": torch.tensor([loss]), "embeddings": embeddings}
    for kind, heads in [("scores", scores), ("codes", codes)]:
        result |= {kind if len(heads) == 1 else f"{kind}/{index}": head for index, head in enumerate(heads)}
    result |= {f"grad/{name}": parameter.grad for name, parameter in network.named_parameters()}
    result |= {f"next/{name}": value for name, value in network.state_dict().items() if "running_" in name}
    if queue is not None:
        result["next/queue/embeddings"] = queue.rows
    return {name: value.detach().double().numpy() for name, value in result.items()}


def session_of(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def run(session, feed):
    names = [output.name for output in session.get_outputs()]
    missing = [spec.name for spec in session.get_inputs() if spec.name not in feed]
    if missing:
        sys.exit(f"nothing to feed to {', '.join(missing)}")
    wanted = {spec.name for spec in session.get_inputs()}
    return dict(zip(names, session.run(names, {name: value for name, value in feed.items() if name in wanted})))


def relative(value, reference):
    scale, distance = np.linalg.norm(reference), np.linalg.norm(value.astype(np.float64) - reference)
    return distance / scale if scale else (0.0 if distance == 0 else np.inf)


def errors(outputs, reference, exempt):
    gradients = [relative(outputs[name], value) for name, value in reference.items()
                 if name.startswith("grad/") and name.removeprefix("grad/") not in exempt]
    largest = lambda wanted: max(relative(outputs[name], value) for name, value in reference.items() if wanted(name))
    return {"loss": largest(lambda name: name == "loss"),
            "outputs": largest(lambda name: name.startswith(("embeddings", "scores", "codes", "next/queue"))),
            "gradients, median": float(np.median(gradients)), "gradients, largest": max(gradients),
            "running statistics": largest(lambda name: "running_" in name)}


def optimizer_error(path, network, config, gradients):
    """Two updates with the same gradients (one where Adam waits for frozen prototypes), the largest relative error."""
    session, optim = session_of(path), config["optim"]
    rate, adam = optim["base_lr"], optim["name"].startswith("adam")
    reference = copy.deepcopy(network).double()
    optimizer = swav.Optimizer(reference.named_parameters(), config)
    state = {name: parameter.detach().numpy() for name, parameter in network.named_parameters()}
    state |= {name: value.float().numpy() for name, value in optimizer.moments().items()}
    rounded = {name: value.astype(np.float32) for name, value in gradients.items()}
    for update in range(1 if adam and optim["freeze_prototypes_niters"] else 2):
        scalars = {"learning_rate": np.array([rate], np.float32), "train_prototypes": np.array([True]), "step": np.array([update])}
        outputs = run(session, state | rounded | scalars)
        state = {name: outputs[f"next/{name}"] for name in state}
        reference.normalize_prototypes()
        for name, parameter in reference.named_parameters():
            parameter.grad = torch.from_numpy(rounded[f"grad/{name}"]).double()
        optimizer.step(rate, True)
    expected = {name: parameter.detach() for name, parameter in reference.named_parameters()} | optimizer.moments()
    return max(relative(state[name], value.numpy()) for name, value in expected.items())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=pathlib.Path, help="what `graphgen export` wrote")
    parser.add_argument("--state", type=pathlib.Path, help="a PyTorch state dict; by default a fresh network's")
    options = parser.parse_args()
    manifest = options.directory / "manifest.json"
    if not manifest.is_file():
        sys.exit(f"{options.directory} holds no manifest.json; `graphgen export --out {options.directory}` writes it")
    config = json.loads(manifest.read_text())["preset"]

    torch.manual_seed(1)
    network = swav.SwAV(config)
    if options.state:
        load_state(network, options.state)
    model, rows = config["model"], queue_rows(config)
    exempt = {"projection_head.0.bias"} if model["hidden_mlp"] and model["projection_batch_norm"] else set()

    feed = {name: value.numpy() for name, value in network.state_dict().items()}
    feed |= {f"crops/{index}": group for index, group in enumerate(crops(config))}
    if rows is not None:
        feed |= {"queue/embeddings": rows.numpy(), "queue/filled": np.array([rows.shape[1]])}
    outputs = run(session_of(options.directory / "train_step.onnx"), feed)
    reference = pytorch_step(network, config, rows, torch.float64)
    ours = errors(outputs, reference, exempt)
    own = errors(pytorch_step(network, config, rows, torch.float32), reference, exempt)
    gradients = {name: value for name, value in reference.items() if name.startswith("grad/")}
    ours["optimizer"] = optimizer_error(options.directory / "optimizer.onnx", network, config, gradients)

    print(f"onnxruntime {onnxruntime.__version__}, torch {torch.__version__}; loss {reference['loss'].item():.8f} (PyTorch, f64)")
    print(f"{'relative error against PyTorch f64':36}{'onnxruntime':>12}{'PyTorch f32':>13}{'bound':>9}")
    failed = False
    for name, error in ours.items():
        bound, pytorch = BOUNDS[name], own.get(name)
        failed |= not error <= max(bound, SLACK * (pytorch or 0))
        print(f"{name:36}{error:12.1e}{'' if pytorch is None else f'{pytorch:.1e}':>13}{bound:9.0e}{'' if error <= bound else '  beyond the bound'}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
