//! Gaussian blur as Pillow approximates it: three box blurs an axis, with a fractional radius in 24-bit fixed point.

use multiversion::multiversion;

/// A box of `whole` pixels to each side with full weight and one more on each side with the remaining weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct BoxKernel {
    whole: usize,
    /// Weight of a full pixel, 24-bit fixed point.
    full: u32,
    /// Weight of each of the two outermost pixels.
    edge: u32,
}

impl BoxKernel {
    /// Three boxes with the variance of a Gaussian of standard deviation `radius` (Pillow, BoxBlur.c:
    /// `_gaussian_blur_radius`, `ImagingHorizontalBoxBlur`). Single precision where C has floats.
    fn for_gaussian(radius: f32) -> BoxKernel {
        let variance = radius * radius / 3.0;
        let side = (12.0 * f64::from(variance) + 1.0).sqrt() as f32;
        let whole = ((f64::from(side) - 1.0) / 2.0).floor() as f32;
        let fraction = (2.0 * whole + 1.0) * (whole * (whole + 1.0) - 3.0 * variance);
        let fraction = fraction / (6.0 * (variance - (whole + 1.0) * (whole + 1.0)));
        let box_radius = whole + fraction;
        let whole = box_radius as usize;
        let full = ((1u32 << 24) as f32 / (box_radius * 2.0 + 1.0)) as u32;
        let edge = ((1u32 << 24) - (whole as u32 * 2 + 1) * full) / 2;
        BoxKernel { whole, full, edge }
    }

    /// Pixels the kernel reaches to each side.
    fn reach(self) -> usize {
        self.whole + 1
    }

    #[inline(always)]
    fn weigh(self, inner: u32, outer: u32) -> u8 {
        ((inner * self.full + outer * self.edge + (1 << 23)) >> 24) as u8
    }
}

/// Buffers of [`gaussian_blur`].
#[derive(Debug, Default)]
pub struct BlurScratch {
    line: Vec<u8>,
    plane: Vec<u8>,
}

/// Blurs one plane, u8 [H, `width`], with standard deviation `radius` px; edges are replicated. A radius of 0 changes nothing.
pub fn gaussian_blur(plane: &mut [u8], width: usize, radius: f32, scratch: &mut BlurScratch) {
    if radius <= 0.0 {
        return;
    }
    blur_plane(plane, width, BoxKernel::for_gaussian(radius), scratch);
}

#[multiversion(targets("x86_64+avx2"))]
fn blur_plane(plane: &mut [u8], width: usize, kernel: BoxKernel, scratch: &mut BlurScratch) {
    let reach = kernel.reach();
    scratch.line.resize(width + 2 * reach, 0);
    for row in plane.chunks_exact_mut(width) {
        for _ in 0..3 {
            let (first, last) = (row[0], row[width - 1]);
            scratch.line[..reach].fill(first);
            scratch.line[reach..reach + width].copy_from_slice(row);
            scratch.line[reach + width..].fill(last);
            blur_line(&scratch.line, row, kernel);
        }
    }

    if scratch.plane.len() < plane.len() {
        scratch.plane.resize(plane.len(), 0);
    }
    let other = &mut scratch.plane[..plane.len()];
    blur_columns(plane, other, width, kernel);
    blur_columns(other, plane, width, kernel);
    blur_columns(plane, other, width, kernel);
    plane.copy_from_slice(other);
}

/// One pass over a row; `line` has `reach` replicated pixels on each side.
#[inline(always)]
fn blur_line(line: &[u8], row: &mut [u8], kernel: BoxKernel) {
    let width = row.len();
    let at = |offset: usize| &line[offset..offset + width];
    match kernel.whole {
        0 => blend_lines([at(1)], [at(0), at(2)], row, kernel),
        1 => blend_lines([at(1), at(2), at(3)], [at(0), at(4)], row, kernel),
        whole => {
            let mut inner: u32 = line[1..2 * whole + 1].iter().map(|&value| u32::from(value)).sum();
            for (x, out) in row.iter_mut().enumerate() {
                inner += u32::from(line[x + 2 * whole + 1]);
                *out = kernel.weigh(inner, u32::from(line[x]) + u32::from(line[x + 2 * whole + 2]));
                inner -= u32::from(line[x + 1]);
            }
        }
    }
}

/// One pass down the columns, a row at a time.
#[inline(always)]
fn blur_columns(source: &[u8], target: &mut [u8], width: usize, kernel: BoxKernel) {
    let height = source.len() / width;
    let row = |y: usize, offset: isize| {
        let y = y.saturating_add_signed(offset).min(height - 1);
        &source[y * width..][..width]
    };
    for (y, out) in target.chunks_exact_mut(width).enumerate() {
        match kernel.whole {
            0 => blend_lines([row(y, 0)], [row(y, -1), row(y, 1)], out, kernel),
            1 => blend_lines([row(y, -1), row(y, 0), row(y, 1)], [row(y, -2), row(y, 2)], out, kernel),
            whole => {
                let whole = whole as isize;
                for (x, out) in out.iter_mut().enumerate() {
                    let inner = (-whole..=whole).map(|offset| u32::from(row(y, offset)[x])).sum();
                    *out = kernel.weigh(inner, u32::from(row(y, -whole - 1)[x]) + u32::from(row(y, whole + 1)[x]));
                }
            }
        }
    }
}

/// The kernel of a known small size as sums of shifted lines, which vectorises.
#[inline(always)]
fn blend_lines<const N: usize>(inner: [&[u8]; N], outer: [&[u8]; 2], out: &mut [u8], kernel: BoxKernel) {
    let len = out.len();
    let inner = inner.map(|line| &line[..len]);
    let [before, after] = outer.map(|line| &line[..len]);
    for i in 0..len {
        let sum = inner.iter().map(|line| u32::from(line[i])).sum();
        out[i] = kernel.weigh(sum, u32::from(before[i]) + u32::from(after[i]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_radii_of_the_method_need_boxes_of_radius_0_or_1() {
        for step in 0..=190 {
            assert!(BoxKernel::for_gaussian(0.1 + step as f32 * 0.01).whole <= 1);
        }
    }

    #[test]
    fn a_constant_plane_stays_as_it_is() {
        for radius in [0.0, 0.1, 1.0, 2.0, 9.0] {
            let mut plane = vec![200u8; 7 * 5];
            gaussian_blur(&mut plane, 7, radius, &mut BlurScratch::default());
            assert!(plane.iter().all(|&value| value == 200), "radius {radius}");
        }
    }
}
