//! The loop of a run: batch, step, metrics, checkpoint; at the end the encoder.

use std::fs::File;
use std::time::Instant;

use graphgen::artifacts::{self, EncoderOptions};
use graphgen::preset::Preset;
use graphgen::weights::write_atomically;

use super::checkpoint::{self, Checkpoint};
use super::fit::Summary;
use super::progress::Progress;
use super::{MetricsLog, RunDirectory, StepMetrics, TrainError, Trainer};
use crate::data::{BatchStream, Loader};

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
    pub(super) log: MetricsLog,
    pub(super) course: Course,
    /// Step of the newest checkpoint.
    pub(super) saved: Option<u64>,
    /// The last step's line.
    pub(super) last: Option<StepMetrics>,
    /// Held until the run ends.
    pub(super) _lock: File,
}

impl Training {
    /// Takes all steps, saves, and writes the encoder.
    ///
    /// # Errors
    /// Whatever stops a run; its checkpoints stay.
    pub(super) fn run(mut self) -> Result<Summary, TrainError> {
        if self.trainer.steps_done() < self.course.last_step {
            self.take_steps()?;
        }
        if self.saved != Some(self.trainer.steps_done()) {
            self.save()?;
        }
        let encoder = artifacts::encoder(&self.preset, &self.trainer.engine().weights()?, &EncoderOptions::default())?;
        write_atomically(&self.run.encoder(), &encoder)?;
        Ok(Summary { steps: self.trainer.steps_done(), total_steps: self.course.total_steps, last: self.last, encoder: self.run.encoder() })
    }

    fn take_steps(&mut self) -> Result<(), TrainError> {
        let groups = self.preset.crops.groups().len();
        let heads = self.preset.model.nmb_prototypes.counts();
        let ln_k = heads.iter().map(|&count| (count as f64).ln()).sum::<f64>() / heads.len() as f64;

        let mut stream = self.stream();
        let mut progress = Progress::new(self.trainer.steps_done(), self.course.last_step, self.preset.train.epochs);
        let mut ended = Instant::now();
        while self.trainer.steps_done() < self.course.last_step {
            let batch = stream.next()?;
            let crops: Vec<&[u8]> = (0..groups).map(|group| batch.crops(group)).collect();
            let report = self.trainer.step(&crops)?;
            let now = Instant::now();
            let seconds = now.duration_since(std::mem::replace(&mut ended, now)).as_secs_f64();
            let metrics = StepMetrics::new(&report, ln_k, self.preset.train.batch_size as f64 / seconds, batch.waited().as_secs_f64());
            self.log.write(&metrics)?;
            progress.step(&metrics);
            self.last = Some(metrics);
            if self.is_due() {
                self.save()?;
            }
        }
        progress.finish();
        Ok(())
    }

    /// Batches from the next step on.
    fn stream(&self) -> BatchStream {
        let (step, steps_per_epoch) = (self.trainer.steps_done(), self.course.steps_per_epoch);
        self.loader.stream((step / steps_per_epoch) as usize, (step % steps_per_epoch) as usize)
    }

    /// Whether the preset asks for a checkpoint after this step.
    fn is_due(&self) -> bool {
        let every = |interval: u64| interval > 0 && self.trainer.steps_done().is_multiple_of(interval);
        let train = &self.preset.train;
        every(train.checkpoint_every_steps) || every(train.checkpoint_every_epochs as u64 * self.course.steps_per_epoch)
    }

    fn save(&mut self) -> Result<(), TrainError> {
        let step = self.trainer.steps_done();
        let progress = checkpoint::Progress {
            step,
            epoch: step / self.course.steps_per_epoch,
            preset: self.preset.clone(),
            dataset_fingerprint: self.fingerprint.clone(),
        };
        Checkpoint::of(self.trainer.engine(), progress)?.save(&self.run.checkpoints())?;
        self.saved = Some(step);
        Ok(())
    }
}
