//! Convolution and its two gradients on channels-last maps: `swav::Convolution`, `swav::ConvInputGrad`,
//! `swav::ConvWeightGrad`.
//!
//! The whole batch is merged into the products, which read and write the maps where they lie. 3x3 convolutions of stride 1
//! multiply Winograd's points ([`tiles`]), all others tap by tap ([`taps`]).

mod taps;
mod tiles;
mod winograd;

#[cfg(test)]
mod tests;

use super::Resources;
use super::channel_last::{PanelRows, fill_panel_rows};
use super::gemm::PANEL;
use super::operator::{Attributes, Dense, Input, Output, exactly};
use super::parallel::KernelError;

/// Products with a weight that take as long as writing or reading it in memory once: measured on the 3x3 layers of ResNet-50.
const PASS_PRODUCTS: usize = 56;

/// Sizes of a convolution x [batch, height, width, channels] → y [batch, out_height, out_width, out].
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
    /// Whether Winograd's points take less time than the nine taps, by this model: both multiply matrices of channels, the
    /// points 36 a tile, the taps one for each tap of a pixel that is on the map; and there are 36 points to a weight's nine
    /// taps, each of them written and read once. On maps of a few tiles that is most of the work.
    fn suits_winograd(&self) -> bool {
        if (self.kernel, self.stride, self.padding) != (3, 1, 1) || self.height.min(self.width) < 3 || self.channels.min(self.out) < PANEL {
            return false;
        }
        let tiles = self.height.div_ceil(tiles::OUTPUT) * self.width.div_ceil(tiles::OUTPUT);
        let by_points = tiles::POINTS * (self.batch * tiles + PASS_PRODUCTS);
        let taps_on_map = |side: usize| 3 * side - 2;
        let by_taps = self.batch * taps_on_map(self.height) * taps_on_map(self.width) + self.taps() * PASS_PRODUCTS;
        by_points < by_taps
    }

    /// Whether every output sees the pixel at its own place and no other.
    fn is_pointwise(&self) -> bool {
        (self.kernel, self.stride, self.padding) == (1, 1, 0)
    }

    /// Whether every output sees one pixel, and not all pixels are seen.
    fn is_spaced(&self) -> bool {
        (self.kernel, self.padding) == (1, 0) && self.stride > 1
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

    /// That of x and y, whose shapes belong together.
    fn new(window: Window, x: &[usize], y: &[usize]) -> Geometry {
        let Window { kernel, stride, padding } = window;
        Geometry { batch: x[0], height: x[1], width: x[2], channels: x[3], out_height: y[1], out_width: y[2], out: y[3], kernel, stride, padding }
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
        attributes.expect_channels_last()?;
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
    let of_rank: Option<Vec<[usize; 4]>> = shapes.iter().map(|shape| shape.as_slice().try_into().ok()).collect();
    let of_rank: Option<[[usize; 4]; COUNT]> = of_rank.and_then(|shapes| shapes.try_into().ok());
    let filled = of_rank.filter(|shapes| !shapes.as_flattened().contains(&0));
    filled.ok_or_else(|| format!("expected {COUNT} tensors of 4 dimensions, none of them empty, got {shapes:?}"))
}

/// `swav::Convolution`: x [N,H,W,C], w [O,C,k,k] → y [N,H',W',O].
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
        if [w[1], w[2], w[3]] != [x[3], self.0.kernel, self.0.kernel] {
            return Err(format!("weight {w:?} does not belong to input {x:?} and {:?}", self.0));
        }
        Ok(vec![vec![x[0], self.0.output(x[1])?, self.0.output(x[2])?, w[0]]])
    }

    fn compute(&self, with: &Resources, inputs: &[Input], outputs: Vec<Output>) -> Result<(), KernelError> {
        let ([x, w], [y]) = ([inputs[0], inputs[1]], exactly(outputs)?);
        forward(with, Geometry::new(self.0, x.shape, y.shape), x.f32()?, w.f32()?, y.f32()?)
    }
}

/// `swav::ConvInputGrad`: dy [N,H',W',O], w [O,C,k,k] and perhaps an addend → dx [N,H,W,C] of size `input_size`, plus the addend.
pub(super) struct InputGradient {
    window: Window,
    input_size: [usize; 2],
}

impl Dense for InputGradient {
    const NAME: &'static str = "ConvInputGrad";
    const INPUTS: (usize, usize) = (2, 1);
    const OUTPUTS: (usize, usize) = (1, 0);

    fn read(attributes: &Attributes) -> Result<Self, String> {
        let size = attributes.sizes("input_size")?;
        let input_size = size.as_slice().try_into().map_err(|_| format!("attribute input_size is {size:?}, expected two sizes"))?;
        Ok(InputGradient { window: Window::read(attributes)?, input_size })
    }

    fn infer(&self, inputs: &[Vec<usize>]) -> Result<Vec<Vec<usize>>, String> {
        let [dy, w] = rank_four(&inputs[..2])?;
        let [height, width] = self.input_size;
        let expected = [self.window.output(height)?, self.window.output(width)?, w[0]];
        if dy[1..] != expected || w[2..] != [self.window.kernel; 2] {
            return Err(format!("gradient {dy:?} and weight {w:?} do not belong to an input of {height} x {width} and {:?}", self.window));
        }
        let dx = vec![dy[0], height, width, w[1]];
        if let Some(addend) = inputs.get(2).filter(|addend| **addend != dx) {
            return Err(format!("expected an addend of the input's shape {dx:?}, got {addend:?}"));
        }
        Ok(vec![dx])
    }

    fn compute(&self, with: &Resources, inputs: &[Input], outputs: Vec<Output>) -> Result<(), KernelError> {
        let ([dy, w], [dx]) = ([inputs[0], inputs[1]], exactly(outputs)?);
        let addend = inputs.get(2).map(|addend| addend.f32()).transpose()?;
        input_gradient(with, Geometry::new(self.window, dx.shape, dy.shape), dy.f32()?, w.f32()?, addend, dx.f32()?)
    }
}

/// `swav::ConvWeightGrad`: dy [N,H',W',O], x [N,H,W,C] → dw [O,C,k,k].
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
        if dy[..3] != [x[0], self.0.output(x[1])?, self.0.output(x[2])?] {
            return Err(format!("gradient {dy:?} does not belong to input {x:?} and {:?}", self.0));
        }
        Ok(vec![vec![dy[3], x[3], self.0.kernel, self.0.kernel]])
    }

    fn compute(&self, with: &Resources, inputs: &[Input], outputs: Vec<Output>) -> Result<(), KernelError> {
        let ([dy, x], [dw]) = ([inputs[0], inputs[1]], exactly(outputs)?);
        weight_gradient(with, Geometry::new(self.0, x.shape, dy.shape), dy.f32()?, x.f32()?, dw.f32()?)
    }
}

/// Channels up to which the taps of an output are gathered into one row: a row of a single tap would be mostly padding.
const FEW_CHANNELS: usize = 8;

/// The rows of x: pixels of few channels stay as they are.
fn sources<'a>(with: &Resources<'a>, geometry: Geometry, x: &'a [f32]) -> Result<PanelRows<'a>, KernelError> {
    if geometry.channels <= FEW_CHANNELS { Ok(PanelRows::Given(x)) } else { PanelRows::new(with, x, geometry.channels) }
}

/// y = x * w; w [out, channels, kernel, kernel].
fn forward(with: &Resources, geometry: Geometry, x: &[f32], w: &[f32], y: &mut [f32]) -> Result<(), KernelError> {
    let x = sources(with, geometry, x)?;
    fill_panel_rows(with, y, geometry.out, None, |y, _| match geometry.suits_winograd() {
        true => tiles::forward(with, geometry, &x, w, y),
        false => taps::forward(with, geometry, &x, w, y),
    })
}

/// dx from dy and w, plus the addend.
fn input_gradient(with: &Resources, geometry: Geometry, dy: &[f32], w: &[f32], addend: Option<&[f32]>, dx: &mut [f32]) -> Result<(), KernelError> {
    let dy = PanelRows::new(with, dy, geometry.out)?;
    fill_panel_rows(with, dx, geometry.channels, addend, |dx, addend| match geometry.suits_winograd() {
        true => tiles::input_gradient(with, geometry, &dy, w, addend, dx),
        false => taps::input_gradient(with, geometry, &dy, w, addend, dx),
    })
}

/// dw from dy and x.
fn weight_gradient(with: &Resources, geometry: Geometry, dy: &[f32], x: &[f32], dw: &mut [f32]) -> Result<(), KernelError> {
    let (dy, x) = (PanelRows::new(with, dy, geometry.out)?, sources(with, geometry, x)?);
    if geometry.suits_winograd() { tiles::weight_gradient(with, geometry, &dy, &x, dw) } else { taps::weight_gradient(with, geometry, &dy, &x, dw) }
}
