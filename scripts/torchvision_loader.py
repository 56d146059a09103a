"""The official multi-crop pipeline (docs/numerics.md, "Augmentation") in torchvision on Pillow images, timed on one core.

    taskset -c 0 .venv/bin/python scripts/torchvision_loader.py PHOTOS [--seconds 10]

One process, one thread, no DataLoader: what one core of a loader makes, file by file, up to normalised f32 tensors.
The last line is "… images/s". `scripts/bench_loader.sh` runs it in turn with `swav-rt bench loader`.
"""

import argparse
import pathlib
import random
import time

import torch
import torchvision
from PIL import Image, ImageFilter
from torchvision import transforms

EXTENSIONS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


class GaussianBlur:
    """Pillow's Gaussian blur of a random radius, applied with probability 0.5."""

    def __call__(self, image):
        if random.random() < 0.5:
            image = image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))
        return image


def crop_transform(size, scale):
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(size, scale=scale),
            transforms.RandomHorizontalFlip(0.5),
            transforms.RandomApply([transforms.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8),
            transforms.RandomGrayscale(p=0.2),
            GaussianBlur(),
            transforms.ToTensor(),
            transforms.Normalize(mean=(0.485, 0.456, 0.406), std=(0.228, 0.224, 0.225)),
        ]
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=pathlib.Path, help="folder of photographs, searched in depth")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long to measure")
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(31)
    random.seed(31)
    paths = sorted(path for path in arguments.photos.rglob("*") if path.suffix.lower() in EXTENSIONS)
    if not paths:
        parser.error(f"{arguments.photos}: no images found")
    crops = [crop_transform(224, (0.14, 1.0))] * 2 + [crop_transform(96, (0.05, 0.14))] * 6

    def load(path):
        with open(path, "rb") as file:
            image = Image.open(file).convert("RGB")
        return [crop(image) for crop in crops]

    for path in paths[:16]:
        load(path)
    count = 0
    order = []
    began = time.perf_counter()
    while time.perf_counter() - began < arguments.seconds:
        if not order:
            order = random.sample(paths, len(paths))
        load(order.pop())
        count += 1
    elapsed = time.perf_counter() - began
    print(f"torchvision {torchvision.__version__}, Pillow {Image.__version__}, 2x224 + 6x96, {len(paths)} images")
    print(f"{count / elapsed:.1f} images/s")


if __name__ == "__main__":
    main()
