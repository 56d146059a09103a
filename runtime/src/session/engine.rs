//! What a training run needs of whatever computes its steps.

use graphgen::weights::Weights;

use super::{BatchCrops, EngineError, EngineState, LossScaling, OptimizerState, QueueState, StepOutput, StockEngine};

/// Which engine runs the graphs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum EngineKind {
    /// Any ONNX Runtime
    #[default]
    Stock,
    /// ONNX Runtime's training API, which needs a training build
    TrainingApi,
}

/// Computes steps and holds their state. The state is the same for all engines: what one gives another takes.
pub trait Engine {
    /// Forward, codes, loss and backward of one batch; running statistics move on, parameters and queue do not, except
    /// that prototypes may be normalised.
    ///
    /// `crops`: u8 [N·count·B, 3, S, S], one slice for each group of adjacent crops of equal size: micro-batch after
    /// micro-batch, each of them crop-major. N is 1 without accumulation.
    ///
    /// # Errors
    /// Slices of the wrong size, and whatever ONNX Runtime reports.
    fn forward_backward(&mut self, crops: &[&[u8]]) -> Result<StepOutput, EngineError>;

    /// Whether [`forward_backward_with_next`](Self::forward_backward_with_next) copies the next batch's crops.
    fn copies_ahead(&self) -> bool {
        false
    }

    /// [`forward_backward`](Self::forward_backward) of a batch. An engine that [copies ahead](Self::copies_ahead) copies crops
    /// of the `next` one meanwhile; a later step knows them by the batch's number. Whichever batch that step has, it has its
    /// own crops.
    ///
    /// # Errors
    /// As [`forward_backward`](Self::forward_backward), and whatever is wrong with the next batch or its copy.
    fn forward_backward_with_next(&mut self, batch: BatchCrops<'_>, _next: Option<BatchCrops<'_>>) -> Result<StepOutput, EngineError> {
        self.forward_backward(batch.groups)
    }

    /// Takes the embeddings of the last step into the queue; until it is called they are not in it.
    ///
    /// # Errors
    /// Whatever ONNX Runtime reports.
    fn advance_queue(&mut self) -> Result<(), EngineError>;

    /// Updates parameters and optimizer state from the gradients of the last [`forward_backward`](Self::forward_backward).
    /// Without `train_prototypes`, the prototypes and their state stay.
    ///
    /// # Errors
    /// Whatever ONNX Runtime reports.
    fn update(&mut self, learning_rate: f32, train_prototypes: bool) -> Result<(), EngineError>;

    /// Rows of the queue that hold embeddings, and its length; `None` without a queue.
    fn queue_filled(&self) -> Option<(i64, usize)>;

    /// Parameters and running statistics.
    ///
    /// # Errors
    /// Whatever ONNX Runtime reports.
    fn weights(&self) -> Result<Weights, EngineError>;

    /// Overwrites parameters and running statistics; `…num_batches_tracked` is ignored.
    ///
    /// # Errors
    /// Missing and unknown names and other shapes; nothing changes then.
    fn load_weights(&mut self, weights: &Weights) -> Result<(), EngineError>;

    /// Running statistics.
    ///
    /// # Errors
    /// Whatever ONNX Runtime reports.
    fn running_statistics(&self) -> Result<Weights, EngineError>;

    /// Overwrites the running statistics.
    ///
    /// # Errors
    /// Missing names and other shapes; nothing changes then.
    fn load_running_statistics(&mut self, statistics: &Weights) -> Result<(), EngineError>;

    /// All of the state that outlives a step, to be read tensor by tensor where it lies.
    ///
    /// # Errors
    /// Whatever ONNX Runtime reports.
    fn state(&self) -> Result<EngineState<'_>, EngineError>;

    /// A copy of momentum and the like.
    ///
    /// # Errors
    /// Whatever ONNX Runtime reports.
    fn optimizer_state(&self) -> Result<OptimizerState, EngineError> {
        self.state()?.optimizer_state()
    }

    /// Overwrites the optimizer's state, to go on after `updates` updates.
    ///
    /// # Errors
    /// The state of another network or optimizer; nothing changes then.
    fn load_optimizer_state(&mut self, state: &OptimizerState, updates: u64) -> Result<(), EngineError>;

    /// A copy of the queue; `None` without one.
    ///
    /// # Errors
    /// Whatever ONNX Runtime reports.
    fn queue_state(&self) -> Result<Option<QueueState>, EngineError> {
        self.state()?.queue_state()
    }

    /// Loss scale and skipped steps; `None` in f32.
    ///
    /// # Errors
    /// Whatever ONNX Runtime reports.
    fn loss_scaling(&self) -> Result<Option<LossScaling>, EngineError>;

    /// Overwrites the queue.
    ///
    /// # Errors
    /// A queue of another shape, or one where there should be none.
    fn load_queue(&mut self, state: Option<&QueueState>) -> Result<(), EngineError>;
}

impl Engine for StockEngine {
    fn forward_backward(&mut self, crops: &[&[u8]]) -> Result<StepOutput, EngineError> {
        self.forward_backward(crops)
    }

    fn copies_ahead(&self) -> bool {
        self.copies_ahead()
    }

    fn forward_backward_with_next(&mut self, batch: BatchCrops<'_>, next: Option<BatchCrops<'_>>) -> Result<StepOutput, EngineError> {
        self.forward_backward_with_next(batch, next)
    }

    fn advance_queue(&mut self) -> Result<(), EngineError> {
        self.advance_queue()
    }

    fn update(&mut self, learning_rate: f32, train_prototypes: bool) -> Result<(), EngineError> {
        self.update(learning_rate, train_prototypes)
    }

    fn queue_filled(&self) -> Option<(i64, usize)> {
        self.queue_filled()
    }

    fn weights(&self) -> Result<Weights, EngineError> {
        self.weights()
    }

    fn load_weights(&mut self, weights: &Weights) -> Result<(), EngineError> {
        self.load_weights(weights)
    }

    fn running_statistics(&self) -> Result<Weights, EngineError> {
        self.running_statistics()
    }

    fn load_running_statistics(&mut self, statistics: &Weights) -> Result<(), EngineError> {
        self.load_running_statistics(statistics)
    }

    fn state(&self) -> Result<EngineState<'_>, EngineError> {
        self.state()
    }

    fn load_optimizer_state(&mut self, state: &OptimizerState, _updates: u64) -> Result<(), EngineError> {
        self.load_optimizer_state(state)
    }

    fn loss_scaling(&self) -> Result<Option<LossScaling>, EngineError> {
        self.loss_scaling()
    }

    fn load_queue(&mut self, state: Option<&QueueState>) -> Result<(), EngineError> {
        self.load_queue(state)
    }
}
