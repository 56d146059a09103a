//! What a run directory tells.

use std::path::Path;

use graphgen::preset::Preset;
use serde_json::Value;

use crate::train::{RunDirectory, StepMetrics, TrainError};

/// A run as the report needs it.
#[derive(Debug, Clone, PartialEq)]
pub struct RunRecord {
    /// Name of the directory.
    pub name: String,
    /// Its steps so far; damaged lines are left out.
    pub metrics: Vec<StepMetrics>,
    /// Its settings.
    pub preset: Preset,
    /// Program, library, processor and data, as the run wrote them down; null for runs without that file.
    pub environment: Value,
    /// JPEG bytes of the grid of augmented crops, if there is one.
    pub crops: Option<Vec<u8>>,
}

impl RunRecord {
    /// Reads a run directory, whether the run goes on or has ended.
    ///
    /// # Errors
    /// A directory that is no run's, and one without a step.
    pub fn read(path: &Path) -> Result<RunRecord, TrainError> {
        let run = RunDirectory::new(path);
        let refuse = |problem| TrainError::Run { path: path.into(), problem };
        let preset =
            std::fs::read_to_string(run.preset()).map_err(|error| refuse(format!("preset.toml: {error}; is this a directory that swav-rt train wrote?")))?;
        let preset = Preset::from_toml(&preset, &[]).map_err(|error| refuse(format!("preset.toml cannot be read: {error}")))?;
        let text = std::fs::read_to_string(run.metrics()).map_err(|error| refuse(format!("metrics.jsonl: {error}; has the run made a step?")))?;
        let metrics: Vec<StepMetrics> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        if metrics.is_empty() {
            return Err(refuse("metrics.jsonl holds no step; has the run made one?".into()));
        }
        let environment = std::fs::read(run.environment()).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        let name = std::path::absolute(path).ok().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
        Ok(RunRecord { name: name.unwrap_or_else(|| "run".into()), metrics, preset, environment, crops: std::fs::read(run.crops()).ok() })
    }

    /// Step and value of those steps that have one.
    pub(super) fn points(&self, value: impl Fn(&StepMetrics) -> Option<f64>) -> Vec<(f64, f64)> {
        self.metrics.iter().filter_map(|metrics| Some((metrics.step as f64, value(metrics)?))).collect()
    }

    /// Mean over the last twentieth of the steps, at least ten.
    pub(super) fn recent(&self, value: impl Fn(&StepMetrics) -> Option<f64>) -> Option<f64> {
        let count = (self.metrics.len() / 20).max(10).min(self.metrics.len());
        let values: Vec<f64> = self.metrics[self.metrics.len() - count..].iter().filter_map(value).filter(|value| value.is_finite()).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    }
}
