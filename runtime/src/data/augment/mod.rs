//! Augmentations with Pillow's arithmetic, on planar u8 images: [3, H, W], or one plane [H, W].
//!
//! Results equal torchvision on Pillow images bit for bit; resizing is within 1/255.

pub mod blur;
pub mod crop;
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

/// ⌊x⌋ for x in [0, 256). Unlike `as u8`, which has to take care of everything else, this vectorises: adding 2²³ leaves a
/// whole number in the lowest bits.
#[inline(always)]
pub(crate) fn truncate(x: f32) -> u8 {
    (x.floor() + 8_388_608.0).to_bits() as u8
}

#[cfg(test)]
mod crop_tests;
#[cfg(test)]
mod golden_tests;
