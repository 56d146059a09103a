//! Steps over several micro-batches with the training API: EvalStep embeds each of them, and an ordinary session of the same
//! library assigns the codes of all.

use graphgen::artifacts::ASSIGN_STEP_FILE;
use graphgen::manifest::AccumulationSpec;
use ort::training::Trainer;
use ort::value::Tensor;

use super::ffi::{self, AnyTensor, Step};
use super::{Source, read};
use crate::session::EngineError;
use crate::session::assignment::Assignment;
use crate::session::bound::Bound;
use crate::session::queue::Queue;
use crate::session::state::{Memory, Tensors};
use crate::session::stock::named;

/// What comes before the backward passes.
pub(super) struct MicroBatches {
    assignment: Assignment,
    /// Copies of the parameters that the assignment reads: the training API lends none.
    prototypes: Tensors,
    /// Outputs of `embed_step.onnx`.
    outputs: Vec<String>,
}

impl MicroBatches {
    /// Loads `assign_step.onnx`; `embed_step.onnx` is the training session's.
    ///
    /// # Errors
    /// A graph that ONNX Runtime does not accept, or whose inputs and outputs are not those of the contract.
    pub(super) fn open(source: &Source, assign_step: &[u8], spec: &AccumulationSpec, queue: Option<&mut Queue>) -> Result<MicroBatches, EngineError> {
        let session = source.options.open_bytes(&source.environment, assign_step);
        let session = session.map_err(|error| EngineError::Graph { file: source.file(ASSIGN_STEP_FILE), source: error })?;
        let assign_step = Bound::of(ASSIGN_STEP_FILE, session, &source.options)?;
        let names = source.manifest.preset.model.nmb_prototypes.parameter_names();
        let prototypes = Tensors::zeros(named(&source.manifest.parameters, |name| names.iter().any(|prototypes| prototypes == name)))?;
        let bind_state = |binding: &mut _, name: &str| prototypes.bind_input(binding, name, name);
        let assignment = Assignment::new(assign_step, &spec.assign_step, &source.spec.inputs, bind_state, queue, &Memory::Host)?;
        Ok(MicroBatches { assignment, prototypes, outputs: spec.embed_step.outputs.iter().map(|output| output.name.clone()).collect() })
    }

    /// N: micro-batches of a step.
    pub(super) fn count(&self) -> usize {
        self.assignment.count()
    }

    /// Embeds a micro-batch.
    pub(super) fn embed(&mut self, trainer: &mut Trainer, micro: usize, crops: &[Tensor<u8>]) -> Result<(), EngineError> {
        let crops: Vec<AnyTensor<'_>> = crops.iter().map(|crops| crops as AnyTensor<'_>).collect();
        let mut embed = || {
            let values = ffi::run_step(trainer, Step::Eval, &crops, self.outputs.len())?;
            let embeddings = self.outputs.iter().zip(&values).find(|(name, _)| *name == "embeddings");
            let (_, embeddings) = embeddings.ok_or_else(|| ort::Error::new("expected an output embeddings, found none"))?;
            self.assignment.take_embeddings(micro, embeddings)
        };
        embed().map_err(EngineError::run("embedding a micro-batch"))
    }

    /// Codes of all micro-batches, and the queue's next rows.
    pub(super) fn assign(&mut self, source: &Source, trainer: &Trainer) -> Result<(), EngineError> {
        let prototypes = source.manifest.parameters.iter().filter(|spec| self.prototypes.contains(&spec.name));
        let prototypes = prototypes.map(|spec| read(trainer, spec)).collect::<Result<_, _>>()?;
        self.prototypes.load(&prototypes)?;
        self.assignment.run()
    }

    /// The codes of a micro-batch, under the names of TrainStep's inputs.
    pub(super) fn codes(&self, micro: usize) -> &Tensors {
        self.assignment.codes(micro)
    }

    /// The scalars `stats/…` over all micro-batches.
    pub(super) fn stats(&self) -> &Tensors {
        self.assignment.stats()
    }
}
