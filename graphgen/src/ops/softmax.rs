//! Softmax over the last axis.

use ndarray::{ArrayD, Axis};

use super::elementwise::infer_unary;
use super::{Attribute, Operator, Vjp};
use crate::ir::{GraphError, TensorType, ValueId};

/// `eˣ / Σ eˣ` over the last axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Softmax;

/// `x − ln Σ eˣ` over the last axis.
#[derive(Debug, Clone, PartialEq)]
pub struct LogSoftmax;

fn log_softmax(x: &ArrayD<f64>) -> ArrayD<f64> {
    let axis = Axis(x.ndim() - 1);
    let max = x.fold_axis(axis, f64::NEG_INFINITY, |&a, &b| a.max(b)).insert_axis(axis);
    let shifted = x - &max;
    let log_sum = shifted.mapv(f64::exp).sum_axis(axis).mapv(f64::ln).insert_axis(axis);
    shifted - log_sum
}

impl Operator for Softmax {
    const NAME: &'static str = "Softmax";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        infer_unary(inputs)
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        vec![("axis", Attribute::Int(-1))]
    }

    /// `dx = y · (dy − Σ dy·y)`
    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        let (dy, y) = (cx.gradient()?, cx.output(0));
        let last = cx.graph.shape(y).len() - 1;
        let product = cx.graph.mul(dy, y)?;
        let sum = cx.graph.reduce_sum(product, &[last], true)?;
        let centred = cx.graph.sub(dy, sum)?;
        Ok(vec![Some(cx.graph.mul(y, centred)?)])
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        vec![log_softmax(inputs[0]).mapv(f64::exp)]
    }
}

impl Operator for LogSoftmax {
    const NAME: &'static str = "LogSoftmax";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        infer_unary(inputs)
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        vec![("axis", Attribute::Int(-1))]
    }

    /// `dx = dy − eʸ · Σ dy`
    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        let (dy, y) = (cx.gradient()?, cx.output(0));
        let last = cx.graph.shape(y).len() - 1;
        let sum = cx.graph.reduce_sum(dy, &[last], true)?;
        let probabilities = cx.graph.exp(y)?;
        let product = cx.graph.mul(probabilities, sum)?;
        Ok(vec![Some(cx.graph.sub(dy, product)?)])
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        vec![log_softmax(inputs[0])]
    }
}
