//! One training step, in the order of the official code.

use std::collections::BTreeMap;

use graphgen::methods::loss_scaling::SMALLEST_SCALE;
use graphgen::preset::Preset;

use super::{LearningRate, TrainError};
use crate::session::Engine;

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
    /// Rows of the queue that hold embeddings, and its length; `None` without a queue.
    pub queue: Option<(i64, usize)>,
}

/// Counts steps and decides what each of them does; the engine does it.
pub struct Trainer {
    engine: Box<dyn Engine>,
    schedule: LearningRate,
    steps_per_epoch: u64,
    frozen_steps: u64,
    queue_starts: u64,
    step: u64,
}

impl Trainer {
    /// A trainer that goes on after `step` steps; the engine holds the state of that moment.
    pub fn new(engine: Box<dyn Engine>, preset: &Preset, steps_per_epoch: u64, step: u64) -> Trainer {
        Trainer {
            engine,
            schedule: LearningRate::new(&preset.optim, steps_per_epoch, preset.train.epochs),
            steps_per_epoch,
            frozen_steps: preset.optim.freeze_prototypes_niters,
            queue_starts: preset.loss.epoch_queue_starts as u64,
            step,
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

    /// Trains on one batch: u8 [N·count·B, 3, S, S] for each group of adjacent crops of equal size, micro-batch after
    /// micro-batch, each of them crop-major.
    ///
    /// # Errors
    /// A loss or gradient that is not finite, with the state as it was before the step except for running statistics;
    /// and whatever the engine reports.
    pub fn step(&mut self, crops: &[&[u8]]) -> Result<StepReport, TrainError> {
        let (step, epoch) = (self.step, self.step / self.steps_per_epoch);

        // 1. The learning rate of this step.
        let learning_rate = self.schedule.at(step);

        // 2. to 5. and the backward pass of 6. are the engine's: normalised prototypes, forward, codes, loss, gradients;
        // with several micro-batches, the mean of their gradients.
        let output = self.engine.forward_backward(crops)?;
        let (loss, mut stats, overflowed) = (output.loss, output.stats, output.overflowed);
        // In mixed precision an overflow is no error: the optimizer skips the step and lowers the loss scale.
        let scaling = self.engine.loss_scaling()?;
        if !overflowed || scaling.is_none_or(|scaling| f64::from(scaling.scale) <= SMALLEST_SCALE) {
            check_finite(step, &loss, &stats)?;
        }
        if let Some(scaling) = scaling {
            stats.insert("loss_scale".into(), scaling.scale);
            stats.insert("skipped_steps".into(), scaling.skipped_steps + f32::from(u8::from(overflowed)));
        }

        // The queue shifts in the forward pass; before its first epoch there is none yet, and its rows are dropped.
        if epoch >= self.queue_starts && !overflowed {
            self.engine.advance_queue()?;
        }

        // 6. The prototypes stay as they are at first.
        let train_prototypes = step >= self.frozen_steps;

        // 7. The optimizer.
        self.engine.update(learning_rate as f32, train_prototypes)?;

        self.step += 1;
        Ok(StepReport { step, epoch, learning_rate, loss, stats, queue: self.engine.queue_filled() })
    }
}

fn check_finite(step: u64, loss: &f32, stats: &BTreeMap<String, f32>) -> Result<(), TrainError> {
    let grad_norm = stats.get("grad_norm");
    for (name, value) in std::iter::once(("loss", loss)).chain(grad_norm.map(|norm| ("gradient norm", norm))) {
        if !value.is_finite() {
            return Err(TrainError::NotFinite { name, value: *value, step });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_or_gradient_that_is_not_finite_names_the_step_and_the_cause() {
        let stats = |norm| BTreeMap::from([("grad_norm".to_owned(), norm)]);
        check_finite(0, &8.0, &stats(1.0)).expect("finite");
        let error = check_finite(41, &f32::NAN, &stats(1.0)).expect_err("NaN").to_string();
        assert!(error.contains("step 41") && error.contains("optim.base_lr"), "{error}");
        assert!(check_finite(0, &8.0, &stats(f32::INFINITY)).is_err());
    }
}
