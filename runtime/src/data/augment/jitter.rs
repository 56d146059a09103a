//! Brightness, contrast and saturation: blends with black, the mean grey and the greyscale image.

use super::grayscale::luma;
use super::planes;

/// Pillow's `Image.blend`: single precision, no fused multiply-add, truncated towards zero and clipped.
#[inline(always)]
fn blend(from: f32, to: f32, factor: f32) -> u8 {
    (from + factor * (to - from)).clamp(0.0, 255.0) as i32 as u8
}

/// Blends every value with the constant `pivot`; there are only 256 values, so they are looked up.
fn blend_with(image: &mut [u8], pivot: u8, factor: f32) {
    let table: [u8; 256] = std::array::from_fn(|value| blend(f32::from(pivot), value as f32, factor));
    for value in image {
        *value = table[usize::from(*value)];
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
    // Summed in short runs: 4096 · 255 fits into 32 bits, which vectorise better.
    let sum: u64 = red
        .chunks(4096)
        .zip(green.chunks(4096))
        .zip(blue.chunks(4096))
        .map(|((red, green), blue)| u64::from(red.iter().zip(green).zip(blue).map(|((&red, &green), &blue)| u32::from(luma(red, green, blue))).sum::<u32>()))
        .sum();
    let mean = (sum as f64 / pixels as f64 + 0.5) as u8;
    blend_with(image, mean, factor);
}

/// Saturation of an image, u8 [3, H, W]; factor 1 changes nothing, 0 gives greyscale.
pub fn saturation(image: &mut [u8], factor: f32) {
    let [red, green, blue] = planes(image);
    for ((red, green), blue) in red.iter_mut().zip(green).zip(blue) {
        let grey = f32::from(luma(*red, *green, *blue));
        *red = blend(grey, f32::from(*red), factor);
        *green = blend(grey, f32::from(*green), factor);
        *blue = blend(grey, f32::from(*blue), factor);
    }
}
