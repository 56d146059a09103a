//! Scalars that tell whether a run is healthy, computed where the big tensors are.

use crate::ir::{DType, Graph, GraphError, ValueId};
use crate::ops::Equal;

/// Adds the outputs `stats/…`, f32 [1] each:
/// - `code_entropy`: mean entropy of a sample's codes in nats, averaged over heads; ln K when they are uniform,
/// - `live_prototypes`: prototypes that are some sample's first choice in this batch, summed over heads,
/// - `feature_std`: standard deviation of the embeddings over the batch, averaged over dimensions; near 1/√D when they
///   spread over the sphere, 0 when they have collapsed to a point,
/// - `grad_norm`: L2 norm over all gradients.
///
/// `codes` holds, for each head, the codes [B,K] of each assigned crop.
pub(super) fn add(g: &mut Graph, embeddings: ValueId, codes: &[&[ValueId]], gradients: &[ValueId]) -> Result<(), GraphError> {
    let (mut entropies, mut live) = (Vec::new(), Vec::new());
    for codes in codes {
        let codes = g.concat(codes, 0)?;
        entropies.push(entropy(g, codes)?);
        live.push(live_prototypes(g, codes)?);
    }
    let heads = entropies.len() as f64;
    let entropy = sum(g, &entropies)?;
    let entropy = g.scale(entropy, 1.0 / heads)?;
    let live = sum(g, &live)?;
    let spread = feature_std(g, embeddings)?;
    let norms = gradients.iter().rev().map(|&gradient| squared_norm(g, gradient)).collect::<Result<Vec<_>, _>>()?;
    let norm = sum(g, &norms)?;
    let norm = g.sqrt(norm)?;
    for (name, value) in [("code_entropy", entropy), ("live_prototypes", live), ("feature_std", spread), ("grad_norm", norm)] {
        let value = g.reshape(value, &[1])?;
        g.output(&format!("stats/{name}"), value);
    }
    Ok(())
}

fn sum(g: &mut Graph, values: &[ValueId]) -> Result<ValueId, GraphError> {
    let (first, rest) = values.split_first().expect("at least one value");
    rest.iter().try_fold(*first, |sum, &value| g.add(sum, value))
}

/// Mean over the rows of `−Σ q ln q`.
fn entropy(g: &mut Graph, codes: ValueId) -> Result<ValueId, GraphError> {
    let rows = g.shape(codes)[0];
    let positive = g.at_least(codes, 1e-30)?;
    let log = g.log(positive)?;
    let products = g.mul(codes, log)?;
    let total = g.reduce_sum(products, &[0, 1], false)?;
    let total = g.reshape(total, &[1])?;
    g.scale(total, -1.0 / rows as f64)
}

/// Columns that hold some row's maximum.
fn live_prototypes(g: &mut Graph, codes: ValueId) -> Result<ValueId, GraphError> {
    let max = g.reduce_max(codes, &[1], true)?;
    let is_max = g.apply(Equal, &[codes, max])?;
    let is_max = g.cast(is_max, DType::F32)?;
    let chosen = g.reduce_max(is_max, &[0], false)?;
    let count = g.reduce_sum(chosen, &[0], true)?;
    g.reshape(count, &[1])
}

fn feature_std(g: &mut Graph, embeddings: ValueId) -> Result<ValueId, GraphError> {
    let mean = g.reduce_mean(embeddings, &[0], true)?;
    let centred = g.sub(embeddings, mean)?;
    let square = g.mul(centred, centred)?;
    let variance = g.reduce_mean(square, &[0], false)?;
    let deviation = g.sqrt(variance)?;
    g.reduce_mean(deviation, &[0], true)
}

fn squared_norm(g: &mut Graph, gradient: ValueId) -> Result<ValueId, GraphError> {
    let flat = g.reshape(gradient, &[g.ty(gradient).elements()])?;
    let square = g.mul(flat, flat)?;
    g.reduce_sum(square, &[0], true)
}
