//! Pooling, and the scatter that undoes it.

use ndarray::{Array4, ArrayD, IxDyn};

use super::conv::{Window, rank4};
use super::{Attribute, Operator, Vjp, arity};
use crate::functions::max_pool_grad::MaxPoolGrad;
use crate::ir::{DType, GraphError, TensorData, TensorType, ValueId};

/// Maximum over windows; outputs y [N,C,H',W'] and the flat index of each maximum in x, i64 [N,C,H',W'].
/// Of equal maxima the first counts, as in PyTorch.
#[derive(Debug, Clone, PartialEq)]
pub struct MaxPool {
    /// Kernel, stride and padding; padding never wins.
    pub window: Window,
}

impl Operator for MaxPool {
    const NAME: &'static str = "MaxPool";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [x] = arity(inputs)?;
        let [batch, channels, height, width] = x.shape[..] else { return Err(format!("expected 4 dimensions, got {x}")) };
        let too_small = || format!("input {height}x{width} is smaller than the {0}x{0} window", self.window.kernel);
        let shape = vec![batch, channels, self.window.output(height).ok_or_else(too_small)?, self.window.output(width).ok_or_else(too_small)?];
        Ok(vec![TensorType::new(x.dtype, shape.clone()), TensorType::new(DType::I64, shape)])
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        let mut attributes = self.window.attributes();
        attributes.extend([("ceil_mode", Attribute::Int(0)), ("dilations", Attribute::Ints(vec![1, 1])), ("storage_order", Attribute::Int(0))]);
        attributes
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        let (dy, indices) = (cx.gradient()?, cx.output(1));
        let [_, _, height, width] = *cx.graph.shape(cx.input(0)) else { unreachable!("shapes were inferred") };
        Ok(vec![Some(cx.graph.apply(MaxPoolGrad { window: self.window, input_size: [height, width] }, &[dy, indices])?)])
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        let x = rank4(inputs[0]);
        let (n, c, h, w) = x.dim();
        let output = |length| self.window.output(length).expect("shapes were inferred");
        let mut y = Array4::from_elem((n, c, output(h), output(w)), f64::NEG_INFINITY);
        let mut indices = Array4::zeros(y.dim());
        for ((n, c, i, j), y) in y.indexed_iter_mut() {
            for (a, b) in (0..self.window.kernel).flat_map(|a| (0..self.window.kernel).map(move |b| (a, b))) {
                if let (Some(row), Some(column)) = (self.window.input(i, a, h), self.window.input(j, b, w))
                    && x[[n, c, row, column]] > *y
                {
                    *y = x[[n, c, row, column]];
                    indices[[n, c, i, j]] = (((n * x.dim().1 + c) * h + row) * w + column) as f64;
                }
            }
        }
        vec![y.into_dyn(), indices.into_dyn()]
    }
}

/// Gradient and flat indices of a max pooling [N,C,H',W'] → the gradient of its input, of `input_size`.
pub(crate) fn infer_max_pool_gradient(input_size: [usize; 2], inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
    match inputs {
        [dy, indices] if dy.rank() == 4 && dy.shape == indices.shape && indices.dtype == DType::I64 => {
            Ok(vec![TensorType::new(dy.dtype, vec![dy.shape[0], dy.shape[1], input_size[0], input_size[1]])])
        }
        _ => Err(format!("expected a gradient of 4 dimensions and as many i64 indices, got {inputs:?}")),
    }
}

/// The gradient of a max pooling's input in double precision.
pub(crate) fn eval_max_pool_gradient(input_size: [usize; 2], inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
    let shape = [inputs[0].shape()[0], inputs[0].shape()[1], input_size[0], input_size[1]];
    let mut flat = vec![0.0; shape.iter().product()];
    for (&dy, &index) in inputs[0].iter().zip(inputs[1]) {
        flat[index as usize] += dy;
    }
    vec![ArrayD::from_shape_vec(IxDyn(&shape), flat).expect("as many elements")]
}

/// Mean over the whole map: [N,C,H,W] → [N,C,1,1].
#[derive(Debug, Clone, PartialEq)]
pub struct GlobalAveragePool;

impl Operator for GlobalAveragePool {
    const NAME: &'static str = "GlobalAveragePool";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [x] = arity(inputs)?;
        let [batch, channels, _, _] = x.shape[..] else { return Err(format!("expected 4 dimensions, got {x}")) };
        Ok(vec![TensorType::new(x.dtype, vec![batch, channels, 1, 1])])
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        let dy = cx.gradient()?;
        let [_, _, height, width] = *cx.graph.shape(cx.input(0)) else { unreachable!("shapes were inferred") };
        let pixels = height * width;
        let weights = cx.graph.constant(vec![1, 1, height, width], TensorData::Exact(vec![1.0 / pixels as f64; pixels]));
        Ok(vec![Some(cx.graph.mul(dy, weights)?)])
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        super::ReduceMean { axes: vec![2, 3], keepdims: true }.eval(inputs)
    }
}

/// Adds `updates` [M] onto `data` [E] at `indices` i64 [M].
#[derive(Debug, Clone, PartialEq)]
pub struct ScatterElements;

impl Operator for ScatterElements {
    const NAME: &'static str = "ScatterElements";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [data, indices, updates] = arity(inputs)?;
        if data.rank() != 1 || indices.dtype != DType::I64 || indices.shape != updates.shape || updates.rank() != 1 || data.dtype != updates.dtype {
            return Err(format!("expected vectors of data, i64 indices and as many updates, got {data}, {indices} and {updates}"));
        }
        Ok(vec![data.clone()])
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        vec![("axis", Attribute::Int(0)), ("reduction", Attribute::String("add"))]
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        Err(cx.unknown(" (it serves in function bodies only)"))
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        let mut data = inputs[0].clone();
        for (&index, &update) in inputs[1].iter().zip(inputs[2]) {
            data[[index as usize]] += update;
        }
        vec![data]
    }
}
