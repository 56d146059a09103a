//! The loop of a run: batch, step, guards, metrics, checkpoint; at the end the encoder.

use std::fs::File;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use graphgen::artifacts::{self, EncoderOptions};
use graphgen::preset::Preset;

use super::checkpoint::{self, Later, Retention, Versions};
use super::files::replace;
use super::fit::{Outcome, Summary};
use super::guards::{Guards, Response, Strike, ln_k};
use super::observer::Observer;
use super::progress::Progress;
use super::saves::Saves;
use super::{Interrupt, MetricsLog, RunDirectory, StepMetrics, StopSignal, TrainError, Trainer};
use crate::data::{Batch, BatchStream, Loader};
use crate::session::BatchCrops;

/// How often a run that waits for data looks for requests to stop.
const POLL: Duration = Duration::from_millis(200);

/// The steps of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Course {
    pub(super) steps_per_epoch: u64,
    /// Where this process stops.
    pub(super) last_step: u64,
    /// Where the schedule ends.
    pub(super) total_steps: u64,
}

/// A run that is ready to take its next step.
pub(super) struct Training {
    pub(super) preset: Preset,
    pub(super) run: RunDirectory,
    pub(super) fingerprint: String,
    pub(super) loader: Loader,
    pub(super) trainer: Trainer,
    pub(super) guards: Guards,
    pub(super) observer: Observer,
    pub(super) log: MetricsLog,
    pub(super) course: Course,
    pub(super) saves: Saves,
    pub(super) interrupt: Interrupt,
    /// The last step's line.
    pub(super) last: Option<StepMetrics>,
    /// Held until the run ends.
    pub(super) _lock: File,
}

/// Why there are no more steps of a stream.
enum Ended {
    Finished,
    /// The run goes on from an earlier step.
    RolledBack,
    Stopped(StopSignal),
}

impl Training {
    /// Takes all steps, saves, and writes the encoder; or saves and stops where it is asked to.
    ///
    /// # Errors
    /// Whatever stops a run; its checkpoints stay.
    pub(super) fn run(mut self) -> Result<Summary, TrainError> {
        let stopped = self.take_steps()?;
        if self.saves.newest() != Some(self.trainer.steps_done()) {
            self.save()?;
        }
        self.log.sync()?;
        let outcome = match stopped {
            Some(signal) => Outcome::Stopped(signal),
            None => Outcome::Finished(self.write_encoder()?),
        };
        let strikes = &self.guards.state().strikes;
        if !strikes.is_empty() {
            tracing::warn!("guards that struck, and how often: {strikes:?}");
        }
        Ok(Summary { steps: self.trainer.steps_done(), total_steps: self.course.total_steps, last: self.last, outcome })
    }

    /// Takes steps up to the last one, or until the run is asked to stop: `Some` then.
    fn take_steps(&mut self) -> Result<Option<StopSignal>, TrainError> {
        if self.trainer.steps_done() == self.course.last_step {
            return Ok(None);
        }
        if self.guards.may_roll_back() && self.saves.newest().is_none() {
            self.save()?;
        }
        let mut progress = Progress::new(self.trainer.steps_done(), self.course.last_step, self.preset.train.epochs);
        let stopped = loop {
            let mut stream = self.stream();
            let ended = self.steps_of(&mut stream, &mut progress);
            // Its workers may hang in a read for a batch that nobody waits for.
            stream.abandon();
            match ended {
                Ok(Ended::RolledBack) => {}
                Ok(Ended::Finished) => break Ok(None),
                Ok(Ended::Stopped(signal)) => break Ok(Some(signal)),
                Err(error) => break Err(error),
            }
        };
        progress.finish();
        stopped
    }

    /// Takes the steps that a stream has batches for.
    fn steps_of(&mut self, stream: &mut BatchStream, progress: &mut Progress) -> Result<Ended, TrainError> {
        let mut began = Instant::now();
        let mut ahead = None;
        while self.trainer.steps_done() < self.course.last_step {
            let batch = match self.next_batch(stream, ahead.take())? {
                ControlFlow::Continue(batch) => batch,
                ControlFlow::Break(signal) => return Ok(Ended::Stopped(signal)),
            };
            ahead = self.batch_ahead(stream);
            let Some(mut metrics) = self.step(&batch, ahead.as_ref())? else { return Ok(Ended::RolledBack) };
            let now = Instant::now();
            let seconds = now.duration_since(std::mem::replace(&mut began, now)).as_secs_f64();
            metrics.images_per_sec = self.preset.train.batch_size as f64 / seconds;
            self.observer.step(&mut metrics, &self.trainer, &batch);
            // What is observed takes no training time.
            began = Instant::now();
            self.log.write(&metrics);
            progress.step(&metrics);
            self.last = Some(metrics);
            self.save_if_due();
        }
        Ok(Ended::Finished)
    }

    /// Batches from the next step on.
    fn stream(&self) -> BatchStream {
        let (step, steps_per_epoch) = (self.trainer.steps_done(), self.course.steps_per_epoch);
        self.loader.stream((step / steps_per_epoch) as usize, (step % steps_per_epoch) as usize)
    }

    /// The next batch, which may have been taken `ahead`, unless the run is asked to stop.
    fn next_batch(&mut self, stream: &mut BatchStream, mut ahead: Option<Batch>) -> Result<ControlFlow<StopSignal, Batch>, TrainError> {
        loop {
            if let Some(signal) = self.interrupt.stop_requested() {
                return Ok(ControlFlow::Break(signal));
            }
            let batch = if ahead.is_some() { ahead.take() } else { stream.next_within(POLL)? };
            if let Some(batch) = batch {
                self.guards.batch_came();
                return Ok(ControlFlow::Continue(batch));
            }
            self.guards.waited(stream.waiting().as_secs_f64())?;
        }
    }

    /// The batch of the step after the present one, if the engine copies it meanwhile and the loader has made it.
    fn batch_ahead(&self, stream: &mut BatchStream) -> Option<Batch> {
        let is_needed = self.trainer.steps_done() + 1 < self.course.last_step;
        if is_needed && self.trainer.engine().copies_ahead() { stream.next_if_ready() } else { None }
    }

    /// Takes a step and gives its line, whose speed is to be filled in; `None` if the run has gone back to an earlier step.
    fn step(&mut self, batch: &Batch, next: Option<&Batch>) -> Result<Option<StepMetrics>, TrainError> {
        let (groups, next_groups) = (batch.groups(), next.map(Batch::groups));
        let crops = BatchCrops { groups: &groups, number: Some(batch.number()) };
        let next_crops = next.zip(next_groups.as_deref()).map(|(next, groups)| BatchCrops { groups, number: Some(next.number()) });
        let mut report = self.trainer.forward(crops, next_crops)?;
        let mut skipped = false;
        match self.guards.judge(&report) {
            None => self.trainer.apply(&mut report)?,
            Some(Strike { response: Response::Skip, message }) => {
                tracing::warn!("{message}. The step's update is left out");
                self.trainer.skip()?;
                skipped = true;
            }
            Some(Strike { response: Response::RollBack { healthy_step }, message }) => {
                self.roll_back(healthy_step, message)?;
                return Ok(None);
            }
            Some(Strike { response: Response::Stop, message }) => return Err(TrainError::Unhealthy { message }),
        }
        let metrics = StepMetrics::new(&report, ln_k(&self.preset), f64::NAN, batch.waited().as_secs_f64());
        Ok(Some(StepMetrics { skipped, ..metrics }))
    }

    /// Goes back to the newest checkpoint of at most `healthy_step` steps; later ones are removed.
    fn roll_back(&mut self, healthy_step: u64, message: String) -> Result<(), TrainError> {
        let directory = self.run.checkpoints();
        let Some(checkpoint) = checkpoint::newest_up_to(&directory, healthy_step)? else {
            return Err(TrainError::Unhealthy { message: format!("{message}. There is no checkpoint from before to roll back to") });
        };
        let step = checkpoint.progress.step;
        self.trainer.go_back(&checkpoint)?;
        self.guards.roll_back_to(&checkpoint.progress.guards);
        let factor = self.guards.state().learning_rate_factor;
        self.trainer.set_learning_rate_factor(factor);
        tracing::warn!("{message}. The run goes back to step {step}, with {factor} of the schedule's learning rate");
        checkpoint::clean(&*self.saves.files, &directory, step, Later::Left)?;
        self.log = MetricsLog::open(&*self.saves.files, &self.run.metrics(), step)?;
        self.saves.go_back(step);
        self.observer.go_back(step);
        Ok(())
    }

    /// Saves if the preset, a signal or an earlier failure asks for it. A save that fails does not stop the run.
    fn save_if_due(&mut self) {
        let step = self.trainer.steps_done();
        let every = |interval: u64| interval > 0 && step.is_multiple_of(interval);
        let train = &self.preset.train;
        let by_preset = every(train.checkpoint_every_steps) || every((train.checkpoint_every_epochs as u64).saturating_mul(self.course.steps_per_epoch));
        let by_signal = self.interrupt.take_save_request();
        if by_preset || by_signal || self.saves.retry_is_due() {
            match self.save() {
                Ok(()) if by_signal => tracing::info!("saved after step {step}, as asked"),
                Ok(()) => {}
                Err(error) => self.saves.failed(&error),
            }
        }
    }

    fn save(&mut self) -> Result<(), TrainError> {
        // A checkpoint never is ahead of the lines.
        self.log.sync()?;
        let (step, steps_per_epoch) = (self.trainer.steps_done(), self.course.steps_per_epoch);
        let progress = checkpoint::Progress {
            step,
            epoch: step / steps_per_epoch,
            batch: step % steps_per_epoch,
            preset: self.preset.clone(),
            dataset_fingerprint: self.fingerprint.clone(),
            guards: self.guards.state().clone(),
            versions: Versions::current(),
        };
        let train = &self.preset.train;
        let every_steps = (train.keep_every as u64).saturating_mul(steps_per_epoch);
        let retention = Retention { last: train.keep_last, every_steps, healthy_step: self.guards.healthy_step(step) };
        self.saves.save(&progress, &self.trainer.engine().state()?, retention)
    }

    fn write_encoder(&self) -> Result<PathBuf, TrainError> {
        let encoder = artifacts::encoder(&self.preset, &self.trainer.engine().weights()?, &EncoderOptions::default())?;
        replace(&*self.saves.files, &self.run.encoder(), &encoder)?;
        Ok(self.run.encoder())
    }
}

#[cfg(test)]
#[path = "training_tests.rs"]
mod tests;
