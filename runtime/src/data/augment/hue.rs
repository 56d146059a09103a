//! Hue: Pillow's 8-bit HSV there and back.
//!
//! Pillow mixes float and double; plain single precision is off by up to 6/255. Here every step is arranged so that single
//! precision rounds once, or not at all, where Pillow's result depends on it: the results are equal for all 2²⁴ colours.
//! There are no branches, so that the loop vectorises.

use multiversion::multiversion;

use super::{planes, truncate};

/// The shift of the 8-bit hue for torchvision's `hue_factor` in [−0.5, 0.5]: truncated towards zero.
pub fn hue_shift(factor: f64) -> i32 {
    (factor * 255.0) as i32
}

/// Shifts the hue of an image, u8 [3, H, W], by `shift`/255 of the circle, with wrap-around at 256 (as an 8-bit sum does).
pub fn hue(image: &mut [u8], shift: i32) {
    let [red, green, blue] = planes(image);
    shift_planes(red, green, blue, shift);
}

#[multiversion(targets("x86_64+avx2"))]
fn shift_planes(red: &mut [u8], green: &mut [u8], blue: &mut [u8], shift: i32) {
    for ((red, green), blue) in red.iter_mut().zip(green).zip(blue) {
        (*red, *green, *blue) = shift_pixel(*red, *green, *blue, shift);
    }
}

/// ⌊255 · x⌋ for x in [0, 1], as if 255 · x were exact: 256 · x is, and so is its fraction.
#[inline(always)]
fn times_255(x: f32) -> i32 {
    let shifted = x * 256.0;
    let whole = truncate(shifted);
    whole - i32::from(shifted - (whole as f32) < x)
}

#[inline(always)]
fn shift_pixel(red: u8, green: u8, blue: u8, shift: i32) -> (u8, u8, u8) {
    let [red, green, blue] = [red, green, blue].map(i32::from);
    let value = red.max(green).max(blue);
    let least = red.min(green).min(blue);
    let range = value - least;
    let middle = red + green + blue - value - least;

    // RGB to HSV (Pillow, Convert.c: rgb2hsv_row). Of its three distances to the largest channel one is 0 and one is 1,
    // so that the hue in sixths is a whole number plus or minus the third.
    let ratio = (value - middle) as f32 / range.max(1) as f32;
    let blue_least = blue == least;
    let red_least = red == least;
    let (whole, minus) = if red == value {
        (if blue_least { 1.0 } else { -1.0 }, blue_least)
    } else if green == value {
        (if blue_least { 1.0 } else { 3.0 }, !blue_least)
    } else {
        (if red_least { 3.0 } else { 5.0 }, !red_least)
    };
    let sixths: f32 = whole + if minus { -ratio } else { ratio };
    let turns = sixths / 6.0;
    let turns = if sixths < 0.0 { turns + 1.0 } else { turns };
    let hue = if range == 0 { 0 } else { times_255(turns) };
    let saturation = times_255(range as f32 / value.max(1) as f32);

    let hue = (hue + shift) & 255;

    // HSV to RGB (Pillow, Convert.c: hsv2rgb).
    let sixths = hue as f32 * 6.0 / 255.0;
    let sector = truncate(sixths);
    let fraction = sixths - sector as f32;
    // Hue 255 is the end of the circle.
    let sector = if sector == 6 { 0 } else { sector };
    let saturation = saturation as f32 / 255.0;
    let value_f = value as f32;
    let round = |value: f32| truncate(value + 0.5);
    let least = round(value_f * (1.0 - saturation));
    let share = if sector & 1 == 1 { fraction } else { 1.0 - fraction };
    let middle = round(value_f * (1.0 - saturation * share));
    let choose = |largest: [i32; 2], between: [i32; 2]| {
        let is = |sectors: [i32; 2]| (sector == sectors[0]) | (sector == sectors[1]);
        if is(largest) {
            value
        } else if is(between) {
            middle
        } else {
            least
        }
    };
    (choose([0, 5], [1, 4]) as u8, choose([1, 2], [0, 3]) as u8, choose([3, 4], [2, 5]) as u8)
}
