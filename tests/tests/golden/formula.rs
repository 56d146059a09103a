//! Weights, gradients and crops by formula: `tests/golden/formula.py` computes the same, to the bit, and explains it.

use graphgen::preset::Preset;

/// Sums with random signs that a golden keeps of a tensor.
pub const PROJECTIONS: usize = 4;

/// FNV-1a, 64 bits.
fn stream(name: &str) -> u64 {
    name.bytes().fold(0xCBF2_9CE4_8422_2325, |state, byte| (state ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3))
}

/// SplitMix64, started at the hash of a name.
fn bits(name: &str) -> impl Iterator<Item = u64> + use<> {
    let start = stream(name);
    (1u64..).map(move |index| {
        let z = start.wrapping_add(index.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    })
}

/// In (−1, 1): the odd multiples of 2⁻²⁴.
pub fn uniform(name: &str) -> impl Iterator<Item = f64> + use<> {
    bits(name).map(|bits| (2 * (bits >> 40) as i64 + 1 - (1 << 24)) as f64 / f64::from(1 << 24))
}

/// `offset + scale · uniform`
pub fn scaled(name: &str, shape: &[usize], scale: f64, offset: f64) -> Vec<f32> {
    uniform(name).take(shape.iter().product()).map(|value| (offset + scale * value) as f32).collect()
}

/// A parameter or running statistic.
pub fn weight(name: &str, shape: &[usize]) -> Vec<f32> {
    if shape.len() > 1 {
        return scaled(name, shape, (6.0 / shape[1..].iter().product::<usize>() as f64).sqrt(), 0.0);
    }
    if name.ends_with(".running_var") {
        return scaled(name, shape, 0.25, 1.0);
    }
    let linear = name.starts_with("projection_head") && !name.starts_with("projection_head.1.");
    if linear || name.ends_with(".running_mean") {
        return scaled(name, shape, 0.25, 0.0);
    }
    let size = if name.starts_with("layer") && (name.contains(".bn2.") || name.contains(".bn3.")) { 0.25 } else { 1.0 };
    if name.ends_with(".weight") {
        return scaled(name, shape, 0.25 * size, size);
    }
    uniform(name).take(shape[0]).map(|value| (size * (1.5_f64.copysign(value) + value)) as f32).collect()
}

/// Crops u8 [N, 3, S, S].
pub fn pixels(name: &str, images: usize, size_px: usize) -> Vec<u8> {
    let bytes = |part: &str| bits(&format!("{name}/{part}")).map(|bits| bits >> 56);
    let colours: Vec<u64> = bytes("colour").take(images * 3).collect();
    let tiles: Vec<u64> = bytes("tiles").take(images * 3 * 16).collect();
    let noise = bytes("noise").take(images * 3 * size_px * size_px);
    let pixel = |(index, noise): (usize, u64)| {
        let (plane, row, column) = (index / (size_px * size_px), index / size_px % size_px, index % size_px);
        let tile = tiles[plane * 16 + row * 4 / size_px * 4 + column * 4 / size_px];
        ((2 * colours[plane] + tile + noise) / 4) as u8
    };
    noise.enumerate().map(pixel).collect()
}

/// The crops of a step, one array for each group of adjacent crops of one size.
pub fn crops(preset: &Preset, prefix: &str) -> Vec<Vec<u8>> {
    let groups = preset.crops.groups().into_iter().enumerate();
    groups.map(|(index, group)| pixels(&format!("{prefix}crops/{index}"), group.count * preset.train.batch_size, group.size_px)).collect()
}

/// The L2 norm, and sums with random signs.
pub fn project(name: &str, values: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let (mut square, mut sums) = (0.0, [0.0; PROJECTIONS]);
    for (value, random) in values.into_iter().zip(bits(&format!("{name}/signs"))) {
        square += value * value;
        for (bit, sum) in sums.iter_mut().enumerate() {
            *sum += if random >> bit & 1 == 1 { value } else { -value };
        }
    }
    [&[f64::sqrt(square)][..], &sums].concat()
}

/// Estimated relative L2 distance: the larger of the root mean square of the projections' differences and the
/// difference of the norms, over the golden's norm. Tensors that should be zero must be.
pub fn distance(row: &[f64], golden: &[f64]) -> f64 {
    let squares: f64 = row[1..].iter().zip(&golden[1..]).map(|(a, b)| (a - b) * (a - b)).sum();
    let difference = (squares / PROJECTIONS as f64).sqrt().max((row[0] - golden[0]).abs());
    match (difference == 0.0, golden[0]) {
        (true, _) => 0.0,
        (false, 0.0) => f64::INFINITY,
        (false, norm) if difference.is_finite() => difference / norm,
        _ => f64::INFINITY,
    }
}

#[test]
fn values_are_those_of_python() {
    // bits("a", 2), weight("conv1.weight", (1, 2, 1, 1)) and so on in tests/golden/formula.py.
    assert_eq!(bits("a").take(2).collect::<Vec<_>>(), [0x5F29C2AADD9B8527, 0xFF84F1BDB6D3884F]);
    assert_eq!(weight("conv1.weight", &[1, 2, 1, 1]), [0.15614428, 0.84926516]);
    assert_eq!(weight("layer1.0.bn2.bias", &[2]), [-0.60416454, -0.4933216]);
    assert_eq!(pixels("crops/0", 1, 5)[..4], [78, 28, 111, 63]);
    assert_eq!(project("a", [1.0, 2.0, 3.0]), [3.7416573867739413, 0.0, 0.0, 4.0, 2.0]);
}
