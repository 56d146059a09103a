//! The gradient of max pooling.

use ndarray::{ArrayD, IxDyn};

use super::body_inputs;
use crate::ir::{DType, Graph, GraphError, TensorData, TensorType, ValueId};
use crate::ops::{Attribute, Domain, Operator, ScatterElements, Vjp};
use crate::preset::Target;

/// Every gradient goes to the maximum it came from: dy [N,C,H',W'], flat indices i64 [N,C,H',W'] → dx [N,C,H,W].
#[derive(Debug, Clone, PartialEq)]
pub struct MaxPoolGrad {
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
        match inputs {
            [dy, indices] if dy.rank() == 4 && dy.shape == indices.shape && indices.dtype == DType::I64 => {
                Ok(vec![TensorType::new(dy.dtype, self.output_shape(&dy.shape))])
            }
            _ => Err(format!("expected a gradient of 4 dimensions and as many i64 indices, got {inputs:?}")),
        }
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        vec![("input_size", Attribute::Ints(self.input_size.map(|side| side as i64).to_vec()))]
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        Err(cx.unknown(""))
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        let mut flat = vec![0.0; self.output_shape(inputs[0].shape()).iter().product()];
        for (&dy, &index) in inputs[0].iter().zip(inputs[1]) {
            flat[index as usize] += dy;
        }
        vec![ArrayD::from_shape_vec(IxDyn(&self.output_shape(inputs[0].shape())), flat).expect("as many elements")]
    }

    fn body(&self, inputs: &[&TensorType], _target: Target) -> Result<Option<Graph>, GraphError> {
        let (mut g, [dy, indices]) = body_inputs(["dy", "indices"], inputs);
        let shape = self.output_shape(&inputs[0].shape);
        let zeros = g.constant(vec![shape.iter().product()], TensorData::F32(vec![0.0; shape.iter().product()]));
        let (dy, indices) = (g.reshape(dy, &[inputs[0].elements()])?, g.reshape(indices, &[inputs[0].elements()])?);
        let flat = g.apply(ScatterElements, &[zeros, indices, dy])?;
        let dx = g.reshape(flat, &shape)?;
        g.output("dx", dx);
        Ok(Some(g))
    }
}
