//! Comparisons and selection. None of them passes a gradient through its condition.

use ndarray::{ArrayD, Zip};

use super::elementwise::{eval_binary, infer_binary};
use super::{Operator, Vjp, arity, broadcast};
use crate::ir::{DType, GraphError, TensorType, ValueId};

/// `a > b`
#[derive(Debug, Clone, PartialEq)]
pub struct Greater;
/// `a == b`
#[derive(Debug, Clone, PartialEq)]
pub struct Equal;
/// `condition ? a : b`
#[derive(Debug, Clone, PartialEq)]
pub struct Where;

fn infer_comparison(inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
    let mut types = infer_binary(inputs)?;
    types[0].dtype = DType::Bool;
    Ok(types)
}

impl Operator for Greater {
    const NAME: &'static str = "Greater";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        infer_comparison(inputs)
    }

    fn vjp(&self, _cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        Ok(vec![None, None])
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        eval_binary(inputs, |a, b| f64::from(u8::from(a > b)))
    }
}

impl Operator for Equal {
    const NAME: &'static str = "Equal";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        infer_comparison(inputs)
    }

    fn vjp(&self, _cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        Ok(vec![None, None])
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        eval_binary(inputs, |a, b| f64::from(u8::from(a == b)))
    }
}

impl Operator for Where {
    const NAME: &'static str = "Where";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [condition, a, b] = arity(inputs)?;
        if condition.dtype != DType::Bool || a.dtype != b.dtype {
            return Err(format!("expected a bool condition and two values of one type, got {condition}, {a} and {b}"));
        }
        let values = broadcast(&a.shape, &b.shape)?;
        Ok(vec![TensorType::new(a.dtype, broadcast(&condition.shape, &values)?)])
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        let (dy, condition) = (cx.gradient()?, cx.input(0));
        let zero = cx.graph.scalar(0.0, 1);
        let da = cx.graph.apply(Where, &[condition, dy, zero])?;
        let db = cx.graph.apply(Where, &[condition, zero, dy])?;
        Ok(vec![None, Some(da), Some(db)])
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        let shape = broadcast(inputs[1].shape(), inputs[2].shape()).and_then(|values| broadcast(inputs[0].shape(), &values)).expect("shapes were inferred");
        let condition = inputs[0].broadcast(shape.clone()).expect("broadcast");
        let a = inputs[1].broadcast(shape.clone()).expect("broadcast");
        let b = inputs[2].broadcast(shape).expect("broadcast");
        vec![Zip::from(condition).and(a).and(b).map_collect(|&condition, &a, &b| if condition != 0.0 { a } else { b })]
    }
}
