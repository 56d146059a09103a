#!/usr/bin/env python3
"""SwAV in PyTorch with exactly the setting of models/cifar10-small.toml: the reference to measure this project against.

Plain PyTorch as most people would run it: torchvision transforms on Pillow images, a DataLoader with one worker per
core, eager mode, f32, CPU. Reads class-folder tar files of images.

    python scripts/pytorch_cifar10.py --train DATA/cifar10-train.tar --test DATA/cifar10-test.tar > pytorch.jsonl

Prints one JSON object a step (step, epoch, loss, lr, images_per_sec), then one object with the kNN accuracy of the
untrained and the trained backbone and the images/s of the whole training, evaluation excluded.

Needs scripts/requirements.txt. Nothing else in this project needs Python.
"""

import argparse
import io
import json
import math
import os
import sys
import tarfile
import time

import torch
import torch.nn as nn
import torch.nn.functional as F
import torchvision.transforms as T
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Subset

MEAN = (0.485, 0.456, 0.406)
STD = (0.228, 0.224, 0.225)
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


# ----------------------------------------------------------------------------------------------------------- data


class TarImages(Dataset):
    """The images of a tar file, in memory as they were encoded; the class is the name of an image's folder."""

    def __init__(self, path, transform):
        self.transform = transform
        self.encoded, folders = [], []
        with tarfile.open(path) as tar:
            for member in tar:
                if member.isfile() and member.name.lower().endswith(IMAGE_ENDINGS):
                    self.encoded.append(tar.extractfile(member).read())
                    folders.append(os.path.basename(os.path.dirname(member.name)))
        if not self.encoded:
            sys.exit(f"{path}: no images found")
        self.classes = sorted(set(folders))
        index = {name: number for number, name in enumerate(self.classes)}
        self.labels = [index[folder] for folder in folders]

    def __len__(self):
        return len(self.encoded)

    def __getitem__(self, item):
        image = Image.open(io.BytesIO(self.encoded[item])).convert("RGB")
        return self.transform(image), self.labels[item]


class TwoCrops:
    """Two independent augmentations of one image."""

    def __init__(self, transform):
        self.transform = transform

    def __call__(self, image):
        return self.transform(image), self.transform(image)


def augmentation(size=32, min_scale=0.2, jitter=0.5, grayscale=0.2):
    return T.Compose([
        T.RandomResizedCrop(size, scale=(min_scale, 1.0)),
        T.RandomHorizontalFlip(0.5),
        T.RandomApply([T.ColorJitter(0.8 * jitter, 0.8 * jitter, 0.8 * jitter, 0.2 * jitter)], p=0.8),
        T.RandomGrayscale(grayscale),
        T.ToTensor(),
        T.Normalize(MEAN, STD),
    ])


def plain():
    return T.Compose([T.ToTensor(), T.Normalize(MEAN, STD)])


# ---------------------------------------------------------------------------------------------------------- model


class BasicBlock(nn.Module):
    def __init__(self, channels_in, channels, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = None
        if stride != 1 or channels_in != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = self.bn2(self.conv2(x))
        return F.relu(x + shortcut, inplace=True)


class SwAV(nn.Module):
    """ResNet-10 with a 3x3 stem of stride 2, projection head and prototypes."""

    def __init__(self, width=32, hidden=256, feat_dim=64, prototypes=100):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        channels_in = width
        for stage in range(4):
            channels = width << stage
            block = BasicBlock(channels_in, channels, 1 if stage == 0 else 2)
            setattr(self, f"layer{stage + 1}", nn.Sequential(block))
            channels_in = channels
        self.projection_head = nn.Sequential(
            nn.Linear(channels_in, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, feat_dim))
        self.prototypes = nn.Linear(feat_dim, prototypes, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, x):
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x.mean((2, 3))

    def forward(self, x):
        embeddings = F.normalize(self.projection_head(self.features(x)), dim=1)
        return self.prototypes(embeddings)

    @torch.no_grad()
    def normalize_prototypes(self):
        self.prototypes.weight.copy_(F.normalize(self.prototypes.weight, dim=1))


# ----------------------------------------------------------------------------------------------------------- loss


@torch.no_grad()
def sinkhorn_codes(scores, epsilon=0.05, iterations=3):
    """scores [B, K] -> codes [B, K]: every sample sums to 1, every prototype to about B/K."""
    q = torch.exp(scores / epsilon).t()
    prototypes, samples = q.shape
    q = q / q.sum()
    for _ in range(iterations):
        q = q / q.sum(dim=1, keepdim=True) / prototypes
        q = q / q.sum(dim=0, keepdim=True) / samples
    return (q * samples).t()


def swapped_loss(scores, crops=2, temperature=0.1):
    """scores [crops·B, K], crop-major: each crop's codes are predicted from every other crop."""
    per_crop = scores.chunk(crops)
    log_probabilities = [F.log_softmax(s / temperature, dim=1) for s in per_crop]
    loss = 0.0
    for assigned in range(crops):
        codes = sinkhorn_codes(per_crop[assigned].detach())
        others = [v for v in range(crops) if v != assigned]
        loss = loss + sum(-(codes * log_probabilities[v]).sum(1).mean() for v in others) / len(others)
    return loss / crops


def learning_rates(steps_per_epoch, epochs, base, warmup_epochs, start=0.0, final=0.0):
    """Linear warm-up with both ends, then a cosine that starts at `base` again and never reaches `final`."""
    warmup = int(steps_per_epoch * warmup_epochs)
    rest = steps_per_epoch * epochs - warmup
    rates = [start + (base - start) * t / max(warmup - 1, 1) for t in range(warmup)]
    return rates + [final + 0.5 * (base - final) * (1 + math.cos(math.pi * t / rest)) for t in range(rest)]


# ----------------------------------------------------------------------------------------------------- evaluation


@torch.no_grad()
def all_features(model, dataset, workers):
    model.eval()
    loader = DataLoader(dataset, batch_size=256, num_workers=workers)
    features, labels = zip(*((F.normalize(model.features(images), dim=1), labels) for images, labels in loader))
    model.train()
    return torch.cat(features), torch.cat(labels)


def knn_accuracy(model, bank, test, classes, workers, k=20, temperature=0.07):
    """Weighted kNN on pooled backbone features: cosine similarity, weights exp(similarity / temperature)."""
    bank_features, bank_labels = all_features(model, bank, workers)
    test_features, test_labels = all_features(model, test, workers)
    correct = 0
    for features, labels in zip(test_features.split(512), test_labels.split(512)):
        similarity, neighbours = (features @ bank_features.t()).topk(k, dim=1)
        votes = F.one_hot(bank_labels[neighbours], classes) * (similarity / temperature).exp().unsqueeze(2)
        correct += (votes.sum(1).argmax(1) == labels).sum().item()
    return correct / len(test_labels)


# ----------------------------------------------------------------------------------------------------------- main


def random_subset(dataset, count, seed):
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))
    return Subset(dataset, order[: count or len(dataset)].tolist())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", required=True, help="tar of class folders")
    parser.add_argument("--test", help="tar of class folders; without it there is no kNN")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--max-steps", type=int, help="stop early; the schedule stays that of --epochs")
    parser.add_argument("--limit", type=int, default=20000, help="seeded random subset of the training images; 0 for all")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--bank", type=int, default=10000, help="training images in the kNN bank")
    parser.add_argument("--test-limit", type=int, default=0, help="seeded random subset of the test images; 0 for all")
    parser.add_argument("--seed", type=int, default=31)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="torch threads and loader workers")
    parser.add_argument("--channels-last", action="store_true", help="NHWC memory format")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)

    train = random_subset(TarImages(options.train, TwoCrops(augmentation())), options.limit, options.seed)
    if len(train) < options.batch_size:
        sys.exit(f"{len(train)} images are fewer than one batch of {options.batch_size}")
    loader = DataLoader(train, options.batch_size, shuffle=True, drop_last=True, num_workers=options.threads,
                        persistent_workers=options.threads > 0)
    model = SwAV()
    if options.channels_last:
        model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3, weight_decay=1e-6)
    rates = learning_rates(len(loader), options.epochs, base=2e-3, warmup_epochs=0.4)
    if options.max_steps is not None:
        rates = rates[: options.max_steps]

    result = {}
    if options.test:
        bank_images = TarImages(options.train, plain())
        bank = random_subset(bank_images, options.bank, options.seed + 1)
        test = random_subset(TarImages(options.test, plain()), options.test_limit, options.seed)

        def evaluate():
            return knn_accuracy(model, bank, test, len(bank_images.classes), options.threads)

        result["knn_untrained"] = evaluate()
        print(f"untrained: kNN {result['knn_untrained']:.2%}", file=sys.stderr)

    started = last = time.perf_counter()
    step = 0
    while step < len(rates):
        for crops, _ in loader:
            if step == len(rates):
                break
            for group in optimizer.param_groups:
                group["lr"] = rates[step]
            model.normalize_prototypes()
            images = torch.cat(crops)
            if options.channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            loss = swapped_loss(model(images))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            now = time.perf_counter()
            print(json.dumps({
                "step": step, "epoch": step // len(loader), "loss": round(loss.item(), 6), "lr": rates[step],
                "images_per_sec": round(options.batch_size / (now - last), 1),
            }), flush=True)
            last, step = now, step + 1
    elapsed = time.perf_counter() - started

    if options.test:
        result["knn"] = evaluate()
        print(f"trained:   kNN {result['knn']:.2%}", file=sys.stderr)
    result |= {
        "steps": step, "images": step * options.batch_size, "train_secs": round(elapsed, 2),
        "images_per_sec": round(step * options.batch_size / elapsed, 1) if step else 0.0,
        "threads": options.threads, "torch": torch.__version__, "channels_last": options.channels_last,
    }
    print(json.dumps(result), flush=True)
    print(f"{result['images_per_sec']} images/s over {step} steps", file=sys.stderr)


if __name__ == "__main__":
    main()
