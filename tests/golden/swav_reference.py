"""SwAV in PyTorch, written from the description in docs/numerics.md: the reference of the goldens and of
scripts/check_step.py. Every floating-point type works; the goldens use f64.

Settings are those of a preset, as nested dictionaries: `manifest.json` holds them under "preset", and `settings`
makes them of `section.key=value` overrides, as `--set` does.

`SwAV.embed`, `assign_codes` and `swapped_loss` are apart, so that codes may come from more rows than the loss: that is
what gradient accumulation needs.
"""

import copy
import json
import math

import torch
import torch.nn as nn
import torch.nn.functional as F

DEFAULTS = {
    "model": {
        "arch": "resnet50", "width": 64, "stem": "imagenet", "stem_stride": 2, "hidden_mlp": 2048,
        "projection_batch_norm": True, "feat_dim": 128, "nmb_prototypes": 3000, "batch_norm_groups": "size",
    },
    "crops": {"size_crops": [224, 96], "nmb_crops": [2, 6], "crops_for_assign": [0, 1],
              "min_scale_crops": [0.14, 0.05], "max_scale_crops": [1.0, 0.14]},
    "loss": {"temperature": 0.1, "epsilon": 0.05, "sinkhorn_iterations": 3, "queue_length": 0, "epoch_queue_starts": 15},
    "optim": {
        "name": "lars", "base_lr": 4.8, "final_lr": 0.0, "start_warmup": 0.0, "warmup_epochs": 10.0,
        "schedule_per": "step", "weight_decay": 1e-6, "momentum": 0.9, "trust_coefficient": 0.001,
        "freeze_prototypes_niters": 313,
    },
    "data": {"mean": [0.485, 0.456, 0.406], "std": [0.228, 0.224, 0.225]},
    "train": {"epochs": 100, "batch_size": 4096},
}


def settings(overrides):
    """The defaults of a preset, changed by `section.key=value` texts."""
    result = copy.deepcopy(DEFAULTS)
    for override in overrides:
        path, value = override.split("=", 1)
        section, key = path.split(".")
        if key not in result[section]:
            raise KeyError(path)
        try:
            result[section][key] = json.loads(value)
        except json.JSONDecodeError:
            result[section][key] = value
    return result


def crop_groups(config):
    """(side, number of crops) of each group of adjacent crops of one size."""
    groups = []
    for size, count in zip(config["crops"]["size_crops"], config["crops"]["nmb_crops"]):
        if groups and groups[-1][0] == size:
            groups[-1][1] += count
        else:
            groups.append([size, count])
    return groups


# -------------------------------------------------------------------------------------------------------- network


class Block(nn.Module):
    """A basic block, or a bottleneck with the stride in its 3x3 convolution."""

    def __init__(self, channels, width, stride, bottleneck):
        super().__init__()
        out = 4 * width if bottleneck else width
        layers = [(channels, width, 1, 1), (width, width, 3, stride), (width, out, 1, 1)] if bottleneck else [
            (channels, width, 3, stride), (width, out, 3, 1)]
        self.depth = len(layers)
        for index, (before, after, kernel, step) in enumerate(layers, 1):
            self.add_module(f"conv{index}", nn.Conv2d(before, after, kernel, step, kernel // 2, bias=False))
            self.add_module(f"bn{index}", nn.BatchNorm2d(after))
        self.downsample = None
        if stride != 1 or channels != out:
            self.downsample = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x):
        y = x
        for index in range(1, self.depth + 1):
            y = getattr(self, f"bn{index}")(getattr(self, f"conv{index}")(y))
            if index < self.depth:
                y = F.relu(y)
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class SwAV(nn.Module):
    """Backbone, projection head and prototypes, with the names of the official weights."""

    def __init__(self, config):
        super().__init__()
        model = self.config = config["model"]
        basic = {"resnet10": [1, 1, 1, 1], "resnet18": [2, 2, 2, 2], "resnet34": [3, 4, 6, 3]}
        blocks = {"resnet14": [1, 1, 1, 1], "resnet26": [2, 2, 2, 2], "resnet50": [3, 4, 6, 3]} | basic
        bottleneck = model["arch"] not in basic
        channels = width = model["width"]
        self.conv1 = (nn.Conv2d(3, width, 7, 2, 3, bias=False) if model["stem"] == "imagenet"
                      else nn.Conv2d(3, width, 3, model["stem_stride"], 1, bias=False))
        self.bn1 = nn.BatchNorm2d(width)
        for stage, count in enumerate(blocks[model["arch"]]):
            layer = []
            for block in range(count):
                layer.append(Block(channels, width << stage, 2 if stage > 0 and block == 0 else 1, bottleneck))
                channels = (width << stage) * (4 if bottleneck else 1)
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layer))
        hidden, dimensions = model["hidden_mlp"], model["feat_dim"]
        if hidden == 0:
            self.projection_head = nn.Linear(channels, dimensions)
        else:
            norm = [nn.BatchNorm1d(hidden)] if model["projection_batch_norm"] else []
            self.projection_head = nn.Sequential(nn.Linear(channels, hidden), *norm, nn.ReLU(), nn.Linear(hidden, dimensions))
        counts = model["nmb_prototypes"]
        if isinstance(counts, int):
            self.prototypes = nn.Linear(dimensions, counts, bias=False)
        else:
            self.prototypes = nn.Module()
            for head, count in enumerate(counts):
                self.prototypes.add_module(f"prototypes{head}", nn.Linear(dimensions, count, bias=False))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def heads(self):
        """The prototypes' parameters, one a head."""
        return [module.weight for module in self.prototypes.modules() if isinstance(module, nn.Linear)]

    @torch.no_grad()
    def normalize_prototypes(self):
        for prototypes in self.heads():
            prototypes.copy_(F.normalize(prototypes, dim=1))

    def features(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        if self.config["stem"] == "imagenet":
            x = F.max_pool2d(x, 3, 2, 1)
        return self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean((2, 3))

    def project(self, features):
        return F.normalize(self.projection_head(features), dim=1)

    def embed(self, groups, batch):
        """Pixels [count·B, 3, S, S] of each group of adjacent crops of one size → embeddings [V·B, D], crop-major."""
        if self.config["batch_norm_groups"] == "crop":
            return torch.cat([self.project(self.features(crop)) for group in groups for crop in group.split(batch)])
        return self.project(torch.cat([self.features(group) for group in groups]))

    def scores(self, embeddings):
        """Scores [V·B, K] of each head."""
        return [embeddings @ prototypes.t() for prototypes in self.heads()]


def normalize_pixels(crops, config, dtype):
    """u8 [N, 3, S, S] → the input of the network."""
    constant = lambda name: torch.tensor(config["data"][name], dtype=dtype).view(1, 3, 1, 1)
    return (torch.as_tensor(crops).to(dtype) / 255 - constant("mean")) / constant("std")


# ----------------------------------------------------------------------------------------------------------- loss


@torch.no_grad()
def sinkhorn(scores, epsilon, iterations):
    """Codes [B, K] of scores [B, K], on logarithms in f64."""
    log = scores.double() / epsilon
    log = log - log.logsumexp((0, 1))
    for _ in range(iterations):
        log = log - log.logsumexp(0, keepdim=True) - math.log(log.shape[1])
        log = log - log.logsumexp(1, keepdim=True) - math.log(log.shape[0])
    return (log + math.log(log.shape[0])).exp().to(scores.dtype)


class Queue:
    """The embeddings of earlier batches, for each assigned crop: zeros [A, L, D] at first."""

    def __init__(self, config, dtype):
        batch = config["train"]["batch_size"]
        length = config["loss"]["queue_length"] // batch * batch
        self.rows = torch.zeros(len(config["crops"]["crops_for_assign"]), length, config["model"]["feat_dim"], dtype=dtype)


@torch.no_grad()
def assign_codes(model, embeddings, scores, queue, config):
    """Codes of each head and assigned crop, [heads][A] of [B, K]; shifts the queue."""
    batch, loss = config["train"]["batch_size"], config["loss"]
    codes = [[] for _ in scores]
    for position, crop in enumerate(config["crops"]["crops_for_assign"]):
        rows = slice(crop * batch, (crop + 1) * batch)
        to_assign = [head[rows] for head in scores]
        if queue is not None:
            old = queue.rows[position]
            if bool((old[-1] != 0).any()):
                to_assign = [torch.cat([old @ prototypes.t(), head]) for prototypes, head in zip(model.heads(), to_assign)]
            queue.rows[position] = torch.cat([embeddings[rows], old[:-batch]])
        for head, rows_to_assign in zip(codes, to_assign):
            head.append(sinkhorn(rows_to_assign, loss["epsilon"], loss["sinkhorn_iterations"])[-batch:])
    return codes


def swapped_loss(scores, codes, config):
    """The mean over heads, assigned crops and the other crops of the cross-entropy between codes and predictions."""
    batch, total = config["train"]["batch_size"], sum(config["crops"]["nmb_crops"])
    loss = 0
    for head_scores, head_codes in zip(scores, codes):
        predictions = F.log_softmax(head_scores / config["loss"]["temperature"], dim=1).split(batch)
        for assigned, code in zip(config["crops"]["crops_for_assign"], head_codes):
            others = [predictions[crop] for crop in range(total) if crop != assigned]
            loss = loss + sum(-(code * other).sum(1).mean() for other in others) / len(others)
    return loss / (len(scores) * len(config["crops"]["crops_for_assign"]))


def forward_backward(model, crops, queue, config):
    """One step without the update; gradients are left on the parameters. `crops`: u8, one array a group.
    Returns loss, embeddings, and scores and codes of each head (codes [A·B, K])."""
    dtype = model.conv1.weight.dtype
    model.train()
    model.zero_grad()
    model.normalize_prototypes()
    embeddings = model.embed([normalize_pixels(group, config, dtype) for group in crops], config["train"]["batch_size"])
    scores = model.scores(embeddings)
    codes = assign_codes(model, embeddings, [head.detach() for head in scores], queue, config)
    loss = swapped_loss(scores, codes, config)
    loss.backward()
    return loss.item(), embeddings.detach(), [head.detach() for head in scores], [torch.cat(head) for head in codes]


# ------------------------------------------------------------------------------------------------------ optimizer


class Optimizer:
    """torch.optim's SGD, Adam and AdamW, and LARS as a change of the gradients in front of SGD."""

    EPSILON = 1e-8

    def __init__(self, named_parameters, config):
        self.optim = config["optim"]
        self.parameters = dict(named_parameters)
        decay = self.optim["weight_decay"]
        sgd = {"lr": 0.0, "momentum": self.optim["momentum"]}
        make = {
            "lars": lambda p: torch.optim.SGD(p, **sgd),
            "sgd": lambda p: torch.optim.SGD(p, weight_decay=decay, **sgd),
            "adam": lambda p: torch.optim.Adam(p, lr=0.0, weight_decay=decay),
            "adamw": lambda p: torch.optim.AdamW(p, lr=0.0, weight_decay=decay),
        }
        self.inner = make[self.optim["name"]](list(self.parameters.values()))

    @torch.no_grad()
    def step(self, learning_rate, train_prototypes):
        for name, parameter in self.parameters.items():
            if name.startswith("prototypes.") and not train_prototypes:
                parameter.grad = None
            elif self.optim["name"] == "lars":
                parameter.grad = self.lars(parameter, parameter.grad)
        for group in self.inner.param_groups:
            group["lr"] = learning_rate
        self.inner.step()

    def lars(self, parameter, gradient):
        size, slope, decay = parameter.norm(), gradient.norm(), self.optim["weight_decay"]
        if size == 0 or slope == 0:
            return gradient
        return (gradient + decay * parameter) * (
            self.optim["trust_coefficient"] * size / (slope + decay * size + self.EPSILON))

    def moments(self):
        """`momentum/<parameter>`, and `variance/<parameter>` of Adam and AdamW; zeros before the first update."""
        adam = self.optim["name"].startswith("adam")
        keys = [("momentum", "exp_avg"), ("variance", "exp_avg_sq")] if adam else [("momentum", "momentum_buffer")]
        result = {}
        for name, parameter in self.parameters.items():
            state = self.inner.state.get(parameter, {})
            for prefix, key in keys:
                value = state.get(key)
                result[f"{prefix}/{name}"] = torch.zeros_like(parameter) if value is None else value.detach()
        return result


def learning_rates(config, steps_per_epoch):
    """The learning rate of every step."""
    optim, epochs = config["optim"], config["train"]["epochs"]
    base, last, start = optim["base_lr"], optim["final_lr"], optim["start_warmup"]
    hold = steps_per_epoch if optim["schedule_per"] == "epoch" else 1
    points = steps_per_epoch * epochs // hold
    warmup = round(points / epochs * optim["warmup_epochs"])
    spacing = (base - start) / max(warmup - 1, 1)
    rates = [start + spacing * t for t in range(warmup)]
    if warmup > 1:
        rates[-1] = base
    rest = points - warmup
    rates += [last + 0.5 * (base - last) * (1 + math.cos(math.pi * t / rest)) for t in range(rest)]
    return [rate for rate in rates for _ in range(hold)]


def train(model, config, steps_per_epoch, crops_of):
    """Trains; yields (step, loss, codes, optimizer, queue) after each update. `crops_of(step)` gives the batch."""
    optimizer = Optimizer(model.named_parameters(), config)
    queue = None
    for step, rate in enumerate(learning_rates(config, steps_per_epoch)):
        if config["loss"]["queue_length"] and step == config["loss"]["epoch_queue_starts"] * steps_per_epoch:
            queue = Queue(config, model.conv1.weight.dtype)
        loss, _, _, codes = forward_backward(model, crops_of(step), queue, config)
        optimizer.step(rate, step >= config["optim"]["freeze_prototypes_niters"])
        yield step, loss, codes, optimizer, queue
