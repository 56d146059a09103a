//! Rows of length 1.

use ndarray::{ArrayD, Axis};

use super::body_inputs;
use crate::ir::{Graph, GraphError, TensorType, ValueId};
use crate::ops::{Attribute, Domain, Operator, Vjp};
use crate::preset::Target;

/// `y = x / max(‖x‖₂, epsilon)` for every row; x f32 [N,D], outputs y [N,D] and the clamped norms [N,1], which are a
/// statistic: no gradient flows through them.
#[derive(Debug, Clone, PartialEq)]
pub struct L2Normalize {
    /// Smallest divisor.
    pub epsilon: f64,
}

impl Operator for L2Normalize {
    const NAME: &'static str = "L2Normalize";
    const DOMAIN: Domain = Domain::Swav;

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [x] = crate::ops::arity(inputs)?;
        let [rows, _] = x.shape[..] else { return Err(format!("expected rows [N, D], got {x}")) };
        Ok(vec![x.clone(), TensorType::new(x.dtype, vec![rows, 1])])
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        vec![("epsilon", Attribute::Float(self.epsilon as f32))]
    }

    /// `dx = (dy − y · Σ dy·y) / norm`
    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        let (dy, y, norm) = (cx.gradient()?, cx.output(0), cx.output(1));
        let product = cx.graph.mul(dy, y)?;
        let along = cx.graph.reduce_sum(product, &[1], true)?;
        let radial = cx.graph.mul(y, along)?;
        let tangential = cx.graph.sub(dy, radial)?;
        Ok(vec![Some(cx.graph.div(tangential, norm)?)])
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        let x = inputs[0];
        let norm = (x * x).sum_axis(Axis(1)).mapv(|square| square.sqrt().max(self.epsilon)).insert_axis(Axis(1));
        vec![x / &norm, norm]
    }

    fn body(&self, inputs: &[&TensorType], _target: Target) -> Result<Option<Graph>, GraphError> {
        let (mut g, [x]) = body_inputs(["x"], inputs);
        let [y, norm] = self.inline(&mut g, x)?;
        g.output("y", y);
        g.output("norm", norm);
        Ok(Some(g))
    }
}

impl L2Normalize {
    /// The body in a graph: rows and clamped norms. It holds no shape constants.
    pub(crate) fn inline(&self, g: &mut Graph, x: ValueId) -> Result<[ValueId; 2], GraphError> {
        let square = g.mul(x, x)?;
        let sum = g.reduce_sum(square, &[1], true)?;
        let norm = g.sqrt(sum)?;
        let norm = g.at_least(norm, self.epsilon)?;
        Ok([g.div(x, norm)?, norm])
    }
}
