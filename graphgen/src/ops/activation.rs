//! Activations.

use ndarray::ArrayD;

use super::elementwise::infer_unary;
use super::{Attribute, Operator, Vjp};
use crate::functions::relu_grad::ReluGrad;
use crate::ir::{GraphError, TensorType, ValueId};

/// `max(x, 0)`
#[derive(Debug, Clone, PartialEq)]
pub struct Relu;

impl Operator for Relu {
    const NAME: &'static str = "Relu";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        infer_unary(inputs)
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        let (dy, y) = (cx.gradient()?, cx.output(0));
        Ok(vec![Some(cx.graph.apply(ReluGrad, &[dy, y])?)])
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        vec![inputs[0].mapv(|x| x.max(0.0))]
    }
}

/// `max(0, min(1, alpha·x + beta))`. With a huge `alpha` it is a fast 0/1 mask on the CPU provider.
#[derive(Debug, Clone, PartialEq)]
pub struct HardSigmoid {
    /// Slope.
    pub alpha: f32,
    /// Offset.
    pub beta: f32,
}

impl Operator for HardSigmoid {
    const NAME: &'static str = "HardSigmoid";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        infer_unary(inputs)
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        vec![("alpha", Attribute::Float(self.alpha)), ("beta", Attribute::Float(self.beta))]
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        Err(cx.unknown(" (it serves as a mask only)"))
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        let (alpha, beta) = (f64::from(self.alpha), f64::from(self.beta));
        vec![inputs[0].mapv(|x| (alpha * x + beta).clamp(0.0, 1.0))]
    }
}
