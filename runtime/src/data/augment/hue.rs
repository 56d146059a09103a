//! Hue: Pillow's 8-bit HSV there and back.
//!
//! Pillow mixes float and double; plain single precision is off by up to 6/255. Here every step is arranged so that single
//! precision rounds once, or not at all, where Pillow's result depends on it: the results are equal for all 2²⁴ colours.
//! The work is cut into loops of one kind of lane each (8-bit comparisons and choices, single precision) without branches,
//! which vectorise far better than one long loop of mixed lanes.

use multiversion::multiversion;

use super::{planes, truncate};

/// Pixels worked on at once.
const CHUNK: usize = 256;

/// The shift of the 8-bit hue for torchvision's `hue_factor` in [−0.5, 0.5]: truncated towards zero.
pub fn hue_shift(factor: f64) -> i32 {
    (factor * 255.0) as i32
}

/// Shifts the hue of an image, u8 [3, H, W], by `shift`/255 of the circle, with wrap-around at 256 (as an 8-bit sum does).
pub fn hue(image: &mut [u8], shift: i32) {
    let [red, green, blue] = planes(image);
    // The sum is taken modulo 256.
    shift_planes(red, green, blue, shift as u8);
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "x86_64+sse4.1"))]
fn shift_planes(red: &mut [u8], green: &mut [u8], blue: &mut [u8], shift: u8) {
    let (reds, last_red) = red.as_chunks_mut();
    let (greens, last_green) = green.as_chunks_mut();
    let (blues, last_blue) = blue.as_chunks_mut();
    for ((red, green), blue) in reds.iter_mut().zip(greens).zip(blues) {
        shift_chunk([red, green, blue], shift);
    }
    if !last_red.is_empty() {
        let mut padded = [[0; CHUNK]; 3];
        let last = [last_red, last_green, last_blue];
        for (padded, last) in padded.iter_mut().zip(&last) {
            padded[..last.len()].copy_from_slice(last);
        }
        shift_chunk(padded.each_mut(), shift);
        for (padded, last) in padded.iter().zip(last) {
            last.copy_from_slice(&padded[..last.len()]);
        }
    }
}

/// ⌊255 · x⌋ for x in [0, 1], as if 255 · x were exact: 256 · x is, and so is its fraction.
#[inline(always)]
fn times_255(x: f32) -> u8 {
    let shifted = x * 256.0;
    let whole = shifted.floor();
    truncate(whole - if shifted - whole < x { 1.0 } else { 0.0 })
}

#[inline(always)]
fn shift_chunk([red, green, blue]: [&mut [u8; CHUNK]; 3], shift: u8) {
    // RGB to HSV (Pillow, Convert.c: rgb2hsv_row). Of its three distances to the largest channel one is 0 and one is 1,
    // so that the hue in sixths is a whole number plus or minus the third.
    let [mut value, mut range, mut distance, mut minus] = [[0u8; CHUNK]; 4];
    let mut whole = [0i8; CHUNK];
    for i in 0..CHUNK {
        let (red, green, blue) = (red[i], green[i], blue[i]);
        let (higher, lower) = (red.max(green), red.min(green));
        let largest = higher.max(blue);
        let least = lower.min(blue);
        let middle = lower.max(higher.min(blue));
        let blue_least = blue == least;
        let red_least = red == least;
        let (number, negative) = if red == largest {
            (if blue_least { 1 } else { -1 }, blue_least)
        } else if green == largest {
            (if blue_least { 1 } else { 3 }, !blue_least)
        } else {
            (if red_least { 3 } else { 5 }, !red_least)
        };
        (value[i], range[i], distance[i]) = (largest, largest - least, largest - middle);
        (whole[i], minus[i]) = (number, u8::from(negative));
    }

    let [mut hue, mut saturation] = [[0u8; CHUNK]; 2];
    for i in 0..CHUNK {
        let range = f32::from(range[i]);
        let ratio = f32::from(distance[i]) / range.max(1.0);
        let signed = f32::from_bits(ratio.to_bits() ^ (u32::from(minus[i]) << 31));
        let sixths = f32::from(whole[i]) + signed;
        let turns = sixths / 6.0;
        hue[i] = times_255(turns + if sixths < 0.0 { 1.0 } else { 0.0 });
        saturation[i] = times_255(range / f32::from(value[i]).max(1.0));
    }

    // HSV to RGB (Pillow, Convert.c: hsv2rgb).
    let [mut sector, mut least] = [[0u8; CHUNK]; 2];
    for i in 0..CHUNK {
        let grey = range[i] == 0;
        hue[i] = (if grey { 0 } else { hue[i] }).wrapping_add(shift);
        // ⌊x/255⌋ for x up to 6 · 255.
        let sixths = u16::from(hue[i]) * 6;
        sector[i] = ((sixths + 1 + (sixths >> 8)) >> 8) as u8;
        // The rounded quotient by 255, which is never halfway between two integers.
        let product = u32::from(value[i]) * u32::from(255 - saturation[i]) + 128;
        least[i] = ((product + (product >> 8)) >> 8) as u8;
    }

    let mut middle = [0u8; CHUNK];
    for i in 0..CHUNK {
        let fraction = f32::from(hue[i]) * 6.0 / 255.0 - f32::from(sector[i]);
        let share = if sector[i] & 1 == 1 { fraction } else { 1.0 - fraction };
        let saturation = f32::from(saturation[i]) / 255.0;
        middle[i] = truncate(f32::from(value[i]) * (1.0 - saturation * share) + 0.5);
    }

    for i in 0..CHUNK {
        let (value, middle, least) = (value[i], middle[i], least[i]);
        // All bits set where the pixel lies in the sector. Hue 255, the seventh, is the end of the circle.
        let is = |number: u8| 0u8.wrapping_sub(u8::from(sector[i] == number));
        let sectors = [is(0) | is(6), is(1), is(2), is(3), is(4), is(5)];
        let choose = |[a, b]: [usize; 2], [c, d]: [usize; 2], [e, f]: [usize; 2]| {
            (value & (sectors[a] | sectors[b])) | (middle & (sectors[c] | sectors[d])) | (least & (sectors[e] | sectors[f]))
        };
        red[i] = choose([0, 5], [1, 4], [2, 3]);
        green[i] = choose([1, 2], [0, 3], [4, 5]);
        blue[i] = choose([3, 4], [2, 5], [0, 1]);
    }
}
