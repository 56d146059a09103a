//! Greyscale, and the luma that contrast and saturation need.

use multiversion::multiversion;

use super::planes;

/// Pillow's conversion from RGB to "L": ITU-R 601 weights in 16-bit fixed point, rounded.
#[inline(always)]
pub(super) fn luma(red: u8, green: u8, blue: u8) -> u8 {
    ((u32::from(red) * 19595 + u32::from(green) * 38470 + u32::from(blue) * 7471 + 0x8000) >> 16) as u8
}

/// Replaces the three planes of an image, u8 [3, H, W], by its luma.
pub fn grayscale(image: &mut [u8]) {
    let [red, green, blue] = planes(image);
    luma_into_red(red, green, blue);
    green.copy_from_slice(red);
    blue.copy_from_slice(red);
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn luma_into_red(red: &mut [u8], green: &[u8], blue: &[u8]) {
    for ((red, &green), &blue) in red.iter_mut().zip(green).zip(blue) {
        *red = luma(*red, green, blue);
    }
}
