//! Resizing in plain Rust: what every processor has, and the definition of the vector code's results.

use super::Source;
use super::taps::{BITS, Taps};

/// Resizes `source` by way of `rows`, u8 [window height, width, 4], to planes of [height, width].
pub(super) fn resize(source: &Source<'_>, across: &Taps, down: &Taps, rows: &mut [[u8; 4]], [red, green, blue]: [&mut [u8]; 3]) {
    let width = across.starts.len();
    for (y, row) in rows.chunks_exact_mut(width).enumerate() {
        for (x, pixel) in row.iter_mut().enumerate() {
            let (start, weights) = across.of(x);
            let samples = source.row(y)[start..].iter().zip(weights);
            *pixel = [0, 1, 2, 3].map(|channel| round(samples.clone().map(|(pixel, &weight)| i32::from(pixel[channel]) * i32::from(weight)).sum()));
        }
    }
    let planes = red.chunks_exact_mut(width).zip(green.chunks_exact_mut(width)).zip(blue.chunks_exact_mut(width));
    for (y, ((red, green), blue)) in planes.enumerate() {
        let (start, weights) = down.of(y);
        for x in 0..width {
            let sum =
                |channel: usize| weights.iter().enumerate().map(|(k, &weight)| i32::from(rows[(start + k) * width + x][channel]) * i32::from(weight)).sum();
            (red[x], green[x], blue[x]) = (round(sum(0)), round(sum(1)), round(sum(2)));
        }
    }
}

/// A weighted sum, rounded to a level.
fn round(sum: i32) -> u8 {
    ((sum + (1 << (BITS - 1))) >> BITS).clamp(0, 255) as u8
}
