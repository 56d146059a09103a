"""Golden results of Pillow and torchvision for the loader: run `python augment.py`, which rewrites `augment/`.

Needs Pillow (made with 13.0.0, libjpeg-turbo 3) and numpy. Every operation is torchvision's on Pillow images, spelled out
here so that torchvision is not needed. Sources are formulas, repeated in the Rust tests:

* `noise(w, h)`: every channel value is the top byte of a 32-bit LCG, pixel by pixel, red, green, blue.
* `smooth(w, h)`: gradients and a checkerboard, as photographs have smooth and busy parts.

`small` results are stored as planar bytes, to see where a difference is; `large` ones as a SHA-256 of the planar bytes.
"""

import hashlib
import io
import json
import pathlib

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

OUT = pathlib.Path(__file__).parent / "augment"


def noise(width, height):
    count = 3 * width * height
    values = np.empty(count, np.uint8)
    state = 1
    for i in range(count):
        state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
        values[i] = state >> 24
    return Image.fromarray(values.reshape(height, width, 3))


def smooth(width, height):
    y, x = np.mgrid[0:height, 0:width]
    red = x * 255 // (width - 1)
    green = y * 255 // (height - 1)
    blue = (x // 5 + y // 5) % 2 * 160 + (x + y) % 64
    return Image.fromarray(np.stack([red, green, blue], 2).astype(np.uint8))


def adjust_hue(image, factor):
    hue, saturation, value = image.convert("HSV").split()
    shifted = np.asarray(hue) + np.int32(factor * 255).astype(np.uint8)
    return Image.merge("HSV", (Image.fromarray(shifted), saturation, value)).convert("RGB")


def grayscale(image, _):
    return Image.merge("RGB", [image.convert("L")] * 3)


OPERATIONS = {
    "brightness": (lambda im, f: ImageEnhance.Brightness(im).enhance(f), [0.0, 0.2, 0.73, 1.0, 1.37, 1.8]),
    "contrast": (lambda im, f: ImageEnhance.Contrast(im).enhance(f), [0.0, 0.2, 0.73, 1.0, 1.37, 1.8]),
    "saturation": (lambda im, f: ImageEnhance.Color(im).enhance(f), [0.0, 0.2, 0.73, 1.0, 1.37, 1.8]),
    "hue": (adjust_hue, [-0.5, -0.2, -0.0613, 0.0, 0.1, 0.2, 0.47]),
    "grayscale": (grayscale, [0.0]),
    "blur": (lambda im, f: im.filter(ImageFilter.GaussianBlur(f)), [0.1, 0.5, 1.0, 1.3, 1.7, 2.0, 3.5, 6.0]),
}


def planar(image):
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1)).tobytes()


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def store(name, data):
    (OUT / name).write_bytes(data)
    return name


def jpeg_case(name, data):
    decoded = Image.open(io.BytesIO(data)).convert("RGB")
    return {"file": store(f"{name}.jpg", data), "rgb_sha256": sha256(decoded.tobytes())}


def main():
    OUT.mkdir(exist_ok=True)
    for old in OUT.iterdir():
        old.unlink()
    small, large = smooth(20, 16), noise(300, 200)

    operations = []
    for name, (operation, factors) in OPERATIONS.items():
        for factor in factors:
            # The factor as the single-precision number that both sides use.
            factor = float(np.float32(factor)) if name != "hue" else factor
            operations.append({
                "operation": name,
                "factor": factor,
                "small": store(f"{name}_{factor:.3f}.bin", planar(operation(small, factor))),
                "large_sha256": sha256(planar(operation(large, factor))),
            })

    chain = large
    for name, factor in [("contrast", 1.5), ("hue", -0.13), ("brightness", 0.625), ("saturation", 1.75), ("blur", 1.25)]:
        chain = OPERATIONS[name][0](chain, factor)

    # Every colour once: red, green and blue are the bytes of the pixel's number, most significant first.
    number = np.arange(1 << 24, dtype=np.uint32)
    colours = Image.fromarray(np.stack([number >> 16, number >> 8 & 255, number & 255], 1).astype(np.uint8).reshape(4096, 4096, 3))
    hue_of_all_colours = [{"factor": factor, "sha256": sha256(planar(adjust_hue(colours, factor)))} for factor in (-0.2, 0.0, 0.1137)]

    # torchvision's resized_crop on a Pillow image: crop, then resize.
    resizes = []
    source = smooth(120, 90)
    for x, y, width, height, size in [
        (0, 0, 120, 90, 32), (7, 11, 96, 70, 24), (30, 20, 24, 24, 24), (50, 40, 13, 9, 24), (119, 89, 1, 1, 8), (0, 3, 5, 80, 16),
    ]:
        crop = source.crop((x, y, x + width, y + height)).resize((size, size), Image.BILINEAR)
        resizes.append({"window": [x, y, width, height], "size_px": size, "result": store(f"resize_{x}_{y}_{size}.bin", planar(crop))})

    # torchvision's Resize(40) and CenterCrop(32): the longer side is truncated, half a pixel of margin goes to the even side.
    resized = source.resize((40 * 120 // 90, 40), Image.BILINEAR)
    left, top = int(round((resized.width - 32) / 2.0)), int(round((resized.height - 32) / 2.0))
    evaluation = store("evaluation.bin", planar(resized.crop((left, top, left + 32, top + 32))))

    jpegs = []
    picture = smooth(45, 38)
    for name, image, options in [
        ("444", picture, {"subsampling": 0}),
        ("422", picture, {"subsampling": 1}),
        ("420", picture, {"subsampling": 2}),
        ("progressive", picture, {"subsampling": 2, "progressive": True}),
        ("grey", picture.convert("L"), {}),
        ("cmyk", picture.convert("CMYK"), {}),
    ]:
        data = io.BytesIO()
        image.save(data, "JPEG", quality=85, **options)
        jpegs.append(jpeg_case(name, data.getvalue()))

    # Coefficients that leave 16 bits: all of a block's, those of its first row, its mean alone.
    levels = np.asarray(noise(45, 38))[..., 0]
    y, x = np.mgrid[:38, :45]
    for name, grey in [("noise", levels), ("stripes", levels[0, x]), ("blocks", levels[y // 8, x // 8])]:
        data = io.BytesIO()
        Image.fromarray(grey).save(data, "JPEG", quality=100)
        data = bytearray(data.getvalue())
        table = data.index(b"\xff\xdb") + 5
        data[table : table + 64] = bytes([64] * 64)
        jpegs.append(jpeg_case(f"overflow_{name}", bytes(data)))

    cases = {
        "operations": operations,
        "chain_sha256": sha256(planar(chain)),
        "hue_of_all_colours": hue_of_all_colours,
        "resizes": resizes,
        "evaluation": evaluation,
        "jpegs": jpegs,
    }
    (OUT / "cases.json").write_text(json.dumps(cases, indent=1) + "\n")


main()
