//! The gradient of ReLU.

use ndarray::{ArrayD, Zip};

use super::body_inputs;
use super::formulations::ReluMask;
use crate::ir::{Graph, GraphError, TensorType, ValueId};
use crate::ops::{Domain, Greater, HardSigmoid, Operator, Vjp, Where};
use crate::preset::Target;

/// `dx = dy where y > 0, else 0`; inputs dy and the ReLU's output y, of one shape.
#[derive(Debug, Clone, PartialEq)]
pub struct ReluGrad;

impl Operator for ReluGrad {
    const NAME: &'static str = "ReluGrad";
    const DOMAIN: Domain = Domain::Swav;

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        match inputs {
            [dy, y] if dy == y => Ok(vec![(*dy).clone()]),
            _ => Err(format!("expected gradient and output of one shape, got {inputs:?}")),
        }
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        Err(cx.unknown(""))
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        vec![Zip::from(inputs[0]).and(inputs[1]).map_collect(|&dy, &y| if y > 0.0 { dy } else { 0.0 })]
    }

    fn body(&self, inputs: &[&TensorType], target: Target) -> Result<Option<Graph>, GraphError> {
        let (mut g, [dy, y]) = body_inputs(["dy", "y"], inputs);
        let dx = masked(&mut g, target, dy, y)?;
        g.output("dx", dx);
        Ok(Some(g))
    }
}

/// dy where the ReLU's output y is positive, else 0.
pub(super) fn masked(g: &mut Graph, target: Target, dy: ValueId, y: ValueId) -> Result<ValueId, GraphError> {
    match target.formulations().relu_mask {
        ReluMask::Select => {
            let zero = g.scalar_like(0.0, y);
            let positive = g.apply(Greater, &[y, zero])?;
            g.apply(Where, &[positive, dy, zero])
        }
        // Greater and Where go through a bool tensor without vector instructions; outputs of a ReLU are 0 or far above 1e-30.
        ReluMask::HardSigmoid => {
            let mask = g.apply(HardSigmoid { alpha: 1e30, beta: 0.0 }, &[y])?;
            g.mul(dy, mask)
        }
    }
}
