//! Gradients that only ONNX Runtime's training build has kernels for. They serve in function bodies of the target
//! `ort-training`.

use ndarray::ArrayD;

use super::conv::{Window, eval_input_gradient, eval_weight_gradient};
use super::normalization::eval_batch_norm_gradient;
use super::pool::{eval_max_pool_gradient, infer_max_pool_gradient};
use super::{Attribute, Conv, Domain, Operator, Vjp, arity};
use crate::ir::{GraphError, TensorType, ValueId};

/// Gradients of a convolution: dy [N,O,H',W'], x [N,C,H,W], w [O,C,k,k] → dx, dw. The kernel computes those that are used; of
/// x and w it reads the elements for the other's gradient alone.
#[derive(Debug, Clone, PartialEq)]
pub struct ConvGrad {
    /// Kernel, stride and padding of the convolution.
    pub window: Window,
}

/// Gradients of a batch normalisation over the batch's own statistics: dy and x [N,C,H,W], scale, mean, inverse standard
/// deviation [C] → dx, dscale, dbias.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchNormalizationGrad {
    /// What was added to the variance; the kernel takes it from the inverse standard deviation.
    pub epsilon: f64,
}

/// The function [`MaxPoolGrad`](crate::functions::max_pool_grad::MaxPoolGrad) as a kernel, which stands in the domain
/// `ai.onnx` without being part of it. It takes the shape of its output from the file: without one the process crashes.
#[derive(Debug, Clone, PartialEq)]
pub struct MaxPoolGradKernel {
    /// Kernel, stride and padding of the pooling.
    pub window: Window,
    /// H and W of the pooled input.
    pub input_size: [usize; 2],
}

impl Operator for ConvGrad {
    const NAME: &'static str = "ConvGrad";
    const DOMAIN: Domain = Domain::Microsoft;

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [dy, x, w] = arity(inputs)?;
        match (Conv { window: self.window }).infer(&[x, w])?.as_slice() {
            [y] if y == dy => Ok(vec![x.clone(), w.clone()]),
            y => Err(format!("expected a gradient of the output's type {y:?}, got {dy}")),
        }
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        Conv { window: self.window }.attributes()
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        Err(cx.unknown(" (it serves in function bodies only)"))
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        let [dy, x, w] = inputs else { unreachable!("the arity was checked") };
        let mut gradients = eval_input_gradient(self.window, [x.shape()[2], x.shape()[3]], &[dy, w]);
        gradients.push(eval_weight_gradient(self.window, dy, x));
        gradients
    }
}

impl Operator for BatchNormalizationGrad {
    const NAME: &'static str = "BatchNormalizationGrad";
    const DOMAIN: Domain = Domain::Microsoft;

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [dy, x, scale, mean, inverse] = arity(inputs)?;
        if dy != x || x.rank() != 4 || [scale, mean, inverse].iter().any(|ty| ty.shape != [x.shape[1]]) {
            return Err(format!("expected dy and x [N, C, H, W] of one shape and three vectors of C elements, got {inputs:?}"));
        }
        Ok(vec![x.clone(), scale.clone(), scale.clone()])
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        vec![("epsilon", Attribute::Float(self.epsilon as f32))]
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        Err(cx.unknown(" (it serves in function bodies only)"))
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        let [dy, x, scale, mean, inverse] = inputs else { unreachable!("the arity was checked") };
        eval_batch_norm_gradient(dy, x, scale, mean, inverse).to_vec()
    }
}

impl Operator for MaxPoolGradKernel {
    const NAME: &'static str = "MaxPoolGrad";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        infer_max_pool_gradient(self.input_size, inputs)
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        self.window.attributes()
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        Err(cx.unknown(" (it serves in function bodies only)"))
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        eval_max_pool_gradient(self.input_size, inputs)
    }
}
