//! Scalars that tell whether a run is healthy, computed where the big tensors are.

use super::swav::Head;
use crate::ir::{DType, Graph, GraphError, ValueId};
use crate::ops::{Equal, ReduceSumSquare};

/// Adds outputs about a batch's embeddings and codes, f32 [1] each:
/// - `stats/code_entropy`: mean entropy of a sample's codes in nats, averaged over heads; ln K when they are uniform,
/// - `stats/live_prototypes`: prototypes that are some sample's first choice in this batch, summed over heads,
/// - `stats/feature_std`: standard deviation of the embeddings over the batch, averaged over dimensions; near 1/√D when
///   they spread over the sphere, 0 when they have collapsed to a point.
pub(super) fn of_codes(g: &mut Graph, embeddings: ValueId, heads: &[Head]) -> Result<(), GraphError> {
    let (mut entropies, mut live) = (Vec::new(), Vec::new());
    for head in heads {
        let codes = g.concat(&head.codes, 0)?;
        entropies.push(entropy(g, codes)?);
        live.push(live_prototypes(g, codes)?);
    }
    let entropy = sum(g, &entropies)?;
    let entropy = g.scale(entropy, 1.0 / heads.len() as f64)?;
    let live = sum(g, &live)?;
    let spread = feature_std(g, embeddings)?;
    for (name, value) in [("code_entropy", entropy), ("live_prototypes", live), ("feature_std", spread)] {
        g.output(&format!("stats/{name}"), value);
    }
    Ok(())
}

/// Adds the output `stats/grad_norm`, f32 [1]: L2 norm over all gradients. Returns it.
pub(super) fn of_gradients(g: &mut Graph, gradients: &[ValueId]) -> Result<ValueId, GraphError> {
    let norms = gradients.iter().rev().map(|&gradient| squared_norm(g, gradient)).collect::<Result<Vec<_>, _>>()?;
    let norm = sum(g, &norms)?;
    let norm = g.sqrt(norm)?;
    g.output("stats/grad_norm", norm);
    Ok(norm)
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
    g.apply(ReduceSumSquare { axes: vec![0], keepdims: true }, &[flat])
}
