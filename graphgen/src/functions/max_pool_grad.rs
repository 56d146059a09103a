//! The gradient of max pooling.

use ndarray::ArrayD;

use super::body_inputs;
use super::formulations::MaxPoolGradForm;
use crate::ir::{DType, Graph, GraphError, TensorData, TensorType, ValueId};
use crate::ops::conv::Window;
use crate::ops::pool::{eval_max_pool_gradient, infer_max_pool_gradient};
use crate::ops::{Attribute, Domain, Equal, MaxPoolGradKernel, Operator, Pad, ScatterElements, Slice, Vjp, Where};
use crate::preset::Target;

/// Every gradient goes to the maximum it came from: dy [N,C,H',W'], flat indices i64 [N,C,H',W'] → dx [N,C,H,W].
#[derive(Debug, Clone, PartialEq)]
pub struct MaxPoolGrad {
    /// Kernel, stride and padding of the pooling.
    pub window: Window,
    /// H and W of the pooled input.
    pub input_size: [usize; 2],
}

impl MaxPoolGrad {
    fn output_shape(&self, dy: &[usize]) -> Vec<usize> {
        vec![dy[0], dy[1], self.input_size[0], self.input_size[1]]
    }
}

impl Operator for MaxPoolGrad {
    const NAME: &'static str = "MaxPoolGrad";
    const DOMAIN: Domain = Domain::Swav;

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        infer_max_pool_gradient(self.input_size, inputs)
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        let mut attributes = self.window.attributes();
        attributes.push(("input_size", Attribute::Ints(self.input_size.map(|side| side as i64).to_vec())));
        attributes
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        Err(cx.unknown(""))
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        eval_max_pool_gradient(self.input_size, inputs)
    }

    fn body(&self, inputs: &[&TensorType], target: Target) -> Result<Option<Graph>, GraphError> {
        let (mut g, [dy, indices]) = body_inputs(["dy", "indices"], inputs);
        let dx = self.build(&mut g, target, dy, indices)?;
        g.output("dx", dx);
        Ok(Some(g))
    }
}

/// Where a tap of the window falls along one axis: onto position `stride · (output + shift) + phase` of the input.
#[derive(Debug, Clone, Copy)]
struct Place {
    tap: usize,
    shift: isize,
    phase: usize,
}

impl MaxPoolGrad {
    /// dx by the target's formulation.
    pub(super) fn build(&self, g: &mut Graph, target: Target, dy: ValueId, indices: ValueId) -> Result<ValueId, GraphError> {
        match target.formulations().max_pool_grad {
            MaxPoolGradForm::Kernel => g.apply(MaxPoolGradKernel { window: self.window, input_size: self.input_size }, &[dy, indices]),
            MaxPoolGradForm::ScatterAdd => self.scatter(g, dy, indices),
            MaxPoolGradForm::Phases => self.phases(g, dy, indices),
        }
    }

    fn scatter(&self, g: &mut Graph, dy: ValueId, indices: ValueId) -> Result<ValueId, GraphError> {
        let (shape, pooled) = (self.output_shape(g.shape(dy)), g.ty(dy).elements());
        let elements = shape.iter().product();
        let zeros = g.constant(vec![elements], TensorData::Filled(0.0, elements));
        let (dy, indices) = (g.reshape(dy, &[pooled])?, g.reshape(indices, &[pooled])?);
        let flat = g.apply(ScatterElements, &[zeros, indices, dy])?;
        g.reshape(flat, &shape)
    }

    /// Input positions of one remainder modulo the stride, a phase, form a map as coarse as the output. To each phase the
    /// taps that fall into it add the gradients whose maximum they were; then the phases are interleaved. An index that
    /// is none of the window's, which f16 kernels give for values that are not finite, counts for no tap.
    fn phases(&self, g: &mut Graph, dy: ValueId, indices: ValueId) -> Result<ValueId, GraphError> {
        let stride = self.window.stride;
        let coarse = self.input_size.map(|side| side.div_ceil(stride));
        let within_map = self.within_map(g, indices)?;
        let [_, _, out_h, out_w] = *g.shape(dy) else { unreachable!("rank 4") };
        let [rows, columns] = [self.places(out_h, self.input_size[0]), self.places(out_w, self.input_size[1])];
        let mut rows_of_phases = Vec::with_capacity(stride);
        for row_phase in 0..stride {
            let mut phases = Vec::with_capacity(stride);
            for column_phase in 0..stride {
                let mut sum: Option<ValueId> = None;
                for row in rows.iter().filter(|place| place.phase == row_phase) {
                    for column in columns.iter().filter(|place| place.phase == column_phase) {
                        let won = self.won_by(g, dy, within_map, [row.tap, column.tap])?;
                        let won = shifted(g, won, [row.shift, column.shift], coarse)?;
                        sum = Some(match sum {
                            Some(sum) => g.add(sum, won)?,
                            None => won,
                        });
                    }
                }
                phases.push(match sum {
                    Some(sum) => sum,
                    // A stride above the kernel leaves positions that no window sees.
                    None => {
                        let nothing = g.scale(dy, 0.0)?;
                        shifted(g, nothing, [0, 0], coarse)?
                    }
                });
            }
            rows_of_phases.push(phases);
        }
        self.interleave(g, rows_of_phases, coarse)
    }

    /// The taps that meet an axis of `length` elements at one of `outputs` positions: on small maps some fall on the padding always.
    fn places(&self, outputs: usize, length: usize) -> Vec<Place> {
        let Window { kernel, stride, padding } = self.window;
        let place = |tap: usize| {
            let offset = tap as isize - padding as isize;
            Place { tap, shift: offset.div_euclid(stride as isize), phase: offset.rem_euclid(stride as isize) as usize }
        };
        (0..kernel).filter(|&tap| (0..outputs).any(|output| self.window.input(output, tap, length).is_some())).map(place).collect()
    }

    /// Indices within their own map, as f32: exact up to 2²⁴ pixels, and half the memory of i64.
    fn within_map(&self, g: &mut Graph, indices: ValueId) -> Result<ValueId, GraphError> {
        let shape = g.shape(indices).to_vec();
        let starts = map_starts(g, &shape, self.input_size)?;
        let within = g.sub(indices, starts)?;
        g.cast(within, DType::F32)
    }

    /// dy where the maximum lay under this tap, elsewhere 0.
    fn won_by(&self, g: &mut Graph, dy: ValueId, within_map: ValueId, tap: [usize; 2]) -> Result<ValueId, GraphError> {
        let [_, _, out_h, out_w] = *g.shape(dy) else { unreachable!("rank 4") };
        let positions = (0..out_h).flat_map(|i| (0..out_w).map(move |j| [i, j])).map(|output| {
            let input = |axis: usize| self.window.input(output[axis], tap[axis], self.input_size[axis]);
            // Taps on the padding never win.
            input(0).zip(input(1)).map_or(f32::NAN, |(row, column)| (row * self.input_size[1] + column) as f32)
        });
        let positions = positions.collect();
        let positions = g.constant(vec![1, 1, out_h, out_w], TensorData::F32(positions));
        let won = g.apply(Equal, &[within_map, positions])?;
        let zero = g.scalar_like(0.0, dy);
        g.apply(Where, &[won, dy, zero])
    }

    /// Maps of phases → the input's map.
    fn interleave(&self, g: &mut Graph, phases: Vec<Vec<ValueId>>, [rows, columns]: [usize; 2]) -> Result<ValueId, GraphError> {
        let stride = self.window.stride;
        let [batch, channels, ..] = *g.shape(phases[0][0]) else { unreachable!("rank 4") };
        let mut stacked = Vec::with_capacity(stride);
        for row in phases {
            let apart = row.into_iter().map(|phase| g.reshape(phase, &[batch * channels * rows, 1, columns, 1])).collect::<Result<Vec<_>, _>>()?;
            stacked.push(g.concat(&apart, 3)?);
        }
        let all = g.concat(&stacked, 1)?;
        let all = g.reshape(all, &[batch, channels, rows * stride, columns * stride])?;
        if g.shape(all)[2..] == self.input_size {
            return Ok(all);
        }
        g.apply(Slice { axes: vec![2, 3], starts: vec![0, 0], ends: self.input_size.to_vec(), steps: vec![1, 1] }, &[all])
    }
}

/// Flat index of every map's first element, i64 [N,C,1,1], for outputs of shape `output` and maps of `input_size`.
///
/// The sum of an image's and of a channel's, which a file holds in fewer bytes than all of them.
pub(super) fn map_starts(g: &mut Graph, output: &[usize], input_size: [usize; 2]) -> Result<ValueId, GraphError> {
    let (batch, channels, pixels) = (output[0], output[1], input_size.iter().product::<usize>());
    let mut starts = |shape: [usize; 4], count: usize, step: usize| {
        let starts = (0..count).map(|index| (index * step) as i64).collect();
        g.constant(shape.to_vec(), TensorData::I64(starts))
    };
    let of_images = starts([batch, 1, 1, 1], batch, channels * pixels);
    let of_channels = starts([1, channels, 1, 1], channels, pixels);
    g.add(of_images, of_channels)
}

/// Maps moved down and right by `shift`, cut and padded with zeros to `size`.
fn shifted(g: &mut Graph, x: ValueId, shift: [isize; 2], size: [usize; 2]) -> Result<ValueId, GraphError> {
    let shape = g.shape(x).to_vec();
    let (mut starts, mut ends) = (vec![0; 2], vec![0; 2]);
    let (mut before, mut after) = (vec![0; 4], vec![0; 4]);
    for axis in 0..2 {
        let length = shape[2 + axis];
        starts[axis] = shift[axis].min(0).unsigned_abs();
        before[2 + axis] = shift[axis].max(0).unsigned_abs();
        ends[axis] = length.min(starts[axis] + size[axis] - before[2 + axis]);
        after[2 + axis] = size[axis] - before[2 + axis] - (ends[axis] - starts[axis]);
    }
    let x = if starts == [0, 0] && ends == shape[2..] { x } else { g.apply(Slice { axes: vec![2, 3], starts, ends, steps: vec![1, 1] }, &[x])? };
    if before.iter().chain(&after).all(|&zeros| zeros == 0) { Ok(x) } else { g.apply(Pad { before, after }, &[x]) }
}
