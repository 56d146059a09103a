//! The queue of embeddings in an engine.

use graphgen::manifest::TensorSpec;
use ort::session::IoBinding;
use ort::value::{DynValue, Tensor};

use super::engine_state::{NamedTensor, QueueView};
use super::state::{EngineError, HostInput, Memory, QueueState, dimensions, write, zeros};

/// The queue's current rows, and those that the last step would go on with.
pub(super) struct Queue {
    embeddings: Tensor<f32>,
    filled: HostInput<i64>,
    next_embeddings: Tensor<f32>,
    next_filled: Tensor<i64>,
}

impl Queue {
    /// The empty queue of a graph with these inputs; `None` for a graph without one.
    pub(super) fn of(inputs: &[TensorSpec], memory: &Memory) -> ort::Result<Option<Queue>> {
        let Some(input) = inputs.iter().find(|input| input.name == "queue/embeddings") else { return Ok(None) };
        let (embeddings, next_embeddings) = (memory.zeros(&input.shape)?, memory.zeros(&input.shape)?);
        Ok(Some(Queue { embeddings, filled: HostInput::zeros(memory, &[1])?, next_embeddings, next_filled: zeros(&[1])? }))
    }

    /// Binds a graph input; `false` if it is none of the queue's.
    pub(super) fn bind_input(&self, binding: &mut IoBinding, name: &str) -> ort::Result<bool> {
        match name {
            "queue/embeddings" => binding.bind_input(name, &self.embeddings)?,
            "queue/filled" => return self.filled.bind(binding, name),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Binds a graph output; `false` if it is none of the queue's.
    pub(super) fn bind_output(&mut self, binding: &mut IoBinding, name: &str) -> ort::Result<bool> {
        match name {
            "next/queue/embeddings" => binding.bind_output(name, &mut self.next_embeddings)?,
            "next/queue/filled" => binding.bind_output(name, &mut self.next_filled)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The input `queue/embeddings`.
    pub(super) fn embeddings(&self) -> &Tensor<f32> {
        &self.embeddings
    }

    /// The input `queue/filled`.
    pub(super) fn filled_rows(&self) -> &Tensor<i64> {
        self.filled.tensor()
    }

    /// Copies a graph output that is the queue's; others are passed over.
    pub(super) fn take_output(&mut self, name: &str, value: &DynValue) -> ort::Result<()> {
        match name {
            "next/queue/embeddings" => self.next_embeddings.extract_tensor_mut().1.copy_from_slice(value.try_extract_tensor::<f32>()?.1),
            "next/queue/filled" => self.next_filled.extract_tensor_mut().1.copy_from_slice(value.try_extract_tensor::<i64>()?.1),
            _ => {}
        }
        Ok(())
    }

    /// Goes on with the rows of the last step.
    pub(super) fn advance(&mut self) -> Result<(), EngineError> {
        if self.embeddings.memory_info().is_cpu_accessible() {
            self.embeddings.extract_tensor_mut().1.copy_from_slice(self.next_embeddings.extract_tensor().1);
        } else {
            self.next_embeddings.copy_into(&mut self.embeddings).map_err(EngineError::run("advancing the queue"))?;
        }
        self.filled.write(self.next_filled.extract_tensor().1).map_err(EngineError::run("advancing the queue"))
    }

    /// Rows that hold embeddings, and the length.
    pub(super) fn filled(&self) -> (i64, usize) {
        (self.filled.data()[0], dimensions(&self.embeddings).get(1).copied().unwrap_or(0))
    }

    /// The current rows, where they lie.
    pub(super) fn view(&self) -> QueueView<'_> {
        QueueView { embeddings: Box::new(NamedTensor { name: "queue/embeddings", tensor: &self.embeddings }), filled: self.filled.data()[0] }
    }

    /// Overwrites an engine's queue, if it has one.
    ///
    /// # Errors
    /// A queue of another shape, or one where there should be none.
    pub(super) fn load_into(queue: Option<&mut Queue>, state: Option<&QueueState>) -> Result<(), EngineError> {
        let mismatch = |problem: &str| Err(EngineError::State { name: "queue".into(), problem: problem.into() });
        match (queue, state) {
            (None, None) => Ok(()),
            (Some(queue), Some(state)) => queue.load(state),
            (Some(_), None) => mismatch("missing in what is being loaded"),
            (None, Some(_)) => mismatch("the preset has none"),
        }
    }

    /// Overwrites the queue.
    ///
    /// # Errors
    /// A queue of another shape.
    fn load(&mut self, state: &QueueState) -> Result<(), EngineError> {
        if dimensions(&self.embeddings) != state.embeddings.shape {
            let problem = format!("expected shape {:?}, got {:?}", dimensions(&self.embeddings), state.embeddings.shape);
            return Err(EngineError::State { name: "queue".into(), problem });
        }
        write(&mut self.embeddings, &state.embeddings.data).map_err(EngineError::run("writing the queue"))?;
        self.filled.write(&[state.filled]).map_err(EngineError::run("writing the queue"))
    }
}
