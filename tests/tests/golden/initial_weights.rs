//! Initial weights have the distributions that PyTorch documents: `kaiming_normal_(fan_out, relu)` for convolutions,
//! ones and zeros for BatchNorm, `U(±1/√fan_in)` for linear layers, their biases and the prototypes.
//!
//! The draws are seeded, so a test that passes once passes always; the bounds are such that a right generator would
//! fail one seed in ten thousand.

use graphgen::artifacts::initial_weights;
use graphgen::preset::Preset;
use graphgen::weights::Weights;

/// Standard deviations that a moment may be off: 1e-9 for a normal quantity.
const SIGMAS: f64 = 6.0;
/// Kolmogorov-Smirnov: √n times the distance exceeds 2.4 with probability 2·exp(−2·2.4²) = 2e-5.
const KOLMOGOROV: f64 = 2.4;

fn weights() -> Weights {
    let settings = ["model.arch=resnet18", "model.hidden_mlp=512", "model.nmb_prototypes=300"].map(String::from);
    initial_weights(&Preset::from_toml("", &settings).expect("a valid preset")).expect("weights")
}

/// Φ(x) by Abramowitz and Stegun 7.1.26, to 1.5e-7.
fn normal_distribution(x: f64) -> f64 {
    let z = x.abs() / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let series = [1.061_405_429, -1.453_152_027, 1.421_413_741, -0.284_496_736, 0.254_829_592].iter().fold(0.0, |sum, coefficient| (sum + coefficient) * t);
    let upper = 0.5 * series * (-z * z).exp();
    if x < 0.0 { upper } else { 1.0 - upper }
}

/// Checks mean, variance and distribution of values that were divided by their scale.
fn check(name: &str, values: impl Iterator<Item = f64>, [variance, kurtosis]: [f64; 2], distribution: impl Fn(f64) -> f64) {
    let mut values: Vec<f64> = values.collect();
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    assert!(mean.abs() <= SIGMAS * (variance / n).sqrt(), "{name}: mean {mean}");
    let second = values.iter().map(|value| value * value).sum::<f64>() / n;
    assert!((second / variance - 1.0).abs() <= SIGMAS * ((kurtosis - 1.0) / n).sqrt(), "{name}: variance {second}, expected {variance}");
    values.sort_by(f64::total_cmp);
    let steps = values.iter().enumerate().map(|(index, &value)| {
        let expected = distribution(value);
        (expected - index as f64 / n).abs().max((expected - (index + 1) as f64 / n).abs())
    });
    let distance = steps.fold(0.0, f64::max) * n.sqrt();
    assert!(distance <= KOLMOGOROV, "{name}: Kolmogorov-Smirnov {distance}");
}

#[test]
fn initial_weights_have_the_distributions_of_pytorch() {
    let (mut convolutions, mut linear) = (0, 0);
    for (name, tensor) in weights() {
        let values = tensor.data.iter().map(|&value| f64::from(value));
        if tensor.shape.len() == 4 {
            let fan_out = tensor.shape[0] * tensor.shape[2] * tensor.shape[3];
            let deviation = (2.0 / fan_out as f64).sqrt();
            check(&name, values.map(|value| value / deviation), [1.0, 3.0], normal_distribution);
            convolutions += 1;
        } else if tensor.shape.len() == 2 || name.starts_with("projection_head") && !name.starts_with("projection_head.1.") {
            let fan_in = match name.as_str() {
                "projection_head.0.bias" | "projection_head.0.weight" | "projection_head.3.bias" | "projection_head.3.weight" => 512.0_f64,
                "prototypes.weight" => 128.0,
                other => panic!("{other} is no linear layer"),
            };
            let bound = fan_in.sqrt().recip();
            assert!(tensor.data.iter().all(|value| f64::from(value.abs()) <= bound * (1.0 + 1e-6)), "{name}: beyond {bound}");
            check(&name, values.map(|value| value / bound), [1.0 / 3.0, 1.8], |x| (0.5 * (x + 1.0)).clamp(0.0, 1.0));
            linear += 1;
        } else {
            let expected = if name.ends_with(".weight") || name.ends_with(".running_var") { 1.0 } else { 0.0 };
            assert!(tensor.data.iter().all(|&value| value == expected), "{name}: expected {expected} everywhere");
        }
    }
    assert_eq!((convolutions, linear), (20, 5));
}

#[test]
fn parameters_of_one_shape_are_drawn_independently() {
    let weights = weights();
    let (a, b) = (&weights["layer1.0.conv1.weight"].data, &weights["layer1.0.conv2.weight"].data);
    let sum = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(x * y)).sum::<f64>();
    let correlation = sum(a, b) / (sum(a, a) * sum(b, b)).sqrt();
    assert!(correlation.abs() <= SIGMAS / (a.len() as f64).sqrt(), "{correlation}");
}
