//! Rows of samples to pixels: libjpeg's "fancy" upsampling (jdsample.c) and YCbCr to RGB (jdcolor.c).

/// Twice as many samples of a row, by a triangle filter. `input` has at least three.
#[inline(always)]
pub(super) fn upsample_across(input: &[u8], output: &mut [u8]) {
    let output = output.as_chunks_mut::<2>().0;
    let last = input.len() - 1;
    let value = |x: usize| u16::from(input[x]);
    output[0] = [input[0], ((3 * value(0) + value(1) + 2) >> 2) as u8];
    output[last] = [((3 * value(last) + value(last - 1) + 1) >> 2) as u8, input[last]];
    let neighbours = input[..last - 1].iter().zip(&input[2..]);
    for ((output, &value), (&left, &right)) in output[1..last].iter_mut().zip(&input[1..]).zip(neighbours) {
        let [value, left, right] = [value, left, right].map(u16::from);
        *output = [((3 * value + left + 1) >> 2) as u8, ((3 * value + right + 2) >> 2) as u8];
    }
}

/// Twice as many samples of a row that lies a quarter of a sample from `near` towards `far`. Both have at least three;
/// `sums` is a buffer of as many.
#[inline(always)]
pub(super) fn upsample_both_ways(near: &[u8], far: &[u8], sums: &mut [u16], output: &mut [u8]) {
    let output = output.as_chunks_mut::<2>().0;
    for ((sum, &near), &far) in sums.iter_mut().zip(near).zip(far) {
        *sum = 3 * u16::from(near) + u16::from(far);
    }
    let last = near.len() - 1;
    let sums = &sums[..=last];
    output[0] = [((4 * sums[0] + 8) >> 4) as u8, ((3 * sums[0] + sums[1] + 7) >> 4) as u8];
    output[last] = [((3 * sums[last] + sums[last - 1] + 8) >> 4) as u8, ((4 * sums[last] + 7) >> 4) as u8];
    let neighbours = sums[..last - 1].iter().zip(&sums[2..]);
    for ((output, &sum), (&left, &right)) in output[1..last].iter_mut().zip(&sums[1..]).zip(neighbours) {
        *output = [((3 * sum + left + 8) >> 4) as u8, ((3 * sum + right + 7) >> 4) as u8];
    }
}

/// A row of YCbCr to u8 [W, 4], the fourth byte 255.
#[inline(always)]
pub(super) fn ycbcr_to_rgbx(luma: &[u8], blue: &[u8], red: &[u8], pixels: &mut [[u8; 4]]) {
    const fn fix(x: f64) -> i32 {
        (x * 65536.0 + 0.5) as i32
    }
    const HALF: i32 = 1 << 15;
    for (((pixel, &luma), &blue), &red) in pixels.iter_mut().zip(luma).zip(blue).zip(red) {
        let luma = i32::from(luma);
        let (blue, red) = (i32::from(blue) - 128, i32::from(red) - 128);
        let r = luma + ((fix(1.402) * red + HALF) >> 16);
        let g = luma + ((-fix(0.34414) * blue - fix(0.71414) * red + HALF) >> 16);
        let b = luma + ((fix(1.772) * blue + HALF) >> 16);
        let [r, g, b] = [r, g, b].map(|value| value.clamp(0, 255) as u32);
        *pixel = (r | (g << 8) | (b << 16) | (255 << 24)).to_le_bytes();
    }
}

/// A row of grey to u8 [W, 4], the fourth byte 255.
#[inline(always)]
pub(super) fn grey_to_rgbx(luma: &[u8], pixels: &mut [[u8; 4]]) {
    for (pixel, &luma) in pixels.iter_mut().zip(luma) {
        *pixel = (0x01_01_01 * u32::from(luma) + (255 << 24)).to_le_bytes();
    }
}
