//! Arithmetic, element by element, with broadcasting.

use ndarray::{ArrayD, Zip};

use super::{Operator, Vjp, arity, broadcast};
use crate::ir::{DType, GraphError, TensorType, ValueId};

/// `a + b`
#[derive(Debug, Clone, PartialEq)]
pub struct Add;
/// `a - b`
#[derive(Debug, Clone, PartialEq)]
pub struct Sub;
/// `a * b`
#[derive(Debug, Clone, PartialEq)]
pub struct Mul;
/// `a / b`
#[derive(Debug, Clone, PartialEq)]
pub struct Div;
/// `a / b` of whole numbers i64, rounded towards zero: ONNX's Div of that type.
#[derive(Debug, Clone, PartialEq)]
pub struct IntegerDiv;
/// The larger of `a` and `b`. Gradients are not known: it only guards divisions.
#[derive(Debug, Clone, PartialEq)]
pub struct Max;
/// `-x`
#[derive(Debug, Clone, PartialEq)]
pub struct Neg;
/// `eˣ`
#[derive(Debug, Clone, PartialEq)]
pub struct Exp;
/// Natural logarithm.
#[derive(Debug, Clone, PartialEq)]
pub struct Log;
/// Square root.
#[derive(Debug, Clone, PartialEq)]
pub struct Sqrt;
/// Hyperbolic tangent.
#[derive(Debug, Clone, PartialEq)]
pub struct Tanh;
/// `1 / x`
#[derive(Debug, Clone, PartialEq)]
pub struct Reciprocal;

/// Two inputs of one element type, broadcast.
pub(crate) fn infer_binary(inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
    let [a, b] = arity(inputs)?;
    if a.dtype != b.dtype {
        return Err(format!("expected inputs of one type, got {a} and {b}"));
    }
    Ok(vec![TensorType::new(a.dtype, broadcast(&a.shape, &b.shape)?)])
}

/// One input, same type out.
pub(crate) fn infer_unary(inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
    let [x] = arity(inputs)?;
    Ok(vec![x.clone()])
}

/// Applies `f` to two broadcast arrays.
pub(crate) fn eval_binary(inputs: &[&ArrayD<f64>], f: impl Fn(f64, f64) -> f64) -> Vec<ArrayD<f64>> {
    let shape = broadcast(inputs[0].shape(), inputs[1].shape()).expect("shapes were inferred");
    let a = inputs[0].broadcast(shape.clone()).expect("broadcast");
    let b = inputs[1].broadcast(shape).expect("broadcast");
    vec![Zip::from(a).and(b).map_collect(|&a, &b| f(a, b))]
}

impl Operator for Add {
    const NAME: &'static str = "Add";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        infer_binary(inputs)
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        let dy = cx.gradient()?;
        Ok(vec![Some(dy), Some(dy)])
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        eval_binary(inputs, |a, b| a + b)
    }
}

impl Operator for Sub {
    const NAME: &'static str = "Sub";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        infer_binary(inputs)
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        let dy = cx.gradient()?;
        let db = if cx.needs(1) { Some(cx.graph.neg(dy)?) } else { None };
        Ok(vec![Some(dy), db])
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        eval_binary(inputs, |a, b| a - b)
    }
}

impl Operator for Mul {
    const NAME: &'static str = "Mul";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        infer_binary(inputs)
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        let (dy, a, b) = (cx.gradient()?, cx.input(0), cx.input(1));
        let da = if cx.needs(0) { Some(cx.graph.mul(dy, b)?) } else { None };
        let db = if cx.needs(1) { Some(cx.graph.mul(dy, a)?) } else { None };
        Ok(vec![da, db])
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        eval_binary(inputs, |a, b| a * b)
    }
}

impl Operator for Div {
    const NAME: &'static str = "Div";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        infer_binary(inputs)
    }

    /// `da = dy/b`, `db = -y·dy/b`
    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        let (dy, b, y) = (cx.gradient()?, cx.input(1), cx.output(0));
        let da = cx.graph.div(dy, b)?;
        let db = if cx.needs(1) {
            let product = cx.graph.mul(da, y)?;
            Some(cx.graph.neg(product)?)
        } else {
            None
        };
        Ok(vec![Some(da), db])
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        eval_binary(inputs, |a, b| a / b)
    }
}

impl Operator for IntegerDiv {
    const NAME: &'static str = "Div";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        match infer_binary(inputs)? {
            outputs if outputs[0].dtype == DType::I64 => Ok(outputs),
            outputs => Err(format!("expected whole numbers i64, got {}", outputs[0])),
        }
    }

    fn vjp(&self, _cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        Ok(vec![None, None])
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        eval_binary(inputs, |a, b| (a / b).trunc())
    }
}

impl Operator for Max {
    const NAME: &'static str = "Max";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        infer_binary(inputs)
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        Err(cx.unknown(""))
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        eval_binary(inputs, f64::max)
    }
}

impl Operator for Neg {
    const NAME: &'static str = "Neg";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        infer_unary(inputs)
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        let dy = cx.gradient()?;
        Ok(vec![Some(cx.graph.neg(dy)?)])
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        vec![inputs[0].mapv(|x| -x)]
    }
}

impl Operator for Exp {
    const NAME: &'static str = "Exp";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        infer_unary(inputs)
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        let (dy, y) = (cx.gradient()?, cx.output(0));
        Ok(vec![Some(cx.graph.mul(dy, y)?)])
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        vec![inputs[0].mapv(f64::exp)]
    }
}

impl Operator for Log {
    const NAME: &'static str = "Log";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        infer_unary(inputs)
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        let (dy, x) = (cx.gradient()?, cx.input(0));
        Ok(vec![Some(cx.graph.div(dy, x)?)])
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        vec![inputs[0].mapv(f64::ln)]
    }
}

impl Operator for Sqrt {
    const NAME: &'static str = "Sqrt";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        infer_unary(inputs)
    }

    /// `dx = dy / 2y`
    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        let (dy, y) = (cx.gradient()?, cx.output(0));
        let quotient = cx.graph.div(dy, y)?;
        Ok(vec![Some(cx.graph.scale(quotient, 0.5)?)])
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        vec![inputs[0].mapv(f64::sqrt)]
    }
}

impl Operator for Reciprocal {
    const NAME: &'static str = "Reciprocal";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        infer_unary(inputs)
    }

    /// `dx = -dy·y²`
    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        let (dy, y) = (cx.gradient()?, cx.output(0));
        let square = cx.graph.mul(y, y)?;
        let product = cx.graph.mul(dy, square)?;
        Ok(vec![Some(cx.graph.neg(product)?)])
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        vec![inputs[0].mapv(f64::recip)]
    }
}

impl Operator for Tanh {
    const NAME: &'static str = "Tanh";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        infer_unary(inputs)
    }

    /// `dx = dy · (1 − y²)`
    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        let (dy, y) = (cx.gradient()?, cx.output(0));
        let square = cx.graph.mul(y, y)?;
        let product = cx.graph.mul(dy, square)?;
        Ok(vec![Some(cx.graph.sub(dy, product)?)])
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        vec![inputs[0].mapv(f64::tanh)]
    }
}
