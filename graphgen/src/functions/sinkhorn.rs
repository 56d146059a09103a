//! Sinkhorn-Knopp: balanced soft cluster codes.

use ndarray::{ArrayD, Axis, Slice as NdSlice};

use crate::ir::{DType, Graph, GraphError, TensorData, TensorType, ValueId};
use crate::ops::{Attribute, Domain, Equal, Operator, Vjp, Where};
use crate::preset::Target;

/// Codes of a batch: scores f32 [B,K] → codes f32 [B,K], rows sum to 1, columns nearly to B/K.
///
/// With a queue also `queue_scores` f32 [L,K] and `filled` i64 [1]: the queue's rows stand before the batch's and take
/// part once `filled` is L; only the batch's codes are returned. No gradient flows through.
///
/// Source: Caron et al. 2020, section 3.1 and equation 5, by the iteration of `distributed_sinkhorn` in the official
/// `main_swav.py`, in the log domain: `exp(scores/ε)` overflows, its logarithm does not.
#[derive(Debug, Clone, PartialEq)]
pub struct SinkhornKnopp {
    /// ε: entropic regularisation.
    pub epsilon: f64,
    /// Pairs of normalisations.
    pub iterations: usize,
}

/// Logarithm of the weight of a row that takes no part.
const EXCLUDED: f64 = -1e30;

impl Operator for SinkhornKnopp {
    const NAME: &'static str = "SinkhornKnopp";
    const DOMAIN: Domain = Domain::Swav;

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let [scores, queue @ ..] = inputs else { return Err("expected scores, got no input".into()) };
        if scores.rank() != 2 || scores.dtype != DType::F32 {
            return Err(format!("expected scores f32 [B, K], got {scores}"));
        }
        match queue {
            [] => {}
            [queue, filled] if queue.rank() == 2 && queue.shape[1] == scores.shape[1] && **filled == TensorType::new(DType::I64, vec![1]) => {}
            _ => return Err(format!("expected queue scores f32 [L, {}] and filled i64 [1], got {queue:?}", scores.shape[1])),
        }
        Ok(vec![(*scores).clone()])
    }

    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        vec![("epsilon", Attribute::Float(self.epsilon as f32)), ("iterations", Attribute::Int(self.iterations as i64))]
    }

    fn vjp(&self, cx: &mut Vjp<'_>) -> Result<Vec<Option<ValueId>>, GraphError> {
        Ok(vec![None; cx.inputs.len()])
    }

    fn eval(&self, inputs: &[&ArrayD<f64>]) -> Vec<ArrayD<f64>> {
        let batch = inputs[0].shape()[0];
        let scores = match inputs {
            [scores, queue, filled] if filled[[0]] == queue.shape()[0] as f64 => {
                ndarray::concatenate(Axis(0), &[queue.view(), scores.view()]).expect("equal columns")
            }
            _ => inputs[0].clone(),
        };
        let mut log = scores / self.epsilon;
        for _ in 0..self.iterations {
            log = &log - log_sum_exp(&log, 0);
            log = &log - log_sum_exp(&log, 1);
        }
        let rows = log.shape()[0];
        vec![log.slice_axis(Axis(0), NdSlice::from(rows - batch..rows)).mapv(f64::exp)]
    }

    /// With u over prototypes and v over samples: `u ← −ln Σ_samples e^(s/ε + v)`, `v ← −ln Σ_prototypes e^(s/ε + u)`, in
    /// f64 where the target has it: the rounding of a logarithm is the relative error of a code, and logarithms grow with 1/ε.
    fn body(&self, inputs: &[&TensorType], target: Target) -> Result<Option<Graph>, GraphError> {
        let mut g = Graph::new();
        let scores = g.input("scores", inputs[0].clone());
        let batch = inputs[0].shape[0];
        let (all, mut samples) = if let [_, queue_ty, filled_ty] = inputs {
            let length = queue_ty.shape[0];
            let queue = g.input("queue_scores", (*queue_ty).clone());
            let filled = g.input("filled", (*filled_ty).clone());
            let full = g.constant(vec![1], TensorData::I64(vec![length as i64]));
            let takes_part = g.apply(Equal, &[filled, full])?;
            (g.concat(&[queue, scores], 0)?, Some(Samples { takes_part, length, batch, log_weight: None }))
        } else {
            (scores, None)
        };
        let wide = target.formulations().sinkhorn;
        let all = g.cast(all, wide)?;
        let epsilon = wide_scalar(&mut g, wide, self.epsilon)?;
        let log = g.div(all, epsilon)?;
        let (mut u, mut v) = (None, samples.as_mut().map(|samples| samples.exclude(&mut g, wide)).transpose()?);
        for _ in 0..self.iterations {
            let weighted = match v {
                Some(v) => g.add(log, v)?,
                None => log,
            };
            let new_u = negative_log_sum_exp(&mut g, weighted, 0)?;
            let weighted = g.add(log, new_u)?;
            let new_v = negative_log_sum_exp(&mut g, weighted, 1)?;
            u = Some(new_u);
            v = Some(match samples.as_mut() {
                Some(samples) => {
                    samples.log_weight = Some(new_v);
                    samples.exclude(&mut g, wide)?
                }
                None => new_v,
            });
        }
        let rows = inputs.get(1).map_or(0, |queue| queue.shape[0]);
        let log = g.rows(log, rows, rows + batch)?;
        let v = g.rows(v.expect("at least one iteration"), rows, rows + batch)?;
        let scaled = g.add(log, u.expect("at least one iteration"))?;
        let log_codes = g.add(scaled, v)?;
        let codes = g.exp(log_codes)?;
        let codes = g.cast(codes, DType::F32)?;
        g.output("codes", codes);
        Ok(Some(g))
    }
}

/// The rows of queue and batch, and which of them take part.
struct Samples {
    takes_part: ValueId,
    length: usize,
    batch: usize,
    log_weight: Option<ValueId>,
}

impl Samples {
    /// The log weights [L+B, 1] with the queue's rows excluded while it is not full.
    fn exclude(&self, g: &mut Graph, wide: DType) -> Result<ValueId, GraphError> {
        let rows = self.length + self.batch;
        let weights = match self.log_weight {
            Some(weights) => weights,
            None => {
                let zeros = g.constant(vec![rows, 1], TensorData::Filled(0.0, rows));
                g.cast(zeros, wide)?
            }
        };
        let queue = g.rows(weights, 0, self.length)?;
        let excluded = wide_scalar(g, wide, EXCLUDED)?;
        let queue = g.apply(Where, &[self.takes_part, queue, excluded])?;
        let batch = g.rows(weights, self.length, rows)?;
        g.concat(&[queue, batch], 0)
    }
}

/// A constant [1, 1], as exact as f32 holds it: attributes are f32 too.
fn wide_scalar(g: &mut Graph, wide: DType, value: f64) -> Result<ValueId, GraphError> {
    let scalar = g.scalar(value, 2);
    g.cast(scalar, wide)
}

fn negative_log_sum_exp(g: &mut Graph, x: ValueId, axis: usize) -> Result<ValueId, GraphError> {
    let max = g.reduce_max(x, &[axis], true)?;
    let shifted = g.sub(x, max)?;
    let exp = g.exp(shifted)?;
    let sum = g.reduce_sum(exp, &[axis], true)?;
    let log = g.log(sum)?;
    let total = g.add(log, max)?;
    g.neg(total)
}

fn log_sum_exp(x: &ArrayD<f64>, axis: usize) -> ArrayD<f64> {
    let axis = Axis(axis);
    let max = x.fold_axis(axis, f64::NEG_INFINITY, |&a, &b| a.max(b)).insert_axis(axis);
    let sum = (x - &max).mapv(f64::exp).sum_axis(axis).insert_axis(axis);
    sum.mapv(f64::ln) + max
}
