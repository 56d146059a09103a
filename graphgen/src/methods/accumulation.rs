//! Gradient accumulation: N micro-batches of B images, whose codes are assigned together.
//!
//! `train.accumulate = N` computes what N data-parallel processes without synchronised BatchNorm compute. A step is
//! 1. [`embed_step`] of every micro-batch: its embeddings, with the batch statistics of BatchNorm; running statistics stay,
//! 2. [`assign_step`], once: codes over all N·B samples of each assigned crop, and the queue's next rows,
//! 3. [`train_step`](super::swav::train_step) of every micro-batch, with its part of the codes: loss, running statistics,
//!    and its share of the mean gradient,
//! 4. one optimizer step.
//!
//! Rows are ordered as processes would gather them: for each crop, all rows of micro-batch 0, then all of micro-batch 1, ….

use super::statistics;
use super::swav::{AssignedRows, Head, Queue, assign_codes, crop_inputs, embed_crops, score};
use crate::ir::{DType, Graph, GraphError, TensorType, ValueId};
use crate::nn::{Parameter, TrainLayers};
use crate::ops::Where;
use crate::preset::Preset;

/// The forward pass of one micro-batch. Inputs `crops/…` and the parameters; outputs `embeddings` f32 [V·B,D] and `scores`
/// f32 [V·B,K], which are those of [`train_step`](super::swav::train_step) on the same inputs.
///
/// # Errors
/// Crops too small for the network.
pub fn embed_step(preset: &Preset) -> Result<Graph, GraphError> {
    let mut g = Graph::new();
    let mut layers = TrainLayers::without_running_statistics(preset.train.precision, preset.train.resolved_target());
    let crops = crop_inputs(&mut g, preset);
    let embeddings = embed_crops(&mut g, &mut layers, preset, &crops)?;
    g.output("embeddings", embeddings);
    for head in score(&mut g, &mut layers, preset, embeddings)? {
        g.output(&format!("scores{}", head.suffix), head.scores);
    }
    Ok(g)
}

/// Codes of all micro-batches. Inputs `micro/<m>/embeddings` f32 [V·B,D] for each micro-batch m, the prototypes, and with a
/// queue `queue/embeddings` f32 [A,L,D] and `queue/filled` i64 [1]; outputs `micro/<m>/codes` f32 [A·B,K], the inputs
/// `codes` of [`train_step`](super::swav::train_step), with a queue `next/queue/…`, and the `stats/…` of embeddings and
/// codes over the whole effective batch.
///
/// # Errors
/// None for a valid preset.
pub fn assign_step(preset: &Preset) -> Result<Graph, GraphError> {
    let (batch, count) = (preset.train.micro_batch_size(), preset.train.accumulate);
    let assigned = &preset.crops.crops_for_assign;
    let mut g = Graph::new();
    let ty = TensorType::f32(vec![preset.crops.total() * batch, preset.model.feat_dim]);
    let micro_batches: Vec<ValueId> = (0..count).map(|micro| g.input(&format!("micro/{micro}/embeddings"), ty.clone())).collect();

    let mut crops = Vec::new();
    for crop in assigned {
        let rows = micro_batches.iter().map(|&rows| g.rows(rows, crop * batch, (crop + 1) * batch)).collect::<Result<Vec<_>, _>>()?;
        crops.push(g.concat(&rows, 0)?);
    }
    let embeddings = g.concat(&crops, 0)?;
    let rows = AssignedRows { crops: (0..assigned.len()).collect(), batch: count * batch };
    let mut heads = score(&mut g, &mut TrainLayers::new(preset.train.precision, preset.train.resolved_target()), preset, embeddings)?;
    let queue = Queue::new(&mut g, preset);
    for head in &mut heads {
        head.codes = assign_codes(&mut g, preset, head, &rows, queue.as_ref())?;
    }

    for micro in 0..count {
        for head in &heads {
            let codes = head.codes.iter().map(|&codes| g.rows(codes, micro * batch, (micro + 1) * batch)).collect::<Result<Vec<_>, _>>()?;
            let codes = g.concat(&codes, 0)?;
            g.output(&format!("micro/{micro}/codes{}", head.suffix), codes);
        }
    }
    if let Some(queue) = queue {
        queue.advance(&mut g, preset, embeddings, &rows)?;
    }
    let all = g.concat(&micro_batches, 0)?;
    statistics::of_codes(&mut g, all, &heads)?;
    Ok(g)
}

/// The input `codes` f32 [A·B,K] of a head, cut into the assigned crops.
pub(super) fn given_codes(g: &mut Graph, head: &Head, assigned: &AssignedRows) -> Result<Vec<ValueId>, GraphError> {
    let (batch, crops, prototypes) = (assigned.batch, assigned.crops.len(), g.shape(head.prototypes)[0]);
    let codes = g.input(&format!("codes{}", head.suffix), TensorType::f32(vec![crops * batch, prototypes]));
    (0..crops).map(|crop| g.rows(codes, crop * batch, (crop + 1) * batch)).collect()
}

/// Adds a micro-batch's share, 1/N of its gradients, to the inputs `accumulated/<parameter>`, which count as zeros where
/// the input `first_micro_batch` bool [1] is set: after the last micro-batch the sums are the mean gradients. A sum and its
/// input may be one buffer.
pub(super) fn add_to_mean(g: &mut Graph, preset: &Preset, parameters: &[Parameter], gradients: &[ValueId]) -> Result<Vec<ValueId>, GraphError> {
    let first = g.input("first_micro_batch", TensorType::new(DType::Bool, vec![1]));
    let mut sums = Vec::new();
    for (parameter, &gradient) in parameters.iter().zip(gradients) {
        let before = g.input(&format!("accumulated/{}", parameter.name), TensorType::f32(parameter.shape.clone()));
        // Selected, not multiplied by 0: what the buffer held may not be finite.
        let zero = g.scalar(0.0, parameter.shape.len());
        let before = g.apply(Where, &[first, zero, before])?;
        let share = g.scale(gradient, 1.0 / preset.train.accumulate as f64)?;
        sums.push(g.add(before, share)?);
    }
    Ok(sums)
}

#[cfg(test)]
#[path = "accumulation_tests.rs"]
mod tests;
