//! Reductions over axes.

use ndarray::{ArrayD, Axis};

use super::{Attribute, Operator, Vjp, arity};
use crate::ir::{GraphError, TensorData, TensorType, ValueId};

/// Sum over axes.
#[derive(Debug, Clone, PartialEq)]
pub struct ReduceSum {
    /// Axes, ascending.
    pub axes: Vec<usize>,
    /// Keep the reduced axes with length 1.
    pub keepdims: bool,
}

/// Sum of squares over axes.
#[derive(Debug, Clone, PartialEq)]
pub struct ReduceSumSquare {
    /// Axes, ascending.
    pub axes: Vec<usize>,
    /// Keep the reduced axes with length 1.
    pub keepdims: bool,
}

/// Mean over axes.
#[derive(Debug, Clone, PartialEq)]
pub struct ReduceMean {
    /// Axes, ascending.
    pub axes: Vec<usize>,
    /// Keep the reduced axes with length 1.
    pub keepdims: bool,
}

/// Maximum over axes. Gradients are not known: it only shifts exponents and reports statistics.
#[derive(Debug, Clone, PartialEq)]
pub struct ReduceMax {
    /// Axes, ascending.
    pub axes: Vec<usize>,
    /// Keep the reduced axes with length 1.
    pub keepdims: bool,
}

fn infer_reduction(inputs: &[&TensorType], axes: &[usize], keepdims: bool) -> Result<Vec<TensorType>, String> {
    let [x] = arity(inputs)?;
    if axes.is_empty() || !axes.is_sorted_by(|a, b| a < b) || axes.last() >= Some(&x.rank()) {
        return Err(format!("expected ascending axes below {}, got {axes:?}", x.rank()));
    }
    let shape = x.shape.iter().enumerate().filter_map(|(axis, &dim)| match (axes.contains(&axis), keepdims) {
        (false, _) => Some(dim),
        (true, true) => Some(1),
        (true, false) => None,
    });
    Ok(vec![TensorType::new(x.dtype, shape.collect::<Vec<_>>())])
}

fn axes_attribute(axes: &[usize], keepdims: bool) -> Vec<(&'static str, Attribute)> {
    vec![("axes", Attribute::Ints(axes.iter().map(|&axis| axis as i64).collect())), ("keepdims", Attribute::Int(keepdims.into()))]
}

fn fold(x: &ArrayD<f64>, axes: &[usize], keepdims: bool, fold: impl Fn(&ArrayD<f64>, Axis) -> ArrayD<f64>) -> ArrayD<f64> {
    let mut result = x.clone();
    for &axis in axes.iter().rev() {
        result = fold(&result, Axis(axis));
        if keepdims {
            result.insert_axis_inplace(Axis(axis));
        }
    }
    result
}

/// Spreads the gradient of a sum back over the reduced axes.
fn spread(cx: &mut Vjp<'_>, axes: &[usize]) -> Result<ValueId, GraphError> {
    let dy = cx.gradient()?;
    let shape = cx.graph.shape(cx.input(0)).to_vec();
    let kept: Vec<usize> = shape.iter().enumerate().map(|(axis, &dim)| if axes.contains(&axis) { 1 } else { dim }).collect();
    let dy = cx.graph.reshape(dy, &kept)?;
    let spread: Vec<usize> = shape.iter().enumerate().map(|(axis, &dim)| if axes.contains(&axis) { dim } else { 1 }).collect();
    let ones = cx.graph.constant(spread.clone(), TensorData::Filled(1.0, spread.iter().product()));
    cx.graph.mul(dy, ones)
}

impl Operator for ReduceSum {
    const NAME: &'static str = "ReduceSum";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        infer_reduction(inputs, &self.axes, self.keepdims)
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        vec![("keepdims", Attribute::Int(self.keepdims.into()))]
    }

    fn constant_inputs(&self) -> Vec<TensorData> {
        vec![TensorData::I64(self.axes.iter().map(|&axis| axis as i64).collect())]
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        Ok(vec![Some(spread(cx, &self.axes)?)])
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        vec![fold(inputs[0], &self.axes, self.keepdims, |x, axis| x.sum_axis(axis))]
    }
}

impl Operator for ReduceSumSquare {
    const NAME: &'static str = "ReduceSumSquare";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        infer_reduction(inputs, &self.axes, self.keepdims)
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        axes_attribute(&self.axes, self.keepdims)
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        let (x, sum) = (cx.input(0), spread(cx, &self.axes)?);
        let product = cx.graph.mul(x, sum)?;
        Ok(vec![Some(cx.graph.scale(product, 2.0)?)])
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        vec![fold(&inputs[0].mapv(|x| x * x), &self.axes, self.keepdims, |x, axis| x.sum_axis(axis))]
    }
}

impl Operator for ReduceMean {
    const NAME: &'static str = "ReduceMean";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        infer_reduction(inputs, &self.axes, self.keepdims)
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        axes_attribute(&self.axes, self.keepdims)
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        let count: usize = self.axes.iter().map(|&axis| cx.graph.shape(cx.input(0))[axis]).product();
        let sum = spread(cx, &self.axes)?;
        Ok(vec![Some(cx.graph.scale(sum, 1.0 / count as f64)?)])
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        vec![fold(inputs[0], &self.axes, self.keepdims, |x, axis| x.mean_axis(axis).expect("an axis that is not empty"))]
    }
}

impl Operator for ReduceMax {
    const NAME: &'static str = "ReduceMax";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        infer_reduction(inputs, &self.axes, self.keepdims)
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        axes_attribute(&self.axes, self.keepdims)
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        Err(cx.unknown(""))
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        vec![fold(inputs[0], &self.axes, self.keepdims, |x, axis| x.fold_axis(axis, f64::NEG_INFINITY, |&a, &b| a.max(b)))]
    }
}
