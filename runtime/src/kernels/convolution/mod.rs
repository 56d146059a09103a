//! Convolution and its two gradients: `swav::Convolution`, `swav::ConvInputGrad`, `swav::ConvWeightGrad`.
//!
//! All of them turn small pieces of the maps to channels-last rows in the cache, multiply there with the whole batch
//! merged, and turn the results back. 3x3 convolutions of stride 1 multiply Winograd's points ([`tiles`]), all others
//! tap by tap ([`taps`]).

mod taps;
mod tiles;
mod winograd;

#[cfg(test)]
mod tests;

use super::Resources;
use super::gemm::PANEL;
use super::operator::{Attributes, Dense, Input, Output, exactly};
use super::parallel::{KernelError, for_each};

/// Sizes of a convolution x [batch, channels, height, width] → y [batch, out, out_height, out_width].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Geometry {
    pub batch: usize,
    pub channels: usize,
    pub height: usize,
    pub width: usize,
    pub out: usize,
    pub out_height: usize,
    pub out_width: usize,
    pub kernel: usize,
    pub stride: usize,
    pub padding: usize,
}

impl Geometry {
    /// Whether tiles of 4x4 outputs take fewer multiplications than the nine taps, and the channels fill their padding.
    fn suits_winograd(&self) -> bool {
        (self.kernel, self.stride, self.padding) == (3, 1, 1) && self.height.min(self.width) >= 3 && self.channels.min(self.out) >= PANEL
    }

    fn taps(&self) -> usize {
        self.kernel * self.kernel
    }

    fn pixels(&self) -> usize {
        self.height * self.width
    }

    fn out_pixels(&self) -> usize {
        self.out_height * self.out_width
    }
}

impl Geometry {
    /// That of x and y, whose shapes belong together.
    fn new(window: Window, x: &[usize], y: &[usize]) -> Geometry {
        let Window { kernel, stride, padding } = window;
        Geometry { batch: x[0], channels: x[1], height: x[2], width: x[3], out: y[1], out_height: y[2], out_width: y[3], kernel, stride, padding }
    }
}

/// Kernel, stride and padding, the same both ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    pub kernel: usize,
    pub stride: usize,
    pub padding: usize,
}

impl Window {
    pub fn read(attributes: &Attributes) -> Result<Window, String> {
        let same = |name: &str| {
            let values = attributes.sizes(name)?;
            let &first = values.first().ok_or_else(|| format!("attribute {name} is empty"))?;
            if values.iter().any(|&value| value != first) {
                return Err(format!("attribute {name} is {values:?}, expected the same on all sides"));
            }
            Ok(first)
        };
        let window = Window { kernel: same("kernel_shape")?, stride: same("strides")?, padding: same("pads")? };
        if window.kernel == 0 || window.stride == 0 {
            return Err(format!("expected a kernel and a stride of at least 1, got {window:?}"));
        }
        Ok(window)
    }

    pub fn output(self, side: usize) -> Result<usize, String> {
        let room = (side + 2 * self.padding).checked_sub(self.kernel).ok_or_else(|| format!("a side of {side} is smaller than {self:?}"))?;
        Ok(room / self.stride + 1)
    }
}

pub(super) fn rank_four<const COUNT: usize>(shapes: &[Vec<usize>]) -> Result<[[usize; 4]; COUNT], String> {
    let shapes: Option<Vec<[usize; 4]>> = shapes.iter().map(|shape| shape.as_slice().try_into().ok()).collect();
    shapes.and_then(|shapes| shapes.try_into().ok()).ok_or_else(|| format!("expected {COUNT} tensors of 4 dimensions"))
}

/// `swav::Convolution`: x [N,C,H,W], w [O,C,k,k] → y [N,O,H',W'].
pub(super) struct Forward(Window);

impl Dense for Forward {
    const NAME: &'static str = "Convolution";
    const INPUTS: (usize, usize) = (2, 0);
    const OUTPUTS: (usize, usize) = (1, 0);

    fn read(attributes: &Attributes) -> Result<Self, String> {
        Window::read(attributes).map(Forward)
    }

    fn infer(&self, inputs: &[Vec<usize>]) -> Result<Vec<Vec<usize>>, String> {
        let [x, w] = rank_four(inputs)?;
        if [w[1], w[2], w[3]] != [x[1], self.0.kernel, self.0.kernel] {
            return Err(format!("weight {w:?} does not belong to input {x:?} and {:?}", self.0));
        }
        Ok(vec![vec![x[0], w[0], self.0.output(x[2])?, self.0.output(x[3])?]])
    }

    fn compute(&self, with: &Resources, inputs: &[Input], outputs: Vec<Output>) -> Result<(), KernelError> {
        let ([x, w], [y]) = ([inputs[0], inputs[1]], exactly(outputs)?);
        forward(with, Geometry::new(self.0, x.shape, y.shape), x.f32()?, w.f32()?, y.f32()?)
    }
}

/// `swav::ConvInputGrad`: dy [N,O,H',W'], w [O,C,k,k] → dx [N,C,H,W] of size `input_size`.
pub(super) struct InputGradient {
    window: Window,
    input_size: [usize; 2],
}

impl Dense for InputGradient {
    const NAME: &'static str = "ConvInputGrad";
    const INPUTS: (usize, usize) = (2, 0);
    const OUTPUTS: (usize, usize) = (1, 0);

    fn read(attributes: &Attributes) -> Result<Self, String> {
        let size = attributes.sizes("input_size")?;
        let input_size = size.as_slice().try_into().map_err(|_| format!("attribute input_size is {size:?}, expected two sizes"))?;
        Ok(InputGradient { window: Window::read(attributes)?, input_size })
    }

    fn infer(&self, inputs: &[Vec<usize>]) -> Result<Vec<Vec<usize>>, String> {
        let [dy, w] = rank_four(inputs)?;
        let [height, width] = self.input_size;
        let expected = [w[0], self.window.output(height)?, self.window.output(width)?];
        if dy[1..] != expected || w[2..] != [self.window.kernel; 2] {
            return Err(format!("gradient {dy:?} and weight {w:?} do not belong to an input of {height} x {width} and {:?}", self.window));
        }
        Ok(vec![vec![dy[0], w[1], height, width]])
    }

    fn compute(&self, with: &Resources, inputs: &[Input], outputs: Vec<Output>) -> Result<(), KernelError> {
        let ([dy, w], [dx]) = ([inputs[0], inputs[1]], exactly(outputs)?);
        input_gradient(with, Geometry::new(self.window, dx.shape, dy.shape), dy.f32()?, w.f32()?, dx.f32()?)
    }
}

/// `swav::ConvWeightGrad`: dy [N,O,H',W'], x [N,C,H,W] → dw [O,C,k,k].
pub(super) struct WeightGradient(Window);

impl Dense for WeightGradient {
    const NAME: &'static str = "ConvWeightGrad";
    const INPUTS: (usize, usize) = (2, 0);
    const OUTPUTS: (usize, usize) = (1, 0);

    fn read(attributes: &Attributes) -> Result<Self, String> {
        Window::read(attributes).map(WeightGradient)
    }

    fn infer(&self, inputs: &[Vec<usize>]) -> Result<Vec<Vec<usize>>, String> {
        let [dy, x] = rank_four(inputs)?;
        if [dy[0], dy[2], dy[3]] != [x[0], self.0.output(x[2])?, self.0.output(x[3])?] {
            return Err(format!("gradient {dy:?} does not belong to input {x:?} and {:?}", self.0));
        }
        Ok(vec![vec![dy[1], x[1], self.0.kernel, self.0.kernel]])
    }

    fn compute(&self, with: &Resources, inputs: &[Input], outputs: Vec<Output>) -> Result<(), KernelError> {
        let ([dy, x], [dw]) = ([inputs[0], inputs[1]], exactly(outputs)?);
        weight_gradient(with, Geometry::new(self.0, x.shape, dy.shape), dy.f32()?, x.f32()?, dw.f32()?)
    }
}

/// Elements of the pieces between two rounds of [`sum_over_pieces`].
const ROUND_ELEMENTS: usize = 2 * 1024 * 1024;

/// Sums over pieces of the batch, in rounds of as many as the cache holds: every piece is written to `piece_len` elements by
/// `fill`, then `add` adds those of the round to each part, of `part_len` elements, of `sums`. The order of the additions
/// does not depend on the threads.
fn sum_over_pieces<P: Sync>(
    with: &Resources,
    pieces: &[P],
    piece_len: usize,
    fill: impl Fn(&P, &mut [f32]) + Sync,
    (sums, part_len): (&mut [f32], usize),
    add: impl Fn(&[P], &[f32], usize, &mut [f32]) + Sync,
) -> Result<(), KernelError> {
    sums.fill(0.0);
    let round = (ROUND_ELEMENTS / piece_len).clamp(1, pieces.len().max(1));
    let mut values = with.pool.take(round * piece_len);
    for pieces in pieces.chunks(round) {
        for_each(with.parallel, values.chunks_exact_mut(piece_len).zip(pieces), |_, (values, piece)| fill(piece, values))?;
        let values = &values;
        for_each(with.parallel, sums.chunks_exact_mut(part_len), |part, sums| add(pieces, values, part, sums))?;
    }
    Ok(())
}

/// Parts of the batch that are summed on their own by [`sum_by_groups`]: fixed, so that the order of the additions does not
/// depend on the threads.
const GROUPS: usize = 16;

/// Sums that a task adds up over the groups.
const SUMS_AT_ONCE: usize = 4096;

/// As [`sum_over_pieces`], but a piece is added to all of `sums` as soon as it is filled: for sums that fit the cache beside it.
/// Every group of pieces has sums of its own, which are added up at the end.
fn sum_by_groups<P: Sync>(
    with: &Resources,
    pieces: &[P],
    piece_len: usize,
    fill: impl Fn(&P, &mut [f32]) + Sync,
    sums: &mut [f32],
    add: impl Fn(&P, &[f32], &mut [f32]) + Sync,
) -> Result<(), KernelError> {
    let pieces: Vec<&[P]> = pieces.chunks(pieces.len().div_ceil(GROUPS).max(1)).collect();
    let mut groups = with.pool.take(pieces.len() * sums.len());
    for_each(with.parallel, groups.chunks_exact_mut(sums.len()).zip(&pieces), |_, (sums, pieces)| {
        let mut values = with.pool.take(piece_len);
        sums.fill(0.0);
        for piece in *pieces {
            fill(piece, &mut values);
            add(piece, &values, sums);
        }
    })?;
    let (groups, len) = (&groups, sums.len());
    for_each(with.parallel, sums.chunks_mut(SUMS_AT_ONCE), |part, sums| {
        sums.fill(0.0);
        for group in groups.chunks_exact(len) {
            for (sum, value) in sums.iter_mut().zip(&group[part * SUMS_AT_ONCE..]) {
                *sum += value;
            }
        }
    })
}

/// y = x * w; w [out, channels, kernel, kernel].
pub(super) fn forward(with: &Resources, geometry: Geometry, x: &[f32], w: &[f32], y: &mut [f32]) -> Result<(), KernelError> {
    if geometry.suits_winograd() { tiles::forward(with, geometry, x, w, y) } else { taps::forward(with, geometry, x, w, y) }
}

/// dx from dy and w.
pub(super) fn input_gradient(with: &Resources, geometry: Geometry, dy: &[f32], w: &[f32], dx: &mut [f32]) -> Result<(), KernelError> {
    if geometry.suits_winograd() { tiles::input_gradient(with, geometry, dy, w, dx) } else { taps::input_gradient(with, geometry, dy, w, dx) }
}

/// dw from dy and x.
pub(super) fn weight_gradient(with: &Resources, geometry: Geometry, dy: &[f32], x: &[f32], dw: &mut [f32]) -> Result<(), KernelError> {
    if geometry.suits_winograd() { tiles::weight_gradient(with, geometry, dy, x, dw) } else { taps::weight_gradient(with, geometry, dy, x, dw) }
}
