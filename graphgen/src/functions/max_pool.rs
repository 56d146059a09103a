//! Max pooling of a training graph that remembers each maximum as a tap of its window.

use ndarray::ArrayD;

use super::body_inputs;
use super::max_pool_grad::{MaxPoolGrad, map_starts};
use crate::ir::{DType, Graph, GraphError, TensorData, TensorType, ValueId};
use crate::ops::conv::Window;
use crate::ops::layout::{Layout, Maps};
use crate::ops::{Attribute, Domain, IntegerDiv, MaxPool, Operator, Vjp};
use crate::preset::Target;

/// Maximum over windows; x [N,C,H,W] → y [N,C,H',W'] and `taps` u8 [N,C,H',W']: row · kernel + column of the maximum within
/// its window. Of equal maxima the first counts, row by row, as in PyTorch. A byte in place of the eight of
/// [`MaxPool`]'s indices. Channels-last: [N,H,W,C] and [N,H',W',C].
#[derive(Debug, Clone, PartialEq)]
pub struct MaxPoolTrain {
    /// Kernel, of at most [`LARGEST_KERNEL`], stride and padding; padding never wins.
    pub window: Window,
    /// Layout of x, y and taps.
    pub layout: Layout,
}

/// Side of the largest window whose taps are counted in a byte.
pub const LARGEST_KERNEL: usize = 16;

/// Every gradient goes to the maximum it came from: dy and `taps` u8 [N,C,H',W'] → dx [N,C,H,W]. Channels-last: [N,H',W',C]
/// and [N,H,W,C].
#[derive(Debug, Clone, PartialEq)]
pub struct MaxPoolTrainGrad {
    /// Kernel, stride and padding of the pooling.
    pub window: Window,
    /// H and W of the pooled input.
    pub input_size: [usize; 2],
    /// Layout of dy, taps and dx.
    pub layout: Layout,
}

const MAPS: Maps = Maps { inputs: &[0], outputs: &[0, 1] };
const GRADIENT_MAPS: Maps = Maps { inputs: &[0, 1], outputs: &[0] };

impl Operator for MaxPoolTrain {
    const NAME: &'static str = "MaxPoolTrain";
    const DOMAIN: Domain = Domain::Swav;

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        if self.window.kernel > LARGEST_KERNEL {
            return Err(format!("expected a kernel of at most {LARGEST_KERNEL}, whose taps a byte counts, got {}", self.window.kernel));
        }
        MAPS.infer(self.layout, inputs, |inputs| {
            let pooled = MaxPool { window: self.window }.infer(inputs)?;
            Ok(vec![pooled[0].clone(), TensorType::new(DType::U8, pooled[1].shape.clone())])
        })
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        let mut attributes = self.window.attributes();
        attributes.push(self.layout.attribute());
        attributes
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        let (dy, taps) = (cx.gradient()?, cx.output(1));
        let input_size = self.layout.size_of(cx.graph.shape(cx.input(0)));
        Ok(vec![Some(cx.graph.apply(MaxPoolTrainGrad { window: self.window, input_size, layout: self.layout }, &[dy, taps])?)])
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        MAPS.eval(self.layout, inputs, |inputs| {
            let input_size = Layout::ChannelsFirst.size_of(inputs[0].shape());
            let mut outputs = MaxPool { window: self.window }.eval(inputs);
            for (output, index) in outputs[1].indexed_iter_mut() {
                let within_map = *index as usize % (input_size[0] * input_size[1]);
                let position = [within_map / input_size[1], within_map % input_size[1]];
                let tap = |axis: usize| position[axis] + self.window.padding - output[2 + axis] * self.window.stride;
                *index = (tap(0) * self.window.kernel + tap(1)) as f64;
            }
            outputs
        })
    }

    fn body(&self, inputs: &[&TensorType], _target: Target) -> Result<Option<Graph>, GraphError> {
        MAPS.body(self.layout, inputs, |inputs| {
            let (mut g, [x]) = body_inputs(["x"], inputs);
            let pooled = g.apply_all(MaxPool { window: self.window }, &[x])?;
            let input_size = Layout::ChannelsFirst.size_of(&inputs[0].shape);
            let taps = taps_of_indices(&mut g, self.window, input_size, pooled[1])?;
            g.output("y", pooled[0]);
            g.output("taps", taps);
            Ok(g)
        })
    }
}

impl Operator for MaxPoolTrainGrad {
    const NAME: &'static str = "MaxPoolTrainGrad";
    const DOMAIN: Domain = Domain::Swav;

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        GRADIENT_MAPS.infer(self.layout, inputs, |inputs| {
            let output = self.input_size.map(|side| self.window.output(side));
            match inputs {
                [dy, taps] if dy.rank() == 4 && dy.shape == taps.shape && taps.dtype == DType::U8 && [Some(dy.shape[2]), Some(dy.shape[3])] == output => {
                    Ok(vec![TensorType::new(dy.dtype, [&dy.shape[..2], &self.input_size].concat())])
                }
                _ => Err(format!("expected a gradient of a pooling of {:?} and as many u8 taps, got {inputs:?}", self.input_size)),
            }
        })
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        let mut attributes = self.window.attributes();
        attributes.push(("input_size", Attribute::Ints(self.input_size.map(|side| side as i64).to_vec())));
        attributes.push(self.layout.attribute());
        attributes
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        Err(cx.unknown(""))
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        GRADIENT_MAPS.eval(self.layout, inputs, |inputs| {
            let ([height, width], channels) = (self.input_size, inputs[1].shape()[1]);
            let mut indices = inputs[1].clone();
            for (output, index) in indices.indexed_iter_mut() {
                let tap = *index as usize;
                let row = self.window.input(output[2], tap / self.window.kernel, height).expect("padding never wins");
                let column = self.window.input(output[3], tap % self.window.kernel, width).expect("padding never wins");
                *index = (((output[0] * channels + output[1]) * height + row) * width + column) as f64;
            }
            self.by_index().eval(&[inputs[0], &indices])
        })
    }

    fn body(&self, inputs: &[&TensorType], target: Target) -> Result<Option<Graph>, GraphError> {
        GRADIENT_MAPS.body(self.layout, inputs, |inputs| {
            let (mut g, [dy, taps]) = body_inputs(["dy", "taps"], inputs);
            let indices = indices_of_taps(&mut g, self.window, self.input_size, taps)?;
            let dx = self.by_index().build(&mut g, target, dy, indices)?;
            g.output("dx", dx);
            Ok(g)
        })
    }
}

impl MaxPoolTrainGrad {
    /// The same of indices in place of taps.
    fn by_index(&self) -> MaxPoolGrad {
        MaxPoolGrad { window: self.window, input_size: self.input_size }
    }
}

/// Flat indices i64 [N,C,H',W'] in maps of `input_size` → taps u8. With r and c the row and column of a maximum and r₀ and c₀
/// those of its window, which padding may put before the map: `(r − r₀)·k + (c − c₀)`, where `index = r·W + c`.
fn taps_of_indices(g: &mut Graph, window: Window, input_size: [usize; 2], indices: ValueId) -> Result<ValueId, GraphError> {
    let (shape, [_, width], kernel) = (g.shape(indices).to_vec(), input_size, window.kernel as i64);
    let starts = map_starts(g, &shape, input_size)?;
    let within_map = g.sub(indices, starts)?;
    let rows = quotient(g, within_map, width as i64)?;
    let by_kernel = product(g, rows, kernel - width as i64)?;
    let taps = g.add(within_map, by_kernel)?;
    let windows = window_starts(g, window, &shape, kernel);
    let taps = g.sub(taps, windows)?;
    g.cast(taps, DType::U8)
}

/// The inverse of [`taps_of_indices`].
fn indices_of_taps(g: &mut Graph, window: Window, input_size: [usize; 2], taps: ValueId) -> Result<ValueId, GraphError> {
    let (shape, [_, width], kernel) = (g.shape(taps).to_vec(), input_size, window.kernel as i64);
    let taps = g.cast(taps, DType::I64)?;
    let rows = quotient(g, taps, kernel)?;
    let by_width = product(g, rows, width as i64 - kernel)?;
    let within_window = g.add(taps, by_width)?;
    let windows = window_starts(g, window, &shape, width as i64);
    let within_map = g.add(within_window, windows)?;
    let starts = map_starts(g, &shape, input_size)?;
    g.add(within_map, starts)
}

/// `r₀·row_length + c₀` of every output's window, i64 [1,1,H',W'].
fn window_starts(g: &mut Graph, window: Window, output: &[usize], row_length: i64) -> ValueId {
    let (height, width) = (output[2], output[3]);
    let first = |position: usize| (position * window.stride) as i64 - window.padding as i64;
    let starts = (0..height).flat_map(|row| (0..width).map(move |column| first(row) * row_length + first(column)));
    g.constant(vec![1, 1, height, width], TensorData::I64(starts.collect()))
}

fn quotient(g: &mut Graph, x: ValueId, divisor: i64) -> Result<ValueId, GraphError> {
    let divisor = g.constant(vec![1; 4], TensorData::I64(vec![divisor]));
    g.apply(IntegerDiv, &[x, divisor])
}

fn product(g: &mut Graph, x: ValueId, factor: i64) -> Result<ValueId, GraphError> {
    let factor = g.constant(vec![1; 4], TensorData::I64(vec![factor]));
    g.mul(x, factor)
}
