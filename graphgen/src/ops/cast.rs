//! Conversion between element types.

use ndarray::ArrayD;

use super::{Attribute, Operator, Vjp, arity};
use crate::ir::{DType, GraphError, TensorType, ValueId};

/// Converts the element type. Gradients pass between floats only. The evaluation in f64 does not round.
#[derive(Debug, Clone, PartialEq)]
pub struct Cast {
    /// Type to convert to.
    pub to: DType,
}

impl Operator for Cast {
    const NAME: &'static str = "Cast";

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [x] = arity(inputs)?;
        Ok(vec![TensorType::new(self.to, x.shape.clone())])
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        vec![("to", Attribute::Int(crate::onnx::data_type(self.to).into()))]
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        let from = cx.graph.dtype(cx.input(0));
        if !from.is_float() || !self.to.is_float() {
            return Ok(vec![None]);
        }
        let dy = cx.gradient()?;
        Ok(vec![Some(cx.graph.cast(dy, from)?)])
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        vec![match self.to {
            DType::F32 | DType::F16 | DType::F64 => inputs[0].clone(),
            DType::Bool => inputs[0].mapv(|x| f64::from(u8::from(x != 0.0))),
            DType::U8 | DType::I64 => inputs[0].mapv(f64::trunc),
        }]
    }
}
