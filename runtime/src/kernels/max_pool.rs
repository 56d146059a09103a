//! Max pooling of channels-last maps, which remembers every maximum as a tap of its window: `swav::MaxPoolTrain` and its gradient.

#[cfg(test)]
mod tests;

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::Resources;
use super::convolution::{Window, rank_four};
use super::operator::{Attributes, Dense, Input, Output, exactly};
use super::parallel::{KernelError, for_each};
use super::simd::{Columns, for_columns, load_columns, store_columns};

/// Elements of the larger map that make a task worth handing to another thread.
const TASK_ELEMENTS: usize = 32 * 1024;

/// Side of the largest window whose taps are counted in a byte.
const LARGEST_KERNEL: usize = 16;

/// Sizes of a pooling x [batch, height, width, channels] → y [batch, out_height, out_width, channels].
#[derive(Debug, Clone, Copy)]
struct Geometry {
    window: Window,
    height: usize,
    width: usize,
    channels: usize,
    out_height: usize,
    out_width: usize,
}

impl Geometry {
    fn new(window: Window, [_, height, width, channels]: [usize; 4]) -> Result<Geometry, String> {
        if height * width * channels == 0 {
            return Err(format!("expected maps that are not empty, got {height} x {width} of {channels} channels"));
        }
        Ok(Geometry { window, height, width, channels, out_height: window.output(height)?, out_width: window.output(width)? })
    }
}

fn read_window(attributes: &Attributes) -> Result<Window, String> {
    let window = Window::read(attributes)?;
    // With less padding than the kernel every window sees a part of the map.
    if window.kernel > LARGEST_KERNEL || window.padding >= window.kernel {
        return Err(format!("expected a kernel of at most {LARGEST_KERNEL} and less padding, got {window:?}"));
    }
    Ok(window)
}

/// `swav::MaxPoolTrain`: x [N,H,W,C] → y [N,H',W',C] and taps u8 [N,H',W',C], row · kernel + column of the maximum within its
/// window. Of equal maxima the first counts, row by row. What is not a number beats all numbers, and its last tap counts. This is as
/// in PyTorch; in ONNX Runtime's `MaxPool`, numbers win.
pub(super) struct MaxPoolTrain(Window);

impl Dense for MaxPoolTrain {
    const NAME: &'static str = "MaxPoolTrain";
    const INPUTS: (usize, usize) = (1, 0);
    const OUTPUTS: (usize, usize) = (2, 0);
    const BYTES: (&'static [usize], &'static [usize]) = (&[], &[1]);

    fn read(attributes: &Attributes) -> Result<Self, String> {
        read_window(attributes).map(MaxPoolTrain)
    }

    fn infer(&self, inputs: &[Vec<usize>]) -> Result<Vec<Vec<usize>>, String> {
        let [x] = rank_four(inputs)?;
        let Geometry { channels, out_height, out_width, .. } = Geometry::new(self.0, x)?;
        let y = vec![x[0], out_height, out_width, channels];
        Ok(vec![y.clone(), y])
    }

    fn compute(&self, &Resources { parallel, arch, .. }: &Resources, inputs: &[Input], outputs: Vec<Output>) -> Result<(), KernelError> {
        let [shape] = rank_four(&[inputs[0].shape.to_vec()]).map_err(KernelError::Shape)?;
        let (geometry, x) = (Geometry::new(self.0, shape).map_err(KernelError::Shape)?, inputs[0].f32()?);
        let [y, taps] = exactly(outputs)?;
        let row = geometry.out_width * geometry.channels;
        let rows = (TASK_ELEMENTS / (geometry.window.stride * geometry.width * geometry.channels)).max(1);
        let parts = y.f32()?.chunks_mut(rows * row).zip(taps.u8()?.chunks_mut(rows * row));
        for_each(parallel, parts, |task, (y, taps)| {
            for (index, (y, taps)) in y.chunks_exact_mut(row).zip(taps.chunks_exact_mut(row)).enumerate() {
                let (image, out_row) = ((task * rows + index) / geometry.out_height, (task * rows + index) % geometry.out_height);
                let image = &x[image * geometry.height * geometry.width * geometry.channels..][..geometry.height * geometry.width * geometry.channels];
                arch.dispatch(PoolRow { geometry, image, out_row, y, taps });
            }
        })
    }
}

/// Positions of a window that lie on a side of `size`: `taps`, the first of them at `first`.
#[derive(Debug, Clone)]
struct Span {
    taps: Range<usize>,
    first: usize,
}

impl Span {
    fn new(Window { kernel, stride, padding }: Window, output: usize, size: usize) -> Span {
        let start = output * stride;
        let taps = padding.saturating_sub(start)..kernel.min(size + padding - start);
        Span { first: start + taps.start - padding, taps }
    }
}

/// A row of outputs.
struct PoolRow<'a> {
    geometry: Geometry,
    image: &'a [f32],
    out_row: usize,
    y: &'a mut [f32],
    taps: &'a mut [u8],
}

impl WithSimd for PoolRow<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let PoolRow { geometry: Geometry { window, height, width, channels, out_width, .. }, image, out_row, y, taps } = self;
        let rows = Span::new(window, out_row, height);
        for column in 0..out_width {
            let columns = Span::new(window, column, width);
            let image = &image[(rows.first * width + columns.first) * channels..];
            let own = column * channels..(column + 1) * channels;
            let (y, taps, rows) = (&mut y[own.clone()], &mut taps[own], rows.taps.clone());
            let mut pool = PoolPixel { image, stride: [width * channels, channels], kernel: window.kernel, rows, columns: columns.taps, y, taps };
            for_columns(simd, 0..channels, &mut pool);
        }
    }
}

/// All channels of an output.
struct PoolPixel<'a> {
    /// The map from the window's first pixel on.
    image: &'a [f32],
    /// Distances of neighbouring rows and columns.
    stride: [usize; 2],
    kernel: usize,
    rows: Range<usize>,
    columns: Range<usize>,
    y: &'a mut [f32],
    taps: &'a mut [u8],
}

impl Columns for PoolPixel<'_> {
    #[inline(always)]
    fn visit<S: Simd, const COUNT: usize>(&mut self, simd: S, first: usize, len: usize) {
        let mut maxima = [simd.splat_f32s(f32::NEG_INFINITY); COUNT];
        // Where nothing is above −∞, the first tap.
        let mut taps = [simd.splat_u32s((self.rows.start * self.kernel + self.columns.start) as u32); COUNT];
        for row in self.rows.clone() {
            for column in self.columns.clone() {
                let at = (row - self.rows.start) * self.stride[0] + (column - self.columns.start) * self.stride[1] + first;
                let values = load_columns::<S, COUNT>(simd, self.image, at, len);
                let tap = simd.splat_u32s((row * self.kernel + column) as u32);
                for index in 0..COUNT {
                    let (value, maximum) = (values[index], maxima[index]);
                    let is_number = simd.equal_f32s(value, value);
                    let wins = simd.or_m32s(simd.greater_than_f32s(value, maximum), simd.not_m32s(is_number));
                    maxima[index] = simd.select_f32s(wins, value, maximum);
                    taps[index] = simd.select_u32s(wins, tap, taps[index]);
                }
            }
        }
        store_columns(simd, maxima, self.y, first, len);
        let (vectors, own) = (pulp::bytemuck::cast_slice::<S::u32s, u32>(&taps), &mut self.taps[first..first + len]);
        for (own, &tap) in own.iter_mut().zip(vectors) {
            *own = tap as u8;
        }
    }
}

/// `swav::MaxPoolTrainGrad`: dy [N,H',W',C], taps u8 [N,H',W',C] → dx [N,H,W,C] of size `input_size`: every gradient goes to the
/// maximum it came from.
pub(super) struct MaxPoolTrainGrad {
    window: Window,
    input_size: [usize; 2],
}

impl Dense for MaxPoolTrainGrad {
    const NAME: &'static str = "MaxPoolTrainGrad";
    const INPUTS: (usize, usize) = (2, 0);
    const OUTPUTS: (usize, usize) = (1, 0);
    const BYTES: (&'static [usize], &'static [usize]) = (&[1], &[]);

    fn read(attributes: &Attributes) -> Result<Self, String> {
        let size = attributes.sizes("input_size")?;
        let input_size = size.as_slice().try_into().map_err(|_| format!("attribute input_size is {size:?}, expected two sizes"))?;
        Ok(MaxPoolTrainGrad { window: read_window(attributes)?, input_size })
    }

    fn infer(&self, inputs: &[Vec<usize>]) -> Result<Vec<Vec<usize>>, String> {
        let [dy, taps] = rank_four(inputs)?;
        let dx = [dy[0], self.input_size[0], self.input_size[1], dy[3]];
        let Geometry { out_height, out_width, .. } = Geometry::new(self.window, dx)?;
        if dy != taps || [dy[1], dy[2]] != [out_height, out_width] {
            return Err(format!("gradient {dy:?} and taps {taps:?} do not belong to an input of {:?} and {:?}", self.input_size, self.window));
        }
        Ok(vec![dx.to_vec()])
    }

    fn compute(&self, &Resources { parallel, arch, .. }: &Resources, inputs: &[Input], outputs: Vec<Output>) -> Result<(), KernelError> {
        let (dy, taps, [dx]) = (inputs[0].f32()?, inputs[1].u8()?, exactly(outputs)?);
        let [shape] = rank_four(&[dx.shape.to_vec()]).map_err(KernelError::Shape)?;
        let geometry = Geometry::new(self.window, shape).map_err(KernelError::Shape)?;
        let row = geometry.width * geometry.channels;
        let rows = (TASK_ELEMENTS / row).max(1);
        for_each(parallel, dx.f32()?.chunks_mut(rows * row), |task, dx| {
            for (index, dx) in dx.chunks_exact_mut(row).enumerate() {
                let (image, row) = ((task * rows + index) / geometry.height, (task * rows + index) % geometry.height);
                let own = image * geometry.out_height * geometry.out_width * geometry.channels;
                arch.dispatch(GatherRow { geometry, dy: &dy[own..], taps: &taps[own..], row, dx });
            }
        })
    }
}

/// A row of dx: every pixel adds up the gradients whose tap points at it.
struct GatherRow<'a> {
    geometry: Geometry,
    /// From this row's image on, as the taps.
    dy: &'a [f32],
    taps: &'a [u8],
    row: usize,
    dx: &'a mut [f32],
}

impl WithSimd for GatherRow<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let GatherRow { geometry: Geometry { window, channels, out_height, out_width, .. }, dy, taps, row, dx } = self;
        for (column, dx) in dx.chunks_exact_mut(channels).enumerate() {
            dx.fill(0.0);
            for tap_row in 0..window.kernel {
                let Some(out_row) = output_at(window, row, tap_row, out_height) else { continue };
                for tap_column in 0..window.kernel {
                    let Some(out_column) = output_at(window, column, tap_column, out_width) else { continue };
                    let tap = (tap_row * window.kernel + tap_column) as u8;
                    let own = (out_row * out_width + out_column) * channels;
                    add_where(dx, &dy[own..own + channels], &taps[own..own + channels], tap);
                }
            }
        }
    }
}

/// The output whose window has its tap `tap` at a position.
#[inline(always)]
fn output_at(Window { stride, padding, .. }: Window, position: usize, tap: usize, outputs: usize) -> Option<usize> {
    let start = (position + padding).checked_sub(tap)?;
    (start % stride == 0 && start / stride < outputs).then_some(start / stride)
}

#[inline(always)]
fn add_where(dx: &mut [f32], dy: &[f32], taps: &[u8], tap: u8) {
    for ((dx, &dy), &own) in dx.iter_mut().zip(dy).zip(taps) {
        *dx += if own == tap { dy } else { 0.0 };
    }
}
