//! What is noted beside the training itself: where it runs, the crops of its first step, probes, TensorBoard's events.

use graphgen::preset::Preset;
use graphgen::weights::write_atomically;
use ort::environment::Environment;
use serde_json::json;

use super::crop_grid::crop_grid;
use super::tensorboard::EventFile;
use super::{Probe, RunDirectory, StepMetrics, TrainError, TrainOptions, Trainer};
use crate::data::{Batch, Dataset};
use crate::session::ProviderOptions;

/// Looks at every step.
pub(super) struct Observer {
    environment: Environment,
    preset: Preset,
    run: RunDirectory,
    steps_per_epoch: u64,
    probe: Option<Probe>,
    events: Option<EventFile>,
    crops_noted: bool,
}

impl Observer {
    /// Notes where the run takes place. `step` is the number of steps before this start.
    pub(super) fn start(
        environment: &Environment,
        options: &TrainOptions,
        run: &RunDirectory,
        dataset: &Dataset,
        probe: Option<Probe>,
        (steps_per_epoch, step): (u64, u64),
    ) -> Result<Observer, TrainError> {
        // JSON is text, and a path may be none.
        let paths: Vec<_> = options.data.iter().map(|path| path.to_string_lossy()).collect();
        let provider = ProviderOptions::of(options.source.preset()).describe();
        tracing::info!("training on {provider}");
        let note = json!({
            "provider": provider,
            "program": concat!("swav-rt ", env!("CARGO_PKG_VERSION")),
            "onnxruntime": ort::info(),
            "machine": crate::machine::Machine::read(),
            "threads": options.threads,
            "data": { "paths": paths, "images": dataset.len(), "classes": dataset.class_names().len() },
        });
        write_atomically(&run.environment(), &serde_json::to_vec_pretty(&note).expect("a note has only JSON types"))?;
        let events = if options.tensorboard { Some(EventFile::create(&run.tensorboard(), step)?) } else { None };
        let crops_noted = step > 0 && run.crops().exists();
        let (environment, preset, run) = (environment.clone(), options.source.preset().clone(), run.clone());
        Ok(Observer { environment, preset, run, steps_per_epoch, probe, events, crops_noted })
    }

    /// Adds to the line of a step, before it is written. What goes wrong here is said and stops no run.
    pub(super) fn step(&mut self, metrics: &mut StepMetrics, trainer: &Trainer, batch: &Batch) {
        if !self.crops_noted {
            self.crops_noted = true;
            warn(self.note_crops(metrics.step, batch), "the picture of the first crops");
        }
        if self.probe.as_ref().is_some_and(|probe| probe.is_due(metrics.step, self.steps_per_epoch)) {
            warn(self.probe(metrics, trainer), "the probe's accuracy");
        }
        if let Some(events) = &mut self.events {
            let written = events.scalars(metrics);
            if written.is_err() {
                self.events = None;
            }
            warn(written, "TensorBoard's events from here on");
        }
    }

    /// The run goes on after an earlier `step`.
    pub(super) fn go_back(&mut self, step: u64) {
        if self.events.is_some() {
            let events = EventFile::create(&self.run.tensorboard(), step);
            self.events = warn(events, "TensorBoard's events from here on");
        }
    }

    fn note_crops(&mut self, step: u64, batch: &Batch) -> Result<(), TrainError> {
        let Some(grid) = crop_grid(&self.preset, batch) else { return Ok(()) };
        write_atomically(&self.run.crops(), &grid.jpeg)?;
        match &mut self.events {
            Some(events) => events.picture("crops", step, grid.jpeg, grid.size),
            None => Ok(()),
        }
    }

    fn probe(&self, metrics: &mut StepMetrics, trainer: &Trainer) -> Result<(), TrainError> {
        let Some(probe) = &self.probe else { return Ok(()) };
        let scores = probe.measure(&self.environment, &self.preset, &trainer.engine().weights()?)?;
        (metrics.probe_knn, metrics.probe_linear) = (scores.knn, scores.linear);
        for (name, accuracy) in [("kNN", scores.knn), ("linear", scores.linear)] {
            if let Some(accuracy) = accuracy {
                tracing::info!("{name} probe after epoch {}: {:.2} %", metrics.epoch + 1, 100.0 * accuracy);
            }
        }
        Ok(())
    }
}

/// Says what is missing when something could not be noted.
fn warn<T>(result: Result<T, TrainError>, missing: &str) -> Option<T> {
    result.inspect_err(|error| tracing::warn!("{error}; the run goes on without {missing}")).ok()
}
