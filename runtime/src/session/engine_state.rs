//! An engine's state, to be read tensor by tensor: a save needs no copy of it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use graphgen::weights::{WeightTensor, Weights};
use ort::value::Tensor;

use super::state::{EngineError, OptimizerState, QueueState, dimensions, elements};

/// An f32 tensor of the state, wherever it lies.
pub trait StateTensor {
    /// Dimensions.
    fn shape(&self) -> Vec<usize>;

    /// The elements, row-major; a copy of them only if they are not in the host's memory.
    ///
    /// # Errors
    /// Whatever ONNX Runtime reports.
    fn read(&self) -> Result<Cow<'_, [f32]>, EngineError>;
}

impl StateTensor for WeightTensor {
    fn shape(&self) -> Vec<usize> {
        self.shape.clone()
    }

    fn read(&self) -> Result<Cow<'_, [f32]>, EngineError> {
        Ok(Cow::Borrowed(&self.data))
    }
}

/// A tensor of ONNX Runtime, with the name that it goes by in messages.
pub(super) struct NamedTensor<'a> {
    pub(super) name: &'a str,
    pub(super) tensor: &'a Tensor<f32>,
}

impl StateTensor for NamedTensor<'_> {
    fn shape(&self) -> Vec<usize> {
        dimensions(self.tensor)
    }

    fn read(&self) -> Result<Cow<'_, [f32]>, EngineError> {
        elements(self.tensor).map_err(EngineError::run(format!("reading {}", self.name)))
    }
}

impl<T: StateTensor + ?Sized> StateTensor for &T {
    fn shape(&self) -> Vec<usize> {
        (**self).shape()
    }

    fn read(&self) -> Result<Cow<'_, [f32]>, EngineError> {
        (**self).read()
    }
}

/// Tensors of the state by name.
pub type StateTensors<'a> = BTreeMap<String, Box<dyn StateTensor + 'a>>;

/// All of an engine's state that outlives a step.
pub struct EngineState<'a> {
    /// Parameters and running statistics.
    pub weights: StateTensors<'a>,
    /// `momentum/<parameter>` and the like; in mixed precision also `loss_scaling/…`.
    pub moments: StateTensors<'a>,
    /// Updates made; Adam and AdamW only.
    pub step: Option<i64>,
    /// The queue, if there is one.
    pub queue: Option<QueueView<'a>>,
}

/// The queue of an engine.
pub struct QueueView<'a> {
    /// f32 [A, L, D]: newest embeddings first.
    pub embeddings: Box<dyn StateTensor + 'a>,
    /// Rows that hold embeddings, 0…L.
    pub filled: i64,
}

impl EngineState<'_> {
    /// A copy of momentum and the like.
    ///
    /// # Errors
    /// Whatever ONNX Runtime reports.
    pub fn optimizer_state(&self) -> Result<OptimizerState, EngineError> {
        let moments = self.moments.iter().map(|(name, tensor)| Ok((name.clone(), copy(&**tensor)?)));
        Ok(OptimizerState { moments: moments.collect::<Result<Weights, EngineError>>()?, step: self.step })
    }

    /// A copy of the queue.
    ///
    /// # Errors
    /// Whatever ONNX Runtime reports.
    pub fn queue_state(&self) -> Result<Option<QueueState>, EngineError> {
        let copy = |queue: &QueueView<'_>| Ok(QueueState { embeddings: copy(&*queue.embeddings)?, filled: queue.filled });
        self.queue.as_ref().map(copy).transpose()
    }
}

fn copy(tensor: &dyn StateTensor) -> Result<WeightTensor, EngineError> {
    Ok(WeightTensor { shape: tensor.shape(), data: tensor.read()?.into_owned() })
}

/// Weights as tensors of a state.
pub(crate) fn state_of(weights: &Weights) -> StateTensors<'_> {
    weights.iter().map(|(name, tensor)| (name.clone(), Box::new(tensor) as Box<dyn StateTensor>)).collect()
}
