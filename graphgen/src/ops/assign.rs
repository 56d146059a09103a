//! Assignment to a graph input, which only ONNX Runtime's training build has.

use ndarray::ArrayD;

use super::{Domain, Operator, Vjp, arity};
use crate::ir::{DType, GraphError, TensorType, ValueId};

/// Writes into the memory of a graph input: inputs `state`, `value` of its type and `overwrite` bool [1]. Where `overwrite`
/// is set the state becomes the value, otherwise the value is added to it. The output, bool [1], says that it is done.
///
/// Every node that reads the state's old value must be an ancestor of the value: ONNX Runtime knows nothing of the write.
#[derive(Debug, Clone, PartialEq)]
pub struct InPlaceAccumulator;

impl Operator for InPlaceAccumulator {
    const NAME: &'static str = "InPlaceAccumulatorV2";
    const DOMAIN: Domain = Domain::Microsoft;

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [state, value, overwrite] = arity(inputs)?;
        let flag = TensorType::new(DType::Bool, vec![1]);
        // ONNX Runtime's kernel does not check this.
        if state != value || *overwrite != flag {
            return Err(format!("expected a value of the state's type {state} and a flag {flag}, got {value} and {overwrite}"));
        }
        Ok(vec![flag])
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        Err(cx.unknown(" (an assignment has none)"))
    }

    /// The flag alone: an evaluation has no memory to write to.
    fn eval(&self, _inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        vec![ArrayD::from_elem(vec![1], 1.0)]
    }
}
