//! The queue of embeddings in an engine.

use graphgen::manifest::GraphSpec;
use ort::session::IoBinding;
use ort::value::Tensor;

use super::state::{EngineError, HostInput, Memory, QueueState, copy, dimensions, write, zeros};

/// The queue's current rows, and those that the last step would go on with.
pub(super) struct Queue {
    embeddings: Tensor<f32>,
    filled: HostInput<i64>,
    next_embeddings: Tensor<f32>,
    next_filled: Tensor<i64>,
}

impl Queue {
    /// The empty queue of a graph; `None` for a graph without one.
    pub(super) fn of(graph: &GraphSpec, memory: &Memory) -> ort::Result<Option<Queue>> {
        let Some(input) = graph.inputs.iter().find(|input| input.name == "queue/embeddings") else { return Ok(None) };
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

    pub(super) fn state(&self) -> Result<QueueState, EngineError> {
        let embeddings = copy(&self.embeddings).map_err(EngineError::run("reading the queue"))?;
        Ok(QueueState { embeddings, filled: self.filled.data()[0] })
    }

    /// Overwrites the queue.
    ///
    /// # Errors
    /// A queue of another shape.
    pub(super) fn load(&mut self, state: &QueueState) -> Result<(), EngineError> {
        if dimensions(&self.embeddings) != state.embeddings.shape {
            let problem = format!("expected shape {:?}, got {:?}", dimensions(&self.embeddings), state.embeddings.shape);
            return Err(EngineError::State { name: "queue".into(), problem });
        }
        write(&mut self.embeddings, &state.embeddings.data).map_err(EngineError::run("writing the queue"))?;
        self.filled.write(&[state.filled]).map_err(EngineError::run("writing the queue"))
    }
}
