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
/// Gradients are added to their buffers in place of being outputs. With `train.accumulate = N` above 1 the step is that of a
/// micro-batch: the buffers are its `accumulated/…`, and hold the mean gradient after N of them. Running statistics and normalised prototypes are
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

    let buffers = gradient_buffers(g, preset, &gradients);
    for ((name, gradient), buffer) in gradients.iter().zip(buffers.tensors) {
        let done = g.apply(InPlaceAccumulator, &[buffer, *gradient, buffers.overwrites])?;
        g.output(&format!("{}_grad.accumulation.out", parameter_of(name)), done);
    }
    Ok(step)
}

/// Where the training API keeps gradients.
struct GradientBuffers {
    /// One for each gradient.
    tensors: Vec<ValueId>,
    /// bool [1]: whether what is added to a buffer replaces its content.
    overwrites: ValueId,
}

fn gradient_buffers(g: &mut Graph, preset: &Preset, gradients: &[(String, ValueId)]) -> GradientBuffers {
    let buffer = |name: &str| format!("{}_grad.accumulation.buffer", parameter_of(name));
    if preset.train.accumulate > 1 {
        // The step adds what is there to its gradients itself: their norm is that of the sums.
        let tensors = gradients.iter().map(|(name, _)| g.rename_input(&format!("accumulated/{}", parameter_of(name)), &buffer(name))).collect();
        g.rename_input("first_micro_batch", LAZY_RESET_GRAD);
        return GradientBuffers { tensors, overwrites: g.constant([1], TensorData::Bool(vec![true])) };
    }
    let tensors = gradients.iter().map(|(name, gradient)| g.input(&buffer(name), g.ty(*gradient).clone())).collect();
    GradientBuffers { tensors, overwrites: g.input(LAZY_RESET_GRAD, TensorType::new(DType::Bool, vec![1])) }
}

/// The parameter of an output `grad/<parameter>`.
fn parameter_of(output: &str) -> &str {
    output.strip_prefix("grad/").expect("an output that is a gradient")
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
