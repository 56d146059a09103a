//! What a step over several micro-batches needs beside `train_step.onnx`: their embeddings first, then codes over all of
//! them. `docs/architecture.md` describes the graphs.

use std::path::Path;

use graphgen::manifest::{AccumulationSpec, TensorSpec};
use ort::environment::Environment;
use ort::session::IoBinding;
use ort::value::Tensor;

use super::bound::Bound;
use super::queue::Queue;
use super::state::{EngineError, HostInput, Memory, Tensors};
use super::{SessionOptions, stock};

/// The graphs before the backward passes, and what they hand on.
pub(super) struct Accumulation {
    embed_step: Bound,
    assign_step: Bound,
    /// Embeddings f32 [V·B, D] of each micro-batch: written by `embed_step.onnx`, read by `assign_step.onnx`.
    embeddings: Vec<Tensor<f32>>,
    /// Codes of each micro-batch under the names of `train_step.onnx`: `codes`, or `codes/0`, … with several heads.
    codes: Vec<Tensors>,
    first: HostInput<bool>,
    stats: Tensors,
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
        mut queue: Option<&mut Queue>,
        memory: &Memory,
    ) -> Result<Accumulation, EngineError> {
        let mut embed_step = Bound::open(environment, directory, &spec.embed_step, options)?;
        let mut assign_step = Bound::open(environment, directory, &spec.assign_step, options)?;
        let allocating = || EngineError::run("allocating the tensors of the micro-batches");

        let mut embeddings: Vec<Tensor<f32>> = Vec::new();
        while let Some(input) = spec.assign_step.inputs.iter().find(|input| input.name == format!("micro/{}/embeddings", embeddings.len())) {
            embeddings.push(memory.zeros(&input.shape).map_err(allocating())?);
        }
        if embeddings.is_empty() {
            return Err(assign_step.contract("expected an input micro/0/embeddings, found none"));
        }
        let codes = || stock::named(train_step_inputs, |name| name == "codes" || name.starts_with("codes/"));
        let mut codes = embeddings.iter().map(|_| Tensors::zeros_in(memory, codes())).collect::<Result<Vec<_>, _>>()?;
        let mut stats = Tensors::zeros(stock::named(&spec.assign_step.outputs, |name| name.starts_with("stats/")))?;

        embed_step.bind_inputs(&bind_state)?;
        assign_step.bind_inputs(|binding, name| {
            if let Some(tensor) = micro_batch(name).filter(|&(_, rest)| rest == "embeddings").and_then(|(micro, _)| embeddings.get(micro)) {
                return binding.bind_input(name, tensor).map(|()| true);
            }
            Ok(queue.as_ref().map_or(Ok(false), |queue| queue.bind_input(binding, name))? || bind_state(binding, name)?)
        })?;
        assign_step.bind_all_outputs(&spec.assign_step.outputs, |binding, name| {
            if let Some((micro, codes_name)) = micro_batch(name) {
                return codes.get_mut(micro).map_or(Ok(false), |codes| codes.bind_output(binding, codes_name, name));
            }
            let of_queue = queue.as_mut().map_or(Ok(false), |queue| queue.bind_output(binding, name))?;
            Ok(of_queue || stats.bind_output(binding, name, name)?)
        })?;
        let accumulation = Accumulation { embed_step, assign_step, embeddings, codes, first: HostInput::zeros(memory, &[1]).map_err(allocating())?, stats };
        accumulation.check_codes(spec)?;
        Ok(accumulation)
    }

    /// Codes that are not written would be zeros unnoticed.
    fn check_codes(&self, spec: &AccumulationSpec) -> Result<(), EngineError> {
        for (micro, codes) in self.codes.iter().enumerate() {
            for (name, _) in codes.iter() {
                let name = format!("micro/{micro}/{name}");
                if !spec.assign_step.outputs.iter().any(|output| output.name == name) {
                    return Err(self.assign_step.contract(format!("expected an output {name}, found none")));
                }
            }
        }
        Ok(())
    }

    /// N: micro-batches of a step.
    pub(super) fn count(&self) -> usize {
        self.embeddings.len()
    }

    /// Binds an input of `train_step.onnx` that belongs to a micro-batch; `false` for other inputs.
    pub(super) fn bind_input(&self, binding: &mut IoBinding, name: &str) -> ort::Result<bool> {
        match name {
            "first_micro_batch" => self.first.bind(binding, name),
            _ => self.codes[0].bind_input(binding, name, name),
        }
    }

    /// Embeds the micro-batch whose crops are bound.
    pub(super) fn embed(&mut self, micro: usize) -> Result<(), EngineError> {
        let bound = self.embed_step.binding.bind_output("embeddings", &mut self.embeddings[micro]);
        bound.map_err(self.embed_step.binding_error("embeddings"))?;
        self.embed_step.run()
    }

    /// Codes of all micro-batches, and the queue's next rows.
    pub(super) fn assign(&mut self) -> Result<(), EngineError> {
        self.assign_step.run()
    }

    /// Makes the next run of `train_step.onnx` that of a micro-batch.
    pub(super) fn select(&mut self, micro: usize, train_step: &mut Bound) -> Result<(), EngineError> {
        self.first.write(&[micro == 0]).map_err(EngineError::run("writing first_micro_batch"))?;
        for (name, tensor) in self.codes[micro].iter() {
            train_step.binding.bind_input(name, tensor).map_err(train_step.binding_error(name))?;
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn embeddings(&self, micro: usize) -> graphgen::weights::WeightTensor {
        super::state::copy(&self.embeddings[micro]).expect("a tensor that can be read")
    }

    /// The scalars `stats/…` over all micro-batches.
    pub(super) fn stats(&self) -> &Tensors {
        &self.stats
    }
}

/// `micro/3/codes/0` → 3 and `codes/0`.
fn micro_batch(name: &str) -> Option<(usize, &str)> {
    let (micro, rest) = name.strip_prefix("micro/")?.split_once('/')?;
    Some((micro.parse().ok()?, rest))
}
