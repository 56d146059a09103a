//! Brightness, contrast and saturation: blends with black, the mean grey and the greyscale image.

use multiversion::multiversion;

use super::grayscale::luma;
use super::{planes, truncate};

/// Pillow's `Image.blend`: single precision, no fused multiply-add, truncated towards zero and clipped.
#[inline(always)]
fn blend(from: f32, to: f32, factor: f32) -> u8 {
    truncate((from + factor * (to - from)).clamp(0.0, 255.0))
}

/// Blends every value with the constant `pivot`. Faster than looking the 256 results up: it vectorises.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn blend_with(image: &mut [u8], pivot: u8, factor: f32) {
    let pivot = f32::from(pivot);
    for value in image {
        *value = blend(pivot, f32::from(*value), factor);
    }
}

/// Brightness of an image, u8 [3, H, W]; factor 1 changes nothing, 0 gives black.
pub fn brightness(image: &mut [u8], factor: f32) {
    blend_with(image, 0, factor);
}

/// Contrast of an image, u8 [3, H, W]; factor 1 changes nothing, 0 gives the mean grey.
pub fn contrast(image: &mut [u8], factor: f32) {
    let pixels = image.len() / 3;
    let [red, green, blue] = planes(image);
    let mean = (luma_sum(red, green, blue) as f64 / pixels as f64 + 0.5) as u8;
    blend_with(image, mean, factor);
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn luma_sum(red: &[u8], green: &[u8], blue: &[u8]) -> u64 {
    // Summed in short runs: 4096 · 255 fits into 32 bits, which vectorise better.
    let runs = red.chunks(4096).zip(green.chunks(4096)).zip(blue.chunks(4096));
    let mut sum = 0;
    for ((red, green), blue) in runs {
        let mut run = 0u32;
        for ((&red, &green), &blue) in red.iter().zip(green).zip(blue) {
            run += u32::from(luma(red, green, blue));
        }
        sum += u64::from(run);
    }
    sum
}

/// Saturation of an image, u8 [3, H, W]; factor 1 changes nothing, 0 gives greyscale.
pub fn saturation(image: &mut [u8], factor: f32) {
    let [red, green, blue] = planes(image);
    saturate_planes(red, green, blue, factor);
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn saturate_planes(red: &mut [u8], green: &mut [u8], blue: &mut [u8], factor: f32) {
    for ((red, green), blue) in red.iter_mut().zip(green).zip(blue) {
        let grey = f32::from(luma(*red, *green, *blue));
        *red = blend(grey, f32::from(*red), factor);
        *green = blend(grey, f32::from(*green), factor);
        *blue = blend(grey, f32::from(*blue), factor);
    }
}
