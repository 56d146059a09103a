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
    #[inline(always)]
    fn reach(self) -> usize {
        self.whole + 1
    }

    #[inline(always)]
    fn weigh(self, inner: u32, outer: u32) -> u8 {
        ((inner * self.full + outer * self.edge + (1 << 23)) >> 24) as u8
    }
}

/// Buffer of [`gaussian_blur`].
#[derive(Debug, Default)]
pub struct BlurScratch {
    plane: Vec<u8>,
}

/// Blurs one plane, u8 [H, `width`], with standard deviation `radius` px; edges are replicated. A radius of 0 changes nothing.
pub fn gaussian_blur(plane: &mut [u8], width: usize, radius: f32, scratch: &mut BlurScratch) {
    if radius <= 0.0 {
        return;
    }
    if scratch.plane.len() < plane.len() {
        scratch.plane.resize(plane.len(), 0);
    }
    let other = &mut scratch.plane[..plane.len()];
    blur_plane(plane, other, width, BoxKernel::for_gaussian(radius));
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn blur_plane(plane: &mut [u8], other: &mut [u8], width: usize, kernel: BoxKernel) {
    blur_rows(plane, other, width, kernel);
    blur_rows(other, plane, width, kernel);
    blur_rows(plane, other, width, kernel);
    blur_columns(other, plane, width, kernel);
    blur_columns(plane, other, width, kernel);
    blur_columns(other, plane, width, kernel);
}

/// One pass along the rows.
#[inline(always)]
fn blur_rows(source: &[u8], target: &mut [u8], width: usize, kernel: BoxKernel) {
    // The inner pixels take in the rows' ends, too, with neighbours from other rows; those are made again.
    let inner = blend_inner(source, target, 1, kernel);
    let redo = if inner { kernel.reach().min(width) } else { width };
    for (source, target) in source.chunks_exact(width).zip(target.chunks_exact_mut(width)) {
        for x in (0..redo).chain(width - redo..width) {
            target[x] = blend_at(source, x, 1, width, kernel);
        }
    }
}

/// One pass down the columns.
#[inline(always)]
fn blur_columns(source: &[u8], target: &mut [u8], width: usize, kernel: BoxKernel) {
    let height = source.len() / width;
    let inner = blend_inner(source, target, width, kernel);
    let redo = if inner { kernel.reach().min(height) } else { height };
    for y in (0..redo).chain(height - redo..height) {
        for x in 0..width {
            target[y * width + x] = blend_at(&source[x..], y, width, height, kernel);
        }
    }
}

/// Weighs neighbours at multiples of `stride` in one run over the plane, leaving out its ends, for the two kernels that
/// the method needs: sums of shifted slices, which vectorise. False, with nothing done, for other kernels and tiny planes.
#[inline(always)]
fn blend_inner(source: &[u8], target: &mut [u8], stride: usize, kernel: BoxKernel) -> bool {
    let margin = kernel.reach() * stride;
    if kernel.whole > 1 || source.len() <= 2 * margin {
        return false;
    }
    let out = &mut target[margin..source.len() - margin];
    let len = out.len();
    let at = |number: usize| &source[number * stride..][..len];
    if kernel.whole == 0 {
        blend_slices([at(1)], [at(0), at(2)], out, kernel);
    } else {
        blend_slices([at(1), at(2), at(3)], [at(0), at(4)], out, kernel);
    }
    true
}

#[inline(always)]
fn blend_slices<const N: usize>(inner: [&[u8]; N], [before, after]: [&[u8]; 2], out: &mut [u8], kernel: BoxKernel) {
    let len = out.len();
    let inner = inner.map(|slice| &slice[..len]);
    let (before, after) = (&before[..len], &after[..len]);
    for i in 0..len {
        // 16 bits are enough, and narrower lanes are faster.
        let sum: u16 = inner.iter().map(|slice| u16::from(slice[i])).sum();
        out[i] = kernel.weigh(u32::from(sum), u32::from(u16::from(before[i]) + u16::from(after[i])));
    }
}

/// One pixel of a line of `len` pixels, `stride` bytes apart, with replicated edges.
#[inline(always)]
fn blend_at(line: &[u8], place: usize, stride: usize, len: usize, kernel: BoxKernel) -> u8 {
    let at = |offset: isize| u32::from(line[place.saturating_add_signed(offset).min(len - 1) * stride]);
    let whole = kernel.whole as isize;
    kernel.weigh((-whole..=whole).map(at).sum(), at(-whole - 1) + at(whole + 1))
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
    #[test]
    fn planes_of_any_size_equal_the_pixel_by_pixel_sum() {
        for (width, height) in [(1, 1), (1, 9), (9, 1), (2, 3), (3, 2), (4, 5), (37, 6), (6, 37)] {
            for radius in [0.4, 1.9, 3.5] {
                let kernel = BoxKernel::for_gaussian(radius);
                let source: Vec<u8> = (0..width * height).map(|i| (i * 89 % 251) as u8).collect();
                let (mut rows, mut columns) = (vec![0; source.len()], vec![0; source.len()]);
                blur_rows(&source, &mut rows, width, kernel);
                blur_columns(&source, &mut columns, width, kernel);
                for (i, (&along, &down)) in rows.iter().zip(&columns).enumerate() {
                    let (x, y) = (i % width, i / width);
                    assert_eq!(along, blend_at(&source[y * width..], x, 1, width, kernel), "row, {width}x{height}, radius {radius}, {x} {y}");
                    assert_eq!(down, blend_at(&source[x..], y, width, height, kernel), "column, {width}x{height}, radius {radius}, {x} {y}");
                }
            }
        }
    }
}
