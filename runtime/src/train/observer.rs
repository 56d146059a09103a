//! What is noted beside the training itself: where it runs, the crops of its first step, probes, TensorBoard's events.

use graphgen::preset::Preset;
use graphgen::weights::write_atomically;
use ort::environment::Environment;
use serde_json::json;

use super::crop_grid::crop_grid;
use super::tensorboard::EventFile;
use super::{Probe, RunDirectory, StepMetrics, TrainError, TrainOptions, Trainer};
use crate::data::{Batch, Dataset};

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
        let note = json!({
            "program": concat!("swav-rt ", env!("CARGO_PKG_VERSION")),
            "onnxruntime": ort::info(),
            "machine": crate::machine::Machine::read(),
            "threads": options.threads,
            "data": { "paths": options.data, "images": dataset.len(), "classes": dataset.class_names().len() },
        });
        write_atomically(&run.environment(), &serde_json::to_vec_pretty(&note).expect("a note has only JSON types"))?;
        let events = if options.tensorboard { Some(EventFile::create(&run.tensorboard(), step)?) } else { None };
        let crops_noted = step > 0 && run.crops().exists();
        let (environment, preset, run) = (environment.clone(), options.source.preset().clone(), run.clone());
        Ok(Observer { environment, preset, run, steps_per_epoch, probe, events, crops_noted })
    }

    /// Adds to the line of a step, before it is written.
    pub(super) fn step(&mut self, metrics: &mut StepMetrics, trainer: &Trainer, batch: &Batch) -> Result<(), TrainError> {
        if !self.crops_noted {
            self.crops_noted = true;
            if let Some(grid) = crop_grid(&self.preset, batch) {
                write_atomically(&self.run.crops(), &grid.jpeg)?;
                if let Some(events) = &mut self.events {
                    events.picture("crops", metrics.step, grid.jpeg, grid.size)?;
                }
            }
        }
        if let Some(probe) = self.probe.as_ref().filter(|probe| probe.is_due(metrics.step, self.steps_per_epoch)) {
            let scores = probe.measure(&self.environment, &self.preset, &trainer.engine().weights()?)?;
            (metrics.probe_knn, metrics.probe_linear) = (scores.knn, scores.linear);
            for (name, accuracy) in [("kNN", scores.knn), ("linear", scores.linear)] {
                if let Some(accuracy) = accuracy {
                    tracing::info!("{name} probe after epoch {}: {:.2} %", metrics.epoch + 1, 100.0 * accuracy);
                }
            }
        }
        match &mut self.events {
            Some(events) => events.scalars(metrics),
            None => Ok(()),
        }
    }
}
