"""Weights, gradients and crops that Python and Rust (tests/tests/golden/formula.rs) compute alike, to the bit.

Every value is a function of a name and an index: SplitMix64, started at the FNV-1a hash of the name. All arithmetic is
exact or a single rounding of IEEE f64, so that no library can change it.
"""

import math

import numpy as np

GOLDEN = 0x9E3779B97F4A7C15
PROJECTIONS = 4


def stream(name):
    """FNV-1a, 64 bits, of a name's UTF-8 bytes."""
    state = 0xCBF29CE484222325
    for byte in name.encode():
        state = (state ^ byte) * 0x100000001B3 % 2**64
    return state


def bits(name, count):
    """`count` random u64 of a name: element i is SplitMix64's output number i + 1."""
    z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(GOLDEN) + np.uint64(stream(name))
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def uniform(name, shape):
    """f64 in (−1, 1): the odd multiples of 2⁻²⁴, exact in f32."""
    numerators = 2 * (bits(name, math.prod(shape)) >> np.uint64(40)).astype(np.int64) + 1 - 2**24
    return (numerators / 2.0**24).reshape(shape)


def scaled(name, shape, scale, offset=0.0):
    """f32: `offset + scale · uniform`."""
    return (offset + scale * uniform(name, shape)).astype(np.float32)


def weight(name, shape):
    """A parameter or running statistic, f32. Matrices and kernels have variance 2 / fan-in.

    BatchNorms are such that f32 can be held to tight bounds: in a network of standard initial weights a few of the
    millions of pre-activations lie within rounding of 0, and each of them that changes sides moves the gradients of all
    layers before it by 1e-3 or more. Here the shift of a BatchNorm is 1.5 to 2.5 times its scale, either way, so that
    few values lie near 0, and the last BatchNorms of the blocks' branches have a quarter of the scale."""
    if len(shape) > 1:
        return scaled(name, shape, math.sqrt(6.0 / math.prod(shape[1:])))
    if name.endswith(".running_var"):
        return scaled(name, shape, 0.25, 1.0)
    linear = name.startswith("projection_head") and not name.startswith("projection_head.1.")
    if linear or name.endswith(".running_mean"):
        return scaled(name, shape, 0.25)
    size = 0.25 if name.startswith("layer") and (".bn2." in name or ".bn3." in name) else 1.0
    if name.endswith(".weight"):
        return scaled(name, shape, 0.25 * size, size)
    values = uniform(name, shape)
    return (size * (np.copysign(1.5, values) + values)).astype(np.float32)


def pixels(name, shape):
    """Crops u8 [N, 3, S, S]: half the image's colour, a quarter of one of its 4x4 tiles, a quarter noise."""
    count, channels, height, width = shape
    byte = lambda part, dims: (bits(f"{name}/{part}", math.prod(dims)) >> np.uint64(56)).reshape(dims)
    colour = byte("colour", (count, channels, 1, 1))
    rows, columns = np.arange(height) * 4 // height, np.arange(width) * 4 // width
    tiles = byte("tiles", (count, channels, 4, 4))[:, :, rows][:, :, :, columns]
    return ((2 * colour + tiles + byte("noise", shape)) // np.uint64(4)).astype(np.uint8)


def project(name, values):
    """f64 [1 + PROJECTIONS]: the L2 norm, and sums of the values with random signs.

    For values that differ by d, the root mean square of the differences of these sums estimates ‖d‖."""
    flat = np.asarray(values, dtype=np.float64).ravel()
    random = bits(f"{name}/signs", flat.size)
    signs = (((random >> np.uint64(bit)) & np.uint64(1)).astype(np.float64) * 2 - 1 for bit in range(PROJECTIONS))
    return np.array([np.linalg.norm(flat), *(np.dot(flat, sign) for sign in signs)])
