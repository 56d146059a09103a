//! Augmentations with Pillow's arithmetic, on planar u8 images: [3, H, W], or one plane [H, W].
//!
//! Results equal torchvision on Pillow images bit for bit; resizing is within 1/255.

pub mod blur;
pub mod crop;
pub mod flip;
pub mod grayscale;
pub mod hue;
pub mod jitter;
pub mod resize;

/// The red, green and blue planes of an image, u8 [3, H, W].
pub(crate) fn planes(image: &mut [u8]) -> [&mut [u8]; 3] {
    let (red, rest) = image.split_at_mut(image.len() / 3);
    let (green, blue) = rest.split_at_mut(rest.len() / 2);
    [red, green, blue]
}

/// ⌊x⌋ for x in [0, 2²²). Unlike `as i32`, which has to take care of everything else, this vectorises: adding 2²³ leaves
/// the rounded number in the lowest bits.
#[inline(always)]
pub(crate) fn truncate(x: f32) -> i32 {
    const SHIFT: f32 = 8_388_608.0;
    let shifted = x + SHIFT;
    let rounded_up = shifted - SHIFT > x;
    (shifted.to_bits() as i32 & 0x007f_ffff) - i32::from(rounded_up)
}

#[cfg(test)]
mod golden_tests;
