//! One training step, in the order of the official code.

use std::collections::BTreeMap;

use graphgen::methods::loss_scaling::SMALLEST_SCALE;
use graphgen::preset::{GuardAction, Preset};
use graphgen::weights::Weights;

use super::checkpoint::Checkpoint;
use super::{LearningRate, TrainError};
use crate::session::{BatchCrops, Engine};

/// What a step did.
#[derive(Debug, Clone, PartialEq)]
pub struct StepReport {
    /// Step, from 0.
    pub step: u64,
    /// Epoch, from 0.
    pub epoch: u64,
    /// Learning rate of the step.
    pub learning_rate: f64,
    /// Swapped prediction loss, before the update.
    pub loss: f32,
    /// Scalars of the graph: `code_entropy`, `live_prototypes`, `feature_std`, `grad_norm`; in mixed precision also the
    /// step's `loss_scale` and the run's `skipped_steps`.
    pub stats: BTreeMap<String, f32>,
    /// Whether gradients overflowed in mixed precision: the optimizer leaves the step out then.
    pub overflowed: bool,
    /// Rows of the queue that hold embeddings, and its length; `None` without a queue.
    pub queue: Option<(i64, usize)>,
}

/// Counts steps and decides what each of them does; the engine does it.
pub struct Trainer {
    engine: Box<dyn Engine>,
    schedule: LearningRate,
    learning_rate_factor: f64,
    steps_per_epoch: u64,
    frozen_steps: u64,
    queue_starts: u64,
    step: u64,
    /// Whether steps may be left out: running statistics from before the step are kept for that.
    may_skip: bool,
    statistics: Weights,
}

impl Trainer {
    /// A trainer that goes on after `step` steps; the engine holds the state of that moment.
    pub fn new(engine: Box<dyn Engine>, preset: &Preset, steps_per_epoch: u64, step: u64) -> Trainer {
        Trainer {
            engine,
            schedule: LearningRate::new(&preset.optim, steps_per_epoch, preset.train.epochs),
            learning_rate_factor: 1.0,
            steps_per_epoch,
            frozen_steps: preset.optim.freeze_prototypes_niters,
            queue_starts: preset.loss.epoch_queue_starts as u64,
            step,
            may_skip: preset.guards.not_finite == GuardAction::Skip,
            statistics: Weights::new(),
        }
    }

    /// Steps done.
    pub fn steps_done(&self) -> u64 {
        self.step
    }

    /// The engine, for its state.
    pub fn engine(&self) -> &dyn Engine {
        &*self.engine
    }

    /// Multiplies the schedule's learning rates from now on.
    pub fn set_learning_rate_factor(&mut self, factor: f64) {
        self.learning_rate_factor = factor;
    }

    /// Goes on from a checkpoint.
    ///
    /// # Errors
    /// State of another network, optimizer or queue.
    pub fn go_back(&mut self, checkpoint: &Checkpoint) -> Result<(), TrainError> {
        checkpoint.restore(&mut *self.engine)?;
        self.step = checkpoint.progress.step;
        Ok(())
    }

    /// The first half of a step: loss and gradients of one batch. `next`: the batch of the step after it, where it is known
    /// and the engine [copies ahead](Engine::copies_ahead). [`apply`](Self::apply) or [`skip`](Self::skip) next; the report's
    /// queue is that before the step.
    ///
    /// # Errors
    /// Whatever the engine reports.
    pub fn forward(&mut self, batch: BatchCrops<'_>, next: Option<BatchCrops<'_>>) -> Result<StepReport, TrainError> {
        let (step, epoch) = (self.step, self.step / self.steps_per_epoch);
        if self.may_skip {
            self.statistics = self.engine.running_statistics()?;
        }

        // 1. The learning rate of this step.
        let learning_rate = self.schedule.at(step) * self.learning_rate_factor;

        // 2. to 5. and the backward pass of 6. are the engine's: normalised prototypes, forward, codes, loss, gradients;
        // with several micro-batches, the mean of their gradients.
        let output = self.engine.forward_backward_with_next(batch, next)?;
        let (loss, mut stats) = (output.loss, output.stats);
        // In mixed precision an overflow is no error: the optimizer leaves the step out and lowers the loss scale.
        let scaling = self.engine.loss_scaling()?;
        let overflowed = output.overflowed && scaling.is_some_and(|scaling| f64::from(scaling.scale) > SMALLEST_SCALE);
        if let Some(scaling) = scaling {
            stats.insert("loss_scale".into(), scaling.scale);
            stats.insert("skipped_steps".into(), scaling.skipped_steps + f32::from(u8::from(output.overflowed)));
        }
        Ok(StepReport { step, epoch, learning_rate, loss, stats, overflowed, queue: self.engine.queue_filled() })
    }

    /// The second half of a step: the update; the report's queue becomes that after the step.
    ///
    /// # Errors
    /// Whatever the engine reports.
    pub fn apply(&mut self, report: &mut StepReport) -> Result<(), TrainError> {
        // The queue shifts in the forward pass; before its first epoch there is none yet, and its rows are dropped.
        if report.epoch >= self.queue_starts && !report.overflowed {
            self.engine.advance_queue()?;
        }

        // 6. The prototypes stay as they are at first.
        let train_prototypes = report.step >= self.frozen_steps;

        // 7. The optimizer.
        self.engine.update(report.learning_rate as f32, train_prototypes)?;

        self.step += 1;
        report.queue = self.engine.queue_filled();
        Ok(())
    }

    /// In place of the second half: the step counts, but leaves parameters, running statistics, momentum and queue as they
    /// were before it. Only for a preset whose `guards.not_finite` is `skip`.
    ///
    /// # Errors
    /// Whatever the engine reports.
    pub fn skip(&mut self) -> Result<(), TrainError> {
        self.engine.load_running_statistics(&self.statistics)?;
        self.step += 1;
        Ok(())
    }
}
