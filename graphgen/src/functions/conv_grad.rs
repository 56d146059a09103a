//! The two gradients of a convolution.

use ndarray::ArrayD;

use super::convolution::{as_gemm, is_pointwise_product, pointwise_product, prefers_gemm};
use super::formulations::ConvolutionForm;
use super::taps::input_size_of;
use super::{body_inputs, weight_gradient};
use crate::ir::{Graph, GraphError, TensorData, TensorType, ValueId};
use crate::ops::conv::{Window, eval_input_gradient, eval_weight_gradient, infer_input_gradient};
use crate::ops::layout::{Layout, Maps};
use crate::ops::{Attribute, Conv, ConvTranspose, Domain, Gather, Operator, Pad, Slice, Vjp};
use crate::preset::Target;

/// Gradient of a convolution's input: dy [N,O,H',W'], w [O,C,k,k] → dx [N,C,H,W]. A third input `addend` of dx's type, which
/// may be absent, is added to dx: the gradient from the input's other readers, without a pass over memory of its own.
/// Channels-last: dy [N,H',W',O], dx and addend [N,H,W,C].
#[derive(Debug, Clone, PartialEq)]
pub struct ConvInputGrad {
    /// Kernel, stride and padding of the convolution.
    pub window: Window,
    /// H and W of its input.
    pub input_size: [usize; 2],
    /// Layout of dy, dx and addend.
    pub layout: Layout,
}

const INPUT_GRADIENT_MAPS: Maps = Maps { inputs: &[0, 2], outputs: &[0] };

/// Gradient of a convolution's weight: dy [N,O,H',W'], x [N,C,H,W] → dw [O,C,k,k]. Channels-last: dy [N,H',W',O], x [N,H,W,C].
#[derive(Debug, Clone, PartialEq)]
pub struct ConvWeightGrad {
    /// Kernel, stride and padding of the convolution.
    pub window: Window,
    /// Layout of dy and x.
    pub layout: Layout,
}

const WEIGHT_GRADIENT_MAPS: Maps = Maps { inputs: &[0, 1], outputs: &[] };

impl Operator for ConvInputGrad {
    const NAME: &'static str = "ConvInputGrad";
    const DOMAIN: Domain = Domain::Swav;

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        INPUT_GRADIENT_MAPS.infer(self.layout, inputs, |inputs| {
            let (gradient, addend) = inputs.split_at(inputs.len().min(2));
            let dx = infer_input_gradient(self.window, self.input_size, gradient)?;
            match addend {
                [] => Ok(dx),
                [addend] if **addend == dx[0] => Ok(dx),
                _ => Err(format!("expected dy, w and perhaps one addend {}, got {inputs:?}", dx[0])),
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
        INPUT_GRADIENT_MAPS.eval(self.layout, inputs, |inputs| {
            let mut dx = eval_input_gradient(self.window, self.input_size, &inputs[..2]);
            if let Some(&addend) = inputs.get(2) {
                dx[0] += addend;
            }
            dx
        })
    }

    fn body(&self, inputs: &[&TensorType], target: Target) -> Result<Option<Graph>, GraphError> {
        INPUT_GRADIENT_MAPS.body(self.layout, inputs, |inputs| self.channels_first_body(inputs, target))
    }
}

impl ConvInputGrad {
    fn channels_first_body(&self, inputs: &[&TensorType], target: Target) -> Result<Graph, GraphError> {
        let (mut g, [dy, w]) = body_inputs(["dy", "w"], inputs);
        let Window { kernel, stride, padding } = self.window;
        let [dy_h, dy_w] = input_size_of(&inputs[0].shape);
        let form = target.formulations().convolution;
        let dx = if form == ConvolutionForm::CpuStrided && kernel == 1 && stride > 1 && padding == 0 {
            // ConvTranspose takes 1.2 to 1.5 times as long.
            let swapped = flip(&mut g, w, inputs[1])?;
            let dx = g.apply(Conv { window: Window { kernel, stride: 1, padding } }, &[dy, swapped])?;
            spread_by_product(&mut g, dx, stride, self.input_size)?
        } else if form.is_cpu() && padding < kernel && (stride == 1 || prefers_gemm(target, self.window, [dy_h, dy_w])) {
            let flipped = flip(&mut g, w, inputs[1])?;
            let (spread, window) = (spread(&mut g, dy, self.window, self.input_size)?, Window { kernel, stride: 1, padding: kernel - 1 - padding });
            if prefers_gemm(target, self.window, [dy_h, dy_w]) {
                as_gemm(&mut g, window, spread, flipped)?
            } else {
                g.apply(Conv { window }, &[spread, flipped])?
            }
        } else if is_pointwise_product(target, self.window, self.input_size) {
            let w = g.reshape(w, &inputs[1].shape[..2])?;
            let w = g.transpose(w, &[1, 0])?;
            pointwise_product(&mut g, w, dy)?
        } else {
            g.apply(ConvTranspose { window: self.window, input_size: self.input_size }, &[dy, w])?
        };
        let dx = match inputs.get(2) {
            Some(&ty) => {
                let addend = g.input("addend", ty.clone());
                g.add(dx, addend)?
            }
            None => dx,
        };
        g.output("dx", dx);
        Ok(g)
    }
}

/// Puts `stride − 1` zeros behind every element of dy and cuts to the size at which a convolution of stride 1 gives
/// `input_size`: what makes the transpose of a strided convolution a convolution.
fn spread(g: &mut Graph, dy: ValueId, window: Window, input_size: [usize; 2]) -> Result<ValueId, GraphError> {
    let Window { kernel, stride, padding } = window;
    if stride == 1 {
        return Ok(dy);
    }
    let [batch, out, height, width] = *g.shape(dy) else { unreachable!("shapes were inferred") };
    let apart = g.reshape(dy, &[batch, out, height, 1, width, 1])?;
    let apart = g.apply(Pad { before: vec![0; 6], after: vec![0, 0, 0, stride - 1, 0, stride - 1] }, &[apart])?;
    let spread = g.reshape(apart, &[batch, out, height * stride, width * stride])?;
    let size = input_size.map(|side| side + 2 * padding + 1 - kernel);
    let after: Vec<usize> = size.iter().zip([height, width]).map(|(&side, spread)| side.saturating_sub(spread * stride)).collect();
    let spread = g.apply(Pad { before: vec![0; 4], after: [vec![0, 0], after].concat() }, &[spread])?;
    g.apply(Slice { axes: vec![2, 3], starts: vec![0, 0], ends: size.to_vec(), steps: vec![1, 1] }, &[spread])
}

/// Puts the elements of x [N,C,H',W'] `stride` apart on maps of zeros of `size`, by a constant factor: the one-hot rows that put
/// a row's elements apart are followed by zeros for the rows in between. Pad would copy element by element.
fn spread_by_product(g: &mut Graph, x: ValueId, stride: usize, size: [usize; 2]) -> Result<ValueId, GraphError> {
    let [batch, channels, height, width] = *g.shape(x) else { unreachable!("shapes were inferred") };
    let columns = stride * size[1];
    let one_hot = (0..width * columns).map(|index| if index % columns == stride * (index / columns) { 1.0 } else { 0.0 }).collect();
    let apart = g.constant([width, columns], TensorData::F32(one_hot));
    let x = g.reshape(x, &[batch * channels * height, width])?;
    let x = g.matmul(x, apart)?;
    let x = g.reshape(x, &[batch, channels, height * stride, size[1]])?;
    if height * stride == size[0] {
        return Ok(x);
    }
    g.apply(Slice { axes: vec![2], starts: vec![0], ends: vec![size[0]], steps: vec![1] }, &[x])
}

/// [O,C,k,k] → [C,O,k,k] with both kernel axes reversed: the weight of the transposed convolution of stride 1.
fn flip(g: &mut Graph, w: ValueId, ty: &TensorType) -> Result<ValueId, GraphError> {
    let [out, channels, kernel, _] = ty.shape[..] else { unreachable!("shapes were inferred") };
    let swapped = g.transpose(w, &[1, 0, 2, 3])?;
    if kernel == 1 {
        return Ok(swapped);
    }
    let taps = kernel * kernel;
    let flat = g.reshape(swapped, &[channels, out, taps])?;
    let reversed = g.apply(Gather { axis: 2, indices: (0..taps).rev().collect() }, &[flat])?;
    g.reshape(reversed, &[channels, out, kernel, kernel])
}

impl Operator for ConvWeightGrad {
    const NAME: &'static str = "ConvWeightGrad";
    const DOMAIN: Domain = Domain::Swav;

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        WEIGHT_GRADIENT_MAPS.infer(self.layout, inputs, |inputs| {
            let [dy, x] = crate::ops::arity(inputs)?;
            let ([batch, out, out_h, out_w], [x_batch, channels, height, width]) = (dy.shape.as_slice(), x.shape.as_slice()) else {
                return Err(format!("expected gradient and input of 4 dimensions, got {dy} and {x}"));
            };
            if batch != x_batch || [self.window.output(*height), self.window.output(*width)] != [Some(*out_h), Some(*out_w)] {
                return Err(format!("gradient {dy} does not belong to a convolution of {x}"));
            }
            Ok(vec![TensorType::new(dy.dtype, vec![*out, *channels, self.window.kernel, self.window.kernel])])
        })
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        let mut attributes = self.window.attributes();
        attributes.push(self.layout.attribute());
        attributes
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        Err(cx.unknown(""))
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        WEIGHT_GRADIENT_MAPS.eval(self.layout, inputs, |inputs| vec![eval_weight_gradient(self.window, inputs[0], inputs[1])])
    }

    fn body(&self, inputs: &[&TensorType], target: Target) -> Result<Option<Graph>, GraphError> {
        WEIGHT_GRADIENT_MAPS.body(self.layout, inputs, |inputs| {
            let (mut g, [dy, x]) = body_inputs(["dy", "x"], inputs);
            let dw = weight_gradient::build(&mut g, self.window, target, dy, x)?;
            g.output("dw", dw);
            Ok(g)
        })
    }
}
