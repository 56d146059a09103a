#!/usr/bin/env python3
"""Reproduces a PyTorch step with DIR/train_step.onnx and DIR/optimizer.onnx in Python's stock onnxruntime.

    graphgen export --preset models/NAME.toml --out DIR [--set train.batch_size=8]
    python scripts/check_step.py DIR [--state FILE]
    python scripts/check_step.py DIR --native DUMP.safetensors

The weights are a PyTorch state dict, fed to the graphs by name: that of a network that PyTorch has initialised, whose
BatchNorms have scales and shifts by formula, or the one in FILE (`torch.save`; a dictionary with `state_dict` and a
prefix `module.` are fine). Crops come from a formula; a queue is full of random unit vectors. The step is that of tests/golden/swav_reference.py in f64, and the optimizer is fed with
PyTorch's gradients, so that its error is its own.

PyTorch's own step in f32 is compared with f64 as well, as it is and with weights that differ by rounding: in a large
network some activation may lie within rounding of 0, and then no f32 reaches the bounds of the gradients. Exit 0 when
every error is below its bound or four times the largest of PyTorch's own; 1 when one is not. Large batches take
PyTorch's memory: export with a small one. The bias in front of a BatchNorm is left out: its gradient is noise.

With --native nothing runs in onnxruntime: DUMP holds loss, gradients and crops of a native step from DIR's initial weights, as

    cargo run --release -p tests --example dump_step -- DIR DUMP.safetensors

writes it. PyTorch takes the same step in f64, and in f32 a few times as above. Printed are the relative L2 errors of the parameters'
gradients against f64, their median and their largest, and every parameter's error as a multiple of PyTorch's: of its step as it is,
and of its largest. Exit 1 when the median or the largest error is more than three times the largest of PyTorch's own. A single flip near
the loss may do that: look at several seeds.
"""

import argparse
import copy
import json
import pathlib
import sys

import numpy as np
import onnxruntime
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden"))
import formula
import swav_reference as swav

# Loss; relative L2 of scores, embeddings and codes; gradients, median and largest; running statistics; next state.
BOUNDS = {"loss": 1e-5, "outputs": 1e-5, "gradients, median": 1e-4, "gradients, largest": 5e-2,
          "running statistics": 1e-5, "optimizer": 1e-5}
SLACK = 4
# Of a native step's errors, as multiples of PyTorch's.
NATIVE_SLACK = 3
# f32 steps of PyTorch: the first as it is, the others with rounded weights moved by up to 2⁻²⁴ of themselves.
OWN_STEPS = 3
NOISE = "projection_head.0.bias"


def load_state(network, path):
    state = torch.load(path, map_location="cpu", weights_only=True)
    state = state.get("state_dict", state)
    network.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})


def set_batch_norms(network):
    state = {name: torch.from_numpy(formula.weight(name, tuple(value.shape))) for name, value in network.state_dict().items()
             if value.ndim == 1 and (not name.startswith("projection_head.") or name.startswith("projection_head.1."))}
    network.load_state_dict(state, strict=False)


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


def pytorch_step(network, config, pixels, rows, dtype):
    """Named tensors of one step from the network's weights; `pixels`: what `crops` gives."""
    network = copy.deepcopy(network).to(dtype)
    queue = None
    if rows is not None:
        queue = swav.Queue(config, dtype)
        queue.rows = rows.to(dtype, copy=True)
    loss, embeddings, scores, codes = swav.forward_backward(network, pixels, queue, config)
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


def gradient_errors(outputs, reference, exempt):
    """Those of each parameter."""
    return {name.removeprefix("grad/"): relative(outputs[name], value) for name, value in reference.items()
            if name.startswith("grad/") and name.removeprefix("grad/") not in exempt}


def errors(outputs, reference, exempt):
    gradients = list(gradient_errors(outputs, reference, exempt).values())
    largest = lambda wanted: max(relative(outputs[name], value) for name, value in reference.items() if wanted(name))
    return {"loss": largest(lambda name: name == "loss"),
            "outputs": largest(lambda name: name.startswith(("embeddings", "scores", "codes", "next/queue"))),
            "gradients, median": float(np.median(gradients)), "gradients, largest": max(gradients),
            "running statistics": largest(lambda name: "running_" in name)}


def own_steps(network, config, pixels, rows):
    """PyTorch's steps in f32."""
    for number in range(OWN_STEPS):
        moved = copy.deepcopy(network)
        if number > 0:
            with torch.no_grad():
                for parameter in moved.parameters():
                    parameter.mul_(1 + (torch.rand(parameter.shape) - 0.5).sign() * 2.0**-24)
        yield pytorch_step(moved, config, pixels, rows, torch.float32)


def largest_of(steps):
    """The largest of each error over steps."""
    return {name: max(errors[name] for errors in steps) for name in steps[0]}


def optimizer_error(path, network, config, gradients, exempt):
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
    return max(relative(state[name], value.numpy()) for name, value in expected.items() if name.split("/")[-1] not in exempt)


def load_initial(network, path):
    """The weights that DIR holds. Counters of batches are in no graph."""
    missing, unexpected = network.load_state_dict(load_file(path), strict=False)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        sys.exit(f"{path} holds another network: missing {missing}, unexpected {unexpected}")


def check_native(network, config, native, exempt):
    """Compares a native step's gradients with PyTorch's; returns whether they are as good as its own f32."""
    pixels = [native[f"crops/{index}"].numpy() for index in range(len(swav.crop_groups(config)))]
    reference = pytorch_step(network, config, pixels, None, torch.float64)
    of = lambda outputs: gradient_errors(outputs, reference, exempt)
    ours = of({name: value.numpy() for name, value in native.items()})
    own = [of(step) for step in own_steps(network, config, pixels, None)]
    print(f"torch {torch.__version__}; loss {reference['loss'].item():.8f} (PyTorch, f64), {native['loss'].item():.8f} (native)")
    print(f"{'relative error of gradients':32}{'median':>10}{'largest':>10}")
    summary = lambda errors: (float(np.median(list(errors.values()))), max(errors.values()))
    rows = [("native", ours), ("PyTorch f32", own[0])]
    rows += [(f"PyTorch f32, weights moved, {number}", errors) for number, errors in enumerate(own[1:], 1)]
    for name, errors in rows:
        median, largest = summary(errors)
        print(f"{name:32}{median:10.1e}{largest:10.1e}")
    for name, theirs in [("its step", own[0]), ("its largest", largest_of(own))]:
        ratios = {parameter: error / theirs[parameter] for parameter, error in ours.items() if theirs[parameter] > 0}
        worst = max(ratios, key=ratios.get)
        print(f"a parameter's error by PyTorch's, {name}: median {np.median(list(ratios.values())):.2f}, largest {ratios[worst]:.2f} ({worst})")
    bounds = [NATIVE_SLACK * max(pair) for pair in zip(*map(summary, own))]
    good = all(error <= bound for error, bound in zip(summary(ours), bounds))
    print(f"within a factor of {NATIVE_SLACK}" if good else f"beyond a factor of {NATIVE_SLACK}")
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=pathlib.Path, help="what `graphgen export` wrote")
    parser.add_argument("--state", type=pathlib.Path, help="a PyTorch state dict; by default a fresh network's")
    parser.add_argument("--native", type=pathlib.Path, help="a native step's dump, to compare in place of onnxruntime's")
    options = parser.parse_args()
    manifest = options.directory / "manifest.json"
    if not manifest.is_file():
        sys.exit(f"{options.directory} holds no manifest.json; `graphgen export --out {options.directory}` writes it")
    config = json.loads(manifest.read_text())["preset"]

    torch.manual_seed(1)
    network = swav.SwAV(config)
    model = config["model"]
    exempt = {NOISE} if model["hidden_mlp"] and model["projection_batch_norm"] else set()
    if options.native:
        load_initial(network, options.directory / "init.safetensors")
        sys.exit(0 if check_native(network, config, load_file(options.native), exempt) else 1)
    if options.state:
        load_state(network, options.state)
    else:
        set_batch_norms(network)
    pixels, rows = crops(config), queue_rows(config)

    feed = {name: value.numpy() for name, value in network.state_dict().items()}
    feed |= {f"crops/{index}": group for index, group in enumerate(pixels)}
    if rows is not None:
        feed |= {"queue/embeddings": rows.numpy(), "queue/filled": np.array([rows.shape[1]])}
    outputs = run(session_of(options.directory / "train_step.onnx"), feed)
    reference = pytorch_step(network, config, pixels, rows, torch.float64)
    ours = errors(outputs, reference, exempt)
    own = largest_of([errors(step, reference, exempt) for step in own_steps(network, config, pixels, rows)])
    gradients = {name: value for name, value in reference.items() if name.startswith("grad/")}
    ours["optimizer"] = optimizer_error(options.directory / "optimizer.onnx", network, config, gradients, exempt)

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
