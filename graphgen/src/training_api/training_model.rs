//! `training_model.onnx`: the training step with its state in the training API's hands.

use crate::ir::{DType, Graph, GraphError, TensorData, TensorType, ValueId};
use crate::methods::swav::{TrainStep, train_step};
use crate::ops::InPlaceAccumulator;
use crate::preset::Preset;

/// Name of the input by which the training API says that gradients start from zero.
pub(super) const LAZY_RESET_GRAD: &str = "lazy_reset_grad";

/// The output that says that prototypes and running statistics have been assigned.
pub(super) const STATE_WRITTEN: &str = "state_written";

/// The step of [`train_step`] for the training API. What its names mean there:
/// - parameters and running statistics: tensors of the checkpoint;
/// - `<parameter>_grad.accumulation.buffer` and `lazy_reset_grad`: the training API's own;
/// - all other inputs, crops and queue: what a program gives to TrainStep, in this order.
///
/// Gradients are added to their buffers in place of being outputs. Running statistics and normalised prototypes are
/// assigned to their tensors: the optimizer then starts from normalised prototypes, as ours does. The other outputs are
/// the step's own, and `state_written`, which keeps the assignments in the graph.
///
/// # Errors
/// As [`train_step`].
pub(super) fn training_model(preset: &Preset) -> Result<TrainStep, GraphError> {
    let mut step = train_step(preset)?;
    let g = &mut step.graph;
    let outputs = g.take_outputs();
    let parameters: Vec<(String, ValueId)> = step.parameters.iter().map(|parameter| (parameter.name.clone(), parameter.input)).collect();
    let (gradients, others): (Vec<_>, Vec<_>) = outputs.into_iter().partition(|(name, _)| name.starts_with("grad/"));
    let is_statistic = |name: &str| name.strip_prefix("next/").is_some_and(|name| step.running_statistics.iter().any(|statistic| statistic.name == name));
    for (name, value) in others.into_iter().filter(|(name, _)| !is_statistic(name)) {
        g.output(&name, value);
    }

    let written = assign_state(g, &step.running_statistics, &parameters[parameters.len() - step.prototypes.len()..], &step.prototypes)?;
    g.output(STATE_WRITTEN, written);

    let mut accumulators = Vec::new();
    for (name, gradient) in gradients {
        let parameter = name.trim_start_matches("grad/").to_owned();
        let buffer = g.input(&format!("{parameter}_grad.accumulation.buffer"), g.ty(gradient).clone());
        accumulators.push((parameter, buffer, gradient));
    }
    let reset = g.input(LAZY_RESET_GRAD, TensorType::new(DType::Bool, vec![1]));
    for (parameter, buffer, gradient) in accumulators {
        let done = g.apply(InPlaceAccumulator, &[buffer, gradient, reset])?;
        g.output(&format!("{parameter}_grad.accumulation.out"), done);
    }
    Ok(step)
}

/// Assigns the statistics and the prototypes, whose old values nothing else reads; bool [n], true.
fn assign_state(
    g: &mut Graph,
    statistics: &[crate::nn::RunningStatistic],
    prototypes: &[(String, ValueId)],
    normalized: &[ValueId],
) -> Result<ValueId, GraphError> {
    let overwrite = g.constant([1], TensorData::Bool(vec![true]));
    let statistics = statistics.iter().map(|statistic| (g.find_input(&statistic.name).expect("a statistic is an input"), statistic.current));
    let assignments: Vec<(ValueId, ValueId)> = statistics.chain(prototypes.iter().map(|(_, input)| *input).zip(normalized.iter().copied())).collect();
    let written = assignments.into_iter().map(|(state, value)| g.apply(InPlaceAccumulator, &[state, value, overwrite])).collect::<Result<Vec<_>, _>>()?;
    g.concat(&written, 0)
}
