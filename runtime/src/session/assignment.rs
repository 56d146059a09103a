//! The codes of a step over several micro-batches: one assignment for all of their embeddings. `docs/architecture.md`
//! describes the graph.

use graphgen::manifest::{GraphSpec, TensorSpec};
use ort::session::IoBinding;
use ort::value::{DynValue, Tensor};

use super::bound::Bound;
use super::queue::Queue;
use super::state::{EngineError, Memory, Tensors, dimensions, write};
use super::stock;

/// `assign_step.onnx`, and what it reads and writes.
pub(super) struct Assignment {
    assign_step: Bound,
    /// Embeddings f32 [V·B, D] of each micro-batch.
    embeddings: Vec<Tensor<f32>>,
    /// Codes of each micro-batch under the names of the training step: `codes`, or `codes/0`, … with several heads.
    codes: Vec<Tensors>,
    stats: Tensors,
}

impl Assignment {
    /// Binds all but the inputs that `bind_state` binds: the prototypes. `codes`: those inputs of the training step.
    ///
    /// # Errors
    /// A graph whose inputs and outputs are not those of the contract.
    pub(super) fn new(
        mut assign_step: Bound,
        spec: &GraphSpec,
        step_inputs: &[TensorSpec],
        bind_state: impl Fn(&mut IoBinding, &str) -> ort::Result<bool>,
        mut queue: Option<&mut Queue>,
        memory: &Memory,
    ) -> Result<Assignment, EngineError> {
        let allocating = || EngineError::run("allocating the tensors of the micro-batches");
        let mut embeddings: Vec<Tensor<f32>> = Vec::new();
        while let Some(input) = spec.inputs.iter().find(|input| input.name == format!("micro/{}/embeddings", embeddings.len())) {
            embeddings.push(memory.zeros(&input.shape).map_err(allocating())?);
        }
        if embeddings.is_empty() {
            return Err(assign_step.contract("expected an input micro/0/embeddings, found none"));
        }
        let codes = || stock::named(step_inputs, |name| name == "codes" || name.starts_with("codes/"));
        let mut codes = embeddings.iter().map(|_| Tensors::zeros_in(memory, codes())).collect::<Result<Vec<_>, _>>()?;
        let mut stats = Tensors::zeros(stock::named(&spec.outputs, |name| name.starts_with("stats/")))?;

        assign_step.bind_inputs(|binding, name| {
            if let Some(tensor) = micro_batch(name).filter(|&(_, rest)| rest == "embeddings").and_then(|(micro, _)| embeddings.get(micro)) {
                return binding.bind_input(name, tensor).map(|()| true);
            }
            Ok(queue.as_ref().map_or(Ok(false), |queue| queue.bind_input(binding, name))? || bind_state(binding, name)?)
        })?;
        assign_step.bind_all_outputs(&spec.outputs, |binding, name| {
            if let Some((micro, codes_name)) = micro_batch(name) {
                return codes.get_mut(micro).map_or(Ok(false), |codes| codes.bind_output(binding, codes_name, name));
            }
            let of_queue = queue.as_mut().map_or(Ok(false), |queue| queue.bind_output(binding, name))?;
            Ok(of_queue || stats.bind_output(binding, name, name)?)
        })?;
        let assignment = Assignment { assign_step, embeddings, codes, stats };
        assignment.check_codes(spec)?;
        Ok(assignment)
    }

    /// Codes that are not written would be zeros unnoticed.
    fn check_codes(&self, spec: &GraphSpec) -> Result<(), EngineError> {
        for (micro, codes) in self.codes.iter().enumerate() {
            for (name, _) in codes.iter() {
                let name = format!("micro/{micro}/{name}");
                if !spec.outputs.iter().any(|output| output.name == name) {
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

    /// Where the embeddings of a micro-batch belong.
    pub(super) fn embeddings_mut(&mut self, micro: usize) -> &mut Tensor<f32> {
        &mut self.embeddings[micro]
    }

    /// Takes the embeddings of a micro-batch.
    ///
    /// # Errors
    /// A value of another type or size.
    pub(super) fn take_embeddings(&mut self, micro: usize, value: &DynValue) -> ort::Result<()> {
        let (expected, rows) = (dimensions(&self.embeddings[micro]), value.try_extract_tensor::<f32>()?.1);
        if rows.len() != expected.iter().product::<usize>() {
            return Err(ort::Error::new(format!("expected embeddings {expected:?}, got {} elements", rows.len())));
        }
        write(&mut self.embeddings[micro], rows)
    }

    /// Codes of all micro-batches, and the queue's next rows.
    pub(super) fn run(&mut self) -> Result<(), EngineError> {
        self.assign_step.run()
    }

    /// The codes of a micro-batch, under the names of the training step's inputs.
    pub(super) fn codes(&self, micro: usize) -> &Tensors {
        &self.codes[micro]
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
