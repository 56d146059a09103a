//! Every augmentation against Pillow's results, made by `tests/golden/augment.py`.

use std::path::PathBuf;

use sha2::{Digest, Sha256};

use super::blur::{BlurScratch, gaussian_blur};
use super::crop::Window;
use super::resize::Resizer;
use super::{grayscale, hue, jitter};
use crate::data::decode::{RgbImage, decode_rgb};
use crate::data::eval_transform::EvalTransform;

#[derive(serde::Deserialize)]
struct Cases {
    operations: Vec<Operation>,
    chain_sha256: String,
    hue_of_all_colours: Vec<HueOfAll>,
    resizes: Vec<Resize>,
    evaluation: String,
    jpegs: Vec<Jpeg>,
}

#[derive(serde::Deserialize)]
struct Operation {
    operation: String,
    factor: f64,
    small: String,
    large_sha256: String,
}

#[derive(serde::Deserialize)]
struct HueOfAll {
    factor: f64,
    sha256: String,
}

#[derive(serde::Deserialize)]
struct Resize {
    window: [usize; 4],
    size_px: usize,
    result: String,
}

#[derive(serde::Deserialize)]
struct Jpeg {
    file: String,
    rgb_sha256: String,
}

fn golden(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/augment").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn cases() -> Cases {
    serde_json::from_slice(&golden("cases.json")).expect("cases.json")
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `noise` of the generator, u8 [height, width, 3].
fn noise(width: usize, height: usize) -> RgbImage {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let rgb: Vec<u8> = (0..3 * width * height).map(|_| next()).collect();
    RgbImage::from_rgb(width, height, &rgb)
}

/// `smooth` of the generator.
fn smooth(width: usize, height: usize) -> RgbImage {
    let pixel = |x: usize, y: usize| [x * 255 / (width - 1), y * 255 / (height - 1), (x / 5 + y / 5) % 2 * 160 + (x + y) % 64];
    let rgb: Vec<u8> = (0..height).flat_map(|y| (0..width).flat_map(move |x| pixel(x, y))).map(|value| value as u8).collect();
    RgbImage::from_rgb(width, height, &rgb)
}

fn planar(image: &RgbImage) -> Vec<u8> {
    (0..3).flat_map(|channel| image.rgbx().iter().skip(channel).step_by(4).copied()).collect()
}

fn apply(operation: &str, image: &mut [u8], width: usize, factor: f64) {
    match operation {
        "brightness" => jitter::brightness(image, factor as f32),
        "contrast" => jitter::contrast(image, factor as f32),
        "saturation" => jitter::saturation(image, factor as f32),
        "hue" => hue::hue(image, hue::hue_shift(factor)),
        "grayscale" => grayscale::grayscale(image),
        "blur" => {
            let plane = image.len() / 3;
            let mut scratch = BlurScratch::default();
            image.chunks_exact_mut(plane).for_each(|plane| gaussian_blur(plane, width, factor as f32, &mut scratch));
        }
        other => panic!("unknown operation {other}"),
    }
}

fn check(operation: &str) {
    let cases: Vec<Operation> = cases().operations.into_iter().filter(|case| case.operation == operation).collect();
    assert!(!cases.is_empty(), "no cases of {operation}");
    for Operation { factor, small, large_sha256, .. } in cases {
        let mut image = planar(&smooth(20, 16));
        apply(operation, &mut image, 20, factor);
        let expected = golden(&small);
        if let Some(at) = (0..expected.len()).find(|&at| image[at] != expected[at]) {
            panic!("{operation} {factor}: value {at} is {}, Pillow has {}", image[at], expected[at]);
        }
        let mut image = planar(&noise(300, 200));
        apply(operation, &mut image, 300, factor);
        assert_eq!(sha256(&image), large_sha256, "{operation} {factor} on noise");
    }
}

#[test]
fn brightness_equals_pillow() {
    check("brightness");
}

#[test]
fn contrast_equals_pillow() {
    check("contrast");
}

#[test]
fn saturation_equals_pillow() {
    check("saturation");
}

#[test]
fn hue_equals_pillow() {
    check("hue");
}

#[test]
fn hue_equals_pillow_for_every_colour() {
    let all: Vec<u8> = [16, 8, 0].into_iter().flat_map(|bits| (0..1u32 << 24).map(move |colour| (colour >> bits) as u8)).collect();
    for HueOfAll { factor, sha256: expected } in cases().hue_of_all_colours {
        let mut image = all.clone();
        apply("hue", &mut image, 4096, factor);
        assert_eq!(sha256(&image), expected, "hue {factor}");
    }
}

#[test]
fn grayscale_equals_pillow() {
    check("grayscale");
}

#[test]
fn blur_equals_pillow() {
    check("blur");
}

#[test]
fn a_chain_of_augmentations_equals_pillow() {
    let mut image = planar(&noise(300, 200));
    for (operation, factor) in [("contrast", 1.5), ("hue", -0.13), ("brightness", 0.625), ("saturation", 1.75), ("blur", 1.25)] {
        apply(operation, &mut image, 300, factor);
    }
    assert_eq!(sha256(&image), cases().chain_sha256);
}

#[test]
fn crop_and_resize_is_within_one_level_of_pillow() {
    let source = smooth(120, 90);
    for Resize { window: [x, y, width, height], size_px, result } in cases().resizes {
        let mut image = vec![0; 3 * size_px * size_px];
        Resizer::default().resize(&source, Window { x, y, width, height }, size_px, size_px, false, &mut image);
        let expected = golden(&result);
        let worst = image.iter().zip(&expected).map(|(&got, &pillow)| got.abs_diff(pillow)).max();
        // The weights have another fixed-point precision, which can move a rounding by one level.
        assert!(worst <= Some(1), "{result}: off by {worst:?}");
    }
}

#[test]
fn evaluation_preprocessing_is_within_one_level_of_torchvision() {
    let transform = EvalTransform { resize_px: 40, crop_px: 32, as_is_up_to_px: 0, ..EvalTransform::default() };
    let image = transform.apply(&smooth(120, 90)).expect("preprocessed");
    let expected = golden(&cases().evaluation);
    assert_eq!(image.data.len(), expected.len());
    let worst = image.data.iter().zip(&expected).map(|(&got, &pillow)| got.abs_diff(pillow)).max();
    assert!(worst <= Some(1), "off by {worst:?}");
}

#[test]
fn jpegs_decode_to_pillows_pixels() {
    for Jpeg { file, rgb_sha256 } in cases().jpegs {
        let image = decode_rgb(&golden(&file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert_eq!((image.width(), image.height()), (45, 38), "{file}");
        assert_eq!(sha256(&image.to_rgb()), rgb_sha256, "{file}");
    }
}
