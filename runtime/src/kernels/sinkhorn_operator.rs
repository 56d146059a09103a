//! Sinkhorn-Knopp as an ONNX Runtime operator.

use std::sync::atomic::{AtomicU64, Ordering};

use ort::operator::{BoxedKernel, ComputeContext, KernelContext, Operator, OperatorInput, OperatorOutput, ShapeInferenceContext};
use ort::value::TensorElementType;

use super::operator::guarded;
use super::sinkhorn::{Sinkhorn, sinkhorn_knopp};

/// Name of the function.
pub(super) const SINKHORN: &str = "SinkhornKnopp";

/// Runs of the native kernel in this process: the proof that ONNX Runtime did not use the function's body.
static SINKHORN_CALLS: AtomicU64 = AtomicU64::new(0);

/// How often the native Sinkhorn-Knopp kernel ran in this process.
pub fn sinkhorn_calls() -> u64 {
    SINKHORN_CALLS.load(Ordering::Relaxed)
}

/// `swav::SinkhornKnopp`.
///
/// - input `scores`: f32 [B, K]
/// - optional inputs `queue_scores`: f32 [L, K] and `filled`: i64 \[1\]; the queue takes part when `filled` is L
/// - output `codes`: f32 [B, K]
/// - attributes `epsilon` (float) and `iterations` (int), written at every call site: a function's defaults do not
///   reach a kernel
pub struct SinkhornOperator {
    /// Threads to use at most.
    pub threads: usize,
}

impl Operator for SinkhornOperator {
    type Kernel<'a> = BoxedKernel<'a>;

    fn name(&self) -> &str {
        SINKHORN
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        let f32 = TensorElementType::Float32;
        [OperatorInput::required(f32), OperatorInput::optional(f32), OperatorInput::optional(TensorElementType::Int64)]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn infer_shape(&self, context: &mut ShapeInferenceContext) -> ort::Result<()> {
        match context.inputs().first().cloned() {
            Some(scores) => context.set_output(0, &scores),
            None => Ok(()),
        }
    }

    fn create_kernel<'a>(&self, kernel: &KernelContext<'a>) -> ort::Result<Self::Kernel<'a>> {
        let node = kernel.node_name().unwrap_or_default();
        let missing = |name| ort::Error::new(format!("SinkhornKnopp {node}: attribute {name} is not written at the call site"));
        let epsilon: f32 = kernel.get("epsilon").ok_or_else(|| missing("epsilon"))?;
        let iterations: i64 = kernel.get("iterations").ok_or_else(|| missing("iterations"))?;
        let iterations = usize::try_from(iterations).map_err(|_| ort::Error::new(format!("SinkhornKnopp {node}: iterations is {iterations}")))?;
        let settings = Sinkhorn { epsilon: f64::from(epsilon), iterations, threads: self.threads };
        Ok(Box::new(move |context: &ComputeContext| guarded(SINKHORN, || compute(settings, context))))
    }
}

fn compute(settings: Sinkhorn, context: &ComputeContext) -> ort::Result<()> {
    let optional = |index| if index < context.num_inputs()? { context.input(index) } else { Ok(None) };
    let scores = context.input(0)?.ok_or_else(|| ort::Error::new("SinkhornKnopp: input scores is missing"))?;
    let (shape, scores) = scores.try_extract_tensor::<f32>()?;
    let &[_, prototypes] = &**shape else {
        return Err(ort::Error::new(format!("SinkhornKnopp: expected scores [B, K], got {shape:?}")));
    };
    let prototypes = usize::try_from(prototypes).unwrap_or(0);

    let (queue, filled) = (optional(1)?, optional(2)?);
    let queue = match (&queue, &filled) {
        (None, None) => &[],
        (Some(queue), Some(filled)) => {
            let (shape, queue) = queue.try_extract_tensor::<f32>()?;
            let (_, filled) = filled.try_extract_tensor::<i64>()?;
            if filled.first() == shape.first() { queue } else { &[] }
        }
        _ => return Err(ort::Error::new("SinkhornKnopp: expected both queue_scores and filled, or neither")),
    };

    let mut codes = context.output(0, shape.to_vec())?.ok_or_else(|| ort::Error::new("SinkhornKnopp: output codes is missing"))?;
    let (_, codes) = codes.try_extract_tensor_mut::<f32>()?;
    SINKHORN_CALLS.fetch_add(1, Ordering::Relaxed);
    sinkhorn_knopp(settings, prototypes, queue, scores, codes).map_err(|error| ort::Error::new(error.to_string()))
}

#[cfg(test)]
#[path = "sinkhorn_operator_tests.rs"]
mod tests;
