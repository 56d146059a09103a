//! Hue: Pillow's 8-bit HSV there and back.
//!
//! Pillow computes with C floats, whose constants promote parts of the arithmetic to double; the same parts are f64 here,
//! because single precision alone is off by up to 6/255.

use super::planes;

/// The shift of the 8-bit hue for torchvision's `hue_factor` in [−0.5, 0.5]: truncated towards zero.
pub fn hue_shift(factor: f64) -> i32 {
    (factor * 255.0) as i32
}

/// Shifts the hue of an image, u8 [3, H, W], by `shift`/255 of the circle, with wrap-around at 256 (as an 8-bit sum does).
pub fn hue(image: &mut [u8], shift: i32) {
    let [red, green, blue] = planes(image);
    for ((red, green), blue) in red.iter_mut().zip(green).zip(blue) {
        (*red, *green, *blue) = shift_pixel(*red, *green, *blue, shift);
    }
}

#[inline(always)]
fn shift_pixel(red: u8, green: u8, blue: u8, shift: i32) -> (u8, u8, u8) {
    let value = red.max(green).max(blue);
    let range = i32::from(value) - i32::from(red.min(green).min(blue));

    // RGB to HSV (Pillow, Convert.c: rgb2hsv_row).
    let divisor = range.max(1) as f32;
    let value_f = f32::from(value);
    let saturation = range as f32 / value_f.max(1.0);
    let distance = |channel: u8| f64::from((value_f - f32::from(channel)) / divisor);
    let (from_red, from_green, from_blue) = (distance(red), distance(green), distance(blue));
    let sixths = if red == value {
        from_blue - from_green
    } else if green == value {
        2.0 + from_red - from_blue
    } else {
        4.0 + from_green - from_red
    } as f32;
    let turns = f64::from(sixths) / 6.0 + 1.0;
    let turns = (if turns >= 1.0 { turns - 1.0 } else { turns }) as f32;
    let hue = if range == 0 { 0 } else { (f64::from(turns) * 255.0) as i32 };
    let saturation = (f64::from(saturation) * 255.0) as i32;

    let hue = (hue + shift) & 255;

    // HSV to RGB (Pillow, Convert.c: hsv2rgb).
    let sixths = hue as f32 * 6.0 / 255.0;
    let sector = sixths as i32;
    let fraction = sixths - sector as f32;
    let saturation = saturation as f32 / 255.0;
    let round = |value: f32| (value + 0.5) as i32;
    let p = round(value_f * (1.0 - saturation));
    let q = round(value_f * (1.0 - saturation * fraction));
    let t = round(value_f * (1.0 - saturation * (1.0 - fraction)));
    let v = i32::from(value);
    let (red, green, blue) = match sector {
        1 => (q, v, p),
        2 => (p, v, t),
        3 => (p, q, v),
        4 => (t, p, v),
        5 => (v, p, q),
        _ => (v, t, p),
    };
    (red as u8, green as u8, blue as u8)
}
