//! What a step of the stock engine over several micro-batches needs beside `train_step.onnx`: their embeddings first, then
//! codes over all of them. `docs/architecture.md` describes the graphs.

use std::path::Path;

use graphgen::manifest::{AccumulationSpec, TensorSpec};
use ort::environment::Environment;
use ort::session::IoBinding;

use super::SessionOptions;
use super::assignment::Assignment;
use super::bound::Bound;
use super::crops::{CropInputs, MicroBatch};
use super::queue::Queue;
use super::state::{EngineError, HostInput, Memory, Tensors};

/// The graphs before the backward passes, and what they hand on.
pub(super) struct Accumulation {
    embed_step: Bound,
    assignment: Assignment,
    first: HostInput<bool>,
}

impl Accumulation {
    /// Loads both graphs and binds all but the inputs that `bind_state` binds: crops and parameters.
    ///
    /// # Errors
    /// Graphs that ONNX Runtime does not accept, or whose inputs and outputs are not those of the contract.
    #[allow(clippy::too_many_arguments, reason = "one caller hands over what the graphs share")]
    pub(super) fn open(
        environment: &Environment,
        directory: &Path,
        spec: &AccumulationSpec,
        train_step_inputs: &[TensorSpec],
        options: &SessionOptions,
        bind_state: impl Fn(&mut IoBinding, &str) -> ort::Result<bool>,
        queue: Option<&mut Queue>,
        memory: &Memory,
    ) -> Result<Accumulation, EngineError> {
        let mut embed_step = Bound::open(environment, directory, &spec.embed_step, options)?;
        embed_step.bind_inputs(&bind_state)?;
        let assign_step = Bound::open(environment, directory, &spec.assign_step, options)?;
        let assignment = Assignment::new(assign_step, &spec.assign_step, train_step_inputs, bind_state, queue, memory)?;
        let first = HostInput::zeros(memory, &[1]).map_err(EngineError::run("allocating first_micro_batch"))?;
        Ok(Accumulation { embed_step, assignment, first })
    }

    /// N: micro-batches of a step.
    pub(super) fn count(&self) -> usize {
        self.assignment.count()
    }

    /// Binds an input of `train_step.onnx` that belongs to a micro-batch; `false` for other inputs.
    pub(super) fn bind_input(&self, binding: &mut IoBinding, name: &str) -> ort::Result<bool> {
        match name {
            "first_micro_batch" => self.first.bind(binding, name),
            _ => self.assignment.codes(0).bind_input(binding, name, name),
        }
    }

    /// Embeds a micro-batch; `next` is the one that a graph runs on afterwards.
    pub(super) fn embed(&mut self, inputs: &mut CropInputs, crops: MicroBatch<'_>, next: MicroBatch<'_>) -> Result<(), EngineError> {
        let bound = self.embed_step.binding.bind_output("embeddings", self.assignment.embeddings_mut(crops.index()));
        bound.map_err(self.embed_step.binding_error("embeddings"))?;
        inputs.run(&mut self.embed_step, crops, Some(next))
    }

    /// Codes of all micro-batches, and the queue's next rows.
    pub(super) fn assign(&mut self) -> Result<(), EngineError> {
        self.assignment.run()
    }

    /// Makes the next run of `train_step.onnx` that of a micro-batch.
    pub(super) fn select(&mut self, micro: usize, train_step: &mut Bound) -> Result<(), EngineError> {
        self.first.write(&[micro == 0]).map_err(EngineError::run("writing first_micro_batch"))?;
        for (name, tensor) in self.assignment.codes(micro).iter() {
            train_step.binding.bind_input(name, tensor).map_err(train_step.binding_error(name))?;
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn embeddings(&self, micro: usize) -> graphgen::weights::WeightTensor {
        self.assignment.embeddings(micro)
    }

    /// The scalars `stats/…` over all micro-batches.
    pub(super) fn stats(&self) -> &Tensors {
        self.assignment.stats()
    }
}
