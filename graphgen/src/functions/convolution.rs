//! The convolution of a training graph.

use ndarray::ArrayD;

use super::body_inputs;
use super::formulations::ConvolutionForm;
use super::taps::{columns, input_size_of};
use crate::functions::conv_grad::{ConvInputGrad, ConvWeightGrad};
use crate::ir::{Graph, GraphError, TensorType, ValueId};
use crate::ops::conv::Window;
use crate::ops::layout::{Layout, Maps};
use crate::ops::{Attribute, Conv, Domain, Gemm, MatMul, Operator, Vjp};
use crate::preset::Target;

/// `y[n,o,i,j] = Σ x[n,c,s·i+a−p,s·j+b−p] · w[o,c,a,b]`; inputs x [N,C,H,W], w [O,C,k,k]; output y [N,O,H',W'].
/// Channels-last: x [N,H,W,C], y [N,H',W',O].
#[derive(Debug, Clone, PartialEq)]
pub struct Convolution {
    /// Kernel, stride and padding.
    pub window: Window,
    /// Layout of x and y.
    pub layout: Layout,
}

const MAPS: Maps = Maps { inputs: &[0], outputs: &[0] };

/// Largest output map, in pixels, for which one product over the whole batch beats a convolution on the CPU provider:
/// it multiplies image by image, and a product with a handful of columns leaves most of the processor idle.
const GEMM_PIXELS: usize = 4;

/// Whether a convolution with this output is written as a matrix product.
pub(super) fn prefers_gemm(target: Target, window: Window, [height, width]: [usize; 2]) -> bool {
    target.formulations().convolution.is_cpu() && window.kernel > 1 && height * width <= GEMM_PIXELS
}

/// A convolution as one matrix product: taps [N·P, k·k·C] · weights [k·k·C, O].
pub(super) fn as_gemm(g: &mut Graph, window: Window, x: ValueId, w: ValueId) -> Result<ValueId, GraphError> {
    let [out, channels, kernel, _] = *g.shape(w) else { unreachable!("shapes were inferred") };
    let [batch, _, height, width] = *g.shape(x) else { unreachable!("shapes were inferred") };
    let output = [height, width].map(|side| window.output(side).expect("shapes were inferred"));
    let columns = columns(g, window, x, output)?;
    let w = g.reshape(w, &[out, channels, kernel * kernel])?;
    let w = g.transpose(w, &[0, 2, 1])?;
    let w = g.reshape(w, &[out, kernel * kernel * channels])?;
    let y = g.apply(Gemm { trans_a: false, trans_b: true }, &[columns, w])?;
    let y = g.reshape(y, &[batch, output[0], output[1], out])?;
    g.transpose(y, &[0, 3, 1, 2])
}

/// Pixels of a map must be a multiple of this for a product with it to run on tensor cores.
const TENSOR_CORE_ALIGNMENT: usize = 8;

/// Whether a convolution of maps of this size is written as a product of its 1x1 weight with every image's map.
pub(super) fn is_pointwise_product(target: Target, window: Window, [height, width]: [usize; 2]) -> bool {
    let pointwise = window == Window { kernel: 1, stride: 1, padding: 0 };
    target.formulations().convolution == ConvolutionForm::PointwiseProducts && pointwise && (height * width).is_multiple_of(TENSOR_CORE_ALIGNMENT)
}

/// The matrix w [O,C] times every image's map: x [N,C,H,W] → [N,O,H,W]. No element moves.
pub(super) fn pointwise_product(g: &mut Graph, w: ValueId, x: ValueId) -> Result<ValueId, GraphError> {
    let [batch, channels, height, width] = *g.shape(x) else { unreachable!("shapes were inferred") };
    let out = g.shape(w)[0];
    let x = g.reshape(x, &[batch, channels, height * width])?;
    let y = g.apply(MatMul, &[w, x])?;
    g.reshape(y, &[batch, out, height, width])
}

impl Operator for Convolution {
    const NAME: &'static str = "Convolution";
    const DOMAIN: Domain = Domain::Swav;

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [x, w] = crate::ops::arity(inputs)?;
        MAPS.infer(self.layout, &[x, w], |inputs| Conv { window: self.window }.infer(inputs))
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        let mut attributes = self.window.attributes();
        attributes.push(self.layout.attribute());
        attributes
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        let (dy, x, w) = (cx.gradient()?, cx.input(0), cx.input(1));
        let Convolution { window, layout } = *self;
        // The weight's gradient comes first: it is the last reader of x.
        let dw = if cx.needs(1) { Some(cx.graph.apply(ConvWeightGrad { window, layout }, &[dy, x])?) } else { None };
        let dx = if cx.needs(0) {
            let input_size = layout.size_of(cx.graph.shape(x));
            let mut inputs = vec![dy, w];
            // The graphs of channels-first targets keep their additions: no kernel spares them.
            inputs.extend(if layout == Layout::ChannelsLast { cx.take_sum(0) } else { None });
            Some(cx.graph.apply(ConvInputGrad { window, input_size, layout }, &inputs)?)
        } else {
            None
        };
        Ok(vec![dx, dw])
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        MAPS.eval(self.layout, inputs, |inputs| Conv { window: self.window }.eval(inputs))
    }

    fn body(&self, inputs: &[&TensorType], target: Target) -> Result<Option<Graph>, GraphError> {
        MAPS.body(self.layout, inputs, |inputs| self.channels_first_body(inputs, target))
    }
}

impl Convolution {
    fn channels_first_body(&self, inputs: &[&TensorType], target: Target) -> Result<Graph, GraphError> {
        let (mut g, [x, w]) = body_inputs(["x", "w"], inputs);
        let input = input_size_of(&inputs[0].shape);
        let output = input.map(|side| self.window.output(side).expect("shapes were inferred"));
        let y = if prefers_gemm(target, self.window, output) {
            as_gemm(&mut g, self.window, x, w)?
        } else if is_pointwise_product(target, self.window, input) {
            let w = g.reshape(w, &inputs[1].shape[..2])?;
            pointwise_product(&mut g, w, x)?
        } else {
            g.apply(Conv { window: self.window }, &[x, w])?
        };
        g.output("y", y);
        Ok(g)
    }
}
