#!/usr/bin/env python3
"""Checks that encoder.onnx is what any stack can use, and that it computes what `swav-rt embed` computes.

    swav-rt embed --encoder encoder.onnx --data DATA --out features.npy
    python scripts/check_encoder.py --encoder encoder.onnx --data DATA --features features.npy

1. The file holds only ai.onnx operators and no functions, and takes u8 images [N, 3, H, W] with free N, H, W.
2. Python's stock onnxruntime gives the same features whatever the batch size, and runs on any size from 32 px.
3. On the images of DATA (a folder or a tar, decoded by Pillow) it gives the features of `swav-rt embed`: the largest
   difference is at most 1e-4 of their root mean square.

Images up to 64 px are taken as they are. Larger ones are resized (short side 256, centre 224) by Pillow here and by
this project's own resampling there, which may differ by 1/255 in a pixel: their distance is reported, not judged.
"""

import argparse
import io
import pathlib
import sys
import tarfile

import numpy as np
import onnx
import onnxruntime
from PIL import Image

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
failures = []


def check(holds, text):
    print(f"{'ok' if holds else 'FAILED'}: {text}")
    if not holds:
        failures.append(text)


def read_images(path):
    """(name, encoded bytes) in the order of names, hidden files left out: the order of swav-rt."""

    def visible_image(name):
        return name.lower().endswith(ENDINGS) and not any(part.startswith(".") for part in name.split("/"))

    if path.is_dir():
        names = [(file.relative_to(path).as_posix(), file) for file in path.rglob("*") if file.is_file()]
        images = [(name, file.read_bytes()) for name, file in names if visible_image(name)]
    elif path.is_file():
        with tarfile.open(path) as tar:
            names = [(member.name.removeprefix("./"), member) for member in tar if member.isfile()]
            images = [(name, tar.extractfile(member).read()) for name, member in names if visible_image(name)]
    else:
        sys.exit(f"{path}: no such folder or tar")
    if not images:
        sys.exit(f"{path}: no images found")
    return sorted(images, key=lambda image: image[0].encode())


def decode(encoded):
    """u8 [3, H, W] and whether the image was resized."""
    image = Image.open(io.BytesIO(encoded)).convert("RGB")
    width, height = image.size
    resized = max(width, height) > 64
    if resized:
        short = min(width, height)
        size = (256, 256 * height // width) if width == short else (256 * width // height, 256)
        image = image.resize(size, Image.Resampling.BILINEAR)
        left, top = round((size[0] - 224) / 2), round((size[1] - 224) / 2)
        image = image.crop((left, top, left + 224, top + 224))
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1)), resized


def run(session, images, output):
    return session.run([output], {"image": images})[0]


def check_file(path):
    model = onnx.load(path)
    domains = {node.domain for node in model.graph.node} - {"", "ai.onnx"}
    check(not domains, f"only ai.onnx operators{': also ' + ', '.join(sorted(domains)) if domains else ''}")
    check(not model.functions, "no functions")
    foreign = {entry.domain for entry in model.opset_import} - {"", "ai.onnx"}
    check(not foreign, "no other operator sets are imported")
    onnx.checker.check_model(model)
    shapes = {spec.name: spec.type.tensor_type for spec in model.graph.input}
    check(list(shapes) == ["image"], f"one input, `image` (found {', '.join(shapes)})")
    image = shapes["image"]
    check(image.elem_type == onnx.TensorProto.UINT8, "u8 pixels")
    dims = image.shape.dim
    free = [bool(dim.dim_param) for dim in dims]
    check(free == [True, False, True, True] and dims[1].dim_value == 3, "image [N, 3, H, W] with free N, H, W")
    outputs = [spec.name for spec in model.graph.output]
    check(outputs == ["features", "embedding"], f"outputs features, embedding (found {', '.join(outputs)})")
    print("operators:", ", ".join(sorted({node.op_type for node in model.graph.node})))


def check_shapes(session):
    random = np.random.default_rng(7)
    images = random.integers(0, 256, (7, 3, 48, 40), dtype=np.uint8)
    single = np.concatenate([run(session, images[i : i + 1], "features") for i in range(7)])
    scale = np.sqrt((single ** 2).mean())
    for batch in (2, 3, 7):
        parts = np.concatenate([run(session, images[i : i + batch], "features") for i in range(0, 7, batch)])
        check(np.abs(parts - single).max() <= 1e-5 * scale, f"batches of {batch} give the features of single images")
    norms = np.linalg.norm(run(session, images, "embedding"), axis=1)
    check(np.abs(norms - 1).max() < 1e-5, "embeddings have length 1")
    for height, width in ((32, 32), (33, 47), (64, 64), (96, 130), (224, 224), (375, 500)):
        features = run(session, random.integers(0, 256, (2, 3, height, width), dtype=np.uint8), "features")
        check(features.shape == single[:2].shape and np.isfinite(features).all(), f"{height}x{width} px")


def check_features(session, data, path, limit):
    saved = np.load(path)
    images = read_images(data)
    check(len(saved) == len(images), f"one row for each of the {len(images)} images (found {len(saved)})")
    if len(saved) != len(images):
        return
    width = {spec.name: spec.shape[1] for spec in session.get_outputs()}
    output = "features" if saved.shape[1] == width["features"] else "embedding"
    chosen = range(len(images))
    if 0 < limit < len(images):
        chosen = sorted(np.random.default_rng(1).choice(len(images), limit, replace=False))
    small, large = [], []
    for row in chosen:
        pixels, resized = decode(images[row][1])
        difference = np.abs(run(session, pixels[None], output)[0] - saved[row]).max()
        (large if resized else small).append((difference, images[row][0]))
    scale = np.sqrt((saved[list(chosen)] ** 2).mean())
    if small:
        worst, name = max(small)
        check(worst <= 1e-4 * scale, f"{output} of {len(small)} images as swav-rt computes them: "
              f"largest difference {worst / scale:.1e} of their scale, in {name} (limit 1e-4)")
    if large:
        worst, name = max(large)
        print(f"{output} of {len(large)} resized images: "
              f"largest difference {worst / scale:.1e} of their scale, in {name} (not judged)")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", type=pathlib.Path, required=True)
    parser.add_argument("--data", type=pathlib.Path, help="the folder or tar given to swav-rt embed")
    parser.add_argument("--features", type=pathlib.Path, help="the .npy file that swav-rt embed wrote")
    parser.add_argument("--limit", type=int, default=500, help="compare a random choice of so many images; 0 for all")
    options = parser.parse_args()
    if (options.data is None) != (options.features is None):
        parser.error("--data and --features go together")

    print(f"onnxruntime {onnxruntime.__version__}, Pillow {Image.__version__}")
    check_file(options.encoder)
    session = onnxruntime.InferenceSession(options.encoder, providers=["CPUExecutionProvider"])
    check_shapes(session)
    if options.data:
        check_features(session, options.data, options.features, options.limit)
    if failures:
        print(f"{len(failures)} checks failed", file=sys.stderr)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
