//! `metrics.jsonl`: one object a step.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use graphgen::weights::write_atomically;
use serde::{Deserialize, Serialize};

use super::{StepReport, TrainError};

/// A line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// Steps done, this one included.
    pub step: u64,
    /// Epoch, from 0.
    pub epoch: u64,
    /// Swapped prediction loss.
    pub loss: f32,
    /// Loss over ln K, averaged over several heads: 1 is the loss of uniform predictions, where a collapsed run stays.
    pub loss_over_ln_k: f32,
    /// Learning rate.
    pub lr: f64,
    /// Images of the batch over the time from the end of the last step to the end of this one.
    pub images_per_sec: f64,
    /// Time that the step waited for its batch, s.
    pub data_wait_secs: f64,
    /// Mean entropy of a sample's codes, nats.
    pub code_entropy: Option<f32>,
    /// Prototypes that are some sample's first choice.
    pub live_prototypes: Option<f32>,
    /// Standard deviation of the embeddings over the batch, averaged over dimensions.
    pub feature_std: Option<f32>,
    /// L2 norm of all gradients.
    pub grad_norm: Option<f32>,
    /// What the loss was multiplied by before the backward pass; absent in f32.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub loss_scale: Option<f32>,
    /// Steps of the run that changed nothing because a gradient was not finite, this one included; absent in f32.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub skipped_steps: Option<f32>,
    /// Rows of the queue that hold embeddings; absent without a queue.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub queue_filled: Option<i64>,
    /// Whether the queue is full and so takes part in the codes; absent without a queue.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub queue_active: Option<bool>,
    /// Top-1 accuracy of the kNN probe, 0 to 1; only on the steps after which it was measured.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub probe_knn: Option<f64>,
    /// Top-1 accuracy of the linear probe, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub probe_linear: Option<f64>,
}

impl StepMetrics {
    /// The line of a step. `ln_k` is the mean of ln K over the heads.
    pub fn new(report: &StepReport, ln_k: f64, images_per_sec: f64, data_wait_secs: f64) -> StepMetrics {
        let stat = |name: &str| report.stats.get(name).copied();
        StepMetrics {
            step: report.step + 1,
            epoch: report.epoch,
            loss: report.loss,
            loss_over_ln_k: (f64::from(report.loss) / ln_k) as f32,
            lr: report.learning_rate,
            images_per_sec,
            data_wait_secs,
            code_entropy: stat("code_entropy"),
            live_prototypes: stat("live_prototypes"),
            feature_std: stat("feature_std"),
            // JSON has no infinity.
            grad_norm: stat("grad_norm").filter(|norm| norm.is_finite()),
            loss_scale: stat("loss_scale"),
            skipped_steps: stat("skipped_steps"),
            queue_filled: report.queue.map(|(filled, _)| filled),
            queue_active: report.queue.map(|(filled, length)| filled == length as i64),
            probe_knn: None,
            probe_linear: None,
        }
    }
}

/// Appends to `metrics.jsonl`.
pub struct MetricsLog {
    path: PathBuf,
    file: File,
}

impl MetricsLog {
    /// Opens the log and drops the lines of all steps after `step`, and damaged ones: a run that goes on from a
    /// checkpoint writes them anew.
    ///
    /// # Errors
    /// Whatever the file system reports.
    pub fn open(path: &Path, step: u64) -> Result<MetricsLog, TrainError> {
        let text = match std::fs::read(path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(TrainError::io(path)(error)),
        };
        let keeps = |line: &&str| serde_json::from_str::<StepMetrics>(line).is_ok_and(|metrics| metrics.step <= step);
        let kept: String = text.lines().filter(keeps).flat_map(|line| [line, "\n"]).collect();
        if kept != text {
            write_atomically(path, kept.as_bytes())?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(TrainError::io(path))?;
        Ok(MetricsLog { path: path.into(), file })
    }

    /// Writes a line; it is in the file when this returns.
    ///
    /// # Errors
    /// Whatever the file system reports.
    pub fn write(&mut self, metrics: &StepMetrics) -> Result<(), TrainError> {
        let mut line = serde_json::to_vec(metrics).expect("metrics have only JSON types");
        line.push(b'\n');
        self.file.write_all(&line).map_err(TrainError::io(&self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(step: u64) -> StepMetrics {
        let report =
            StepReport { step: step - 1, epoch: 0, learning_rate: 0.1, loss: 2.0, stats: [("grad_norm".to_owned(), 3.0)].into(), queue: Some((8, 16)) };
        StepMetrics::new(&report, 4.0, 100.0, 0.001)
    }

    #[test]
    fn lines_have_the_documented_fields() {
        let line = serde_json::to_value(metrics(5)).expect("JSON");
        assert_eq!(line["step"], 5);
        assert_eq!(line["loss_over_ln_k"], 0.5);
        assert_eq!(line["grad_norm"], 3.0);
        assert_eq!((&line["queue_filled"], &line["queue_active"]), (&8.into(), &false.into()));
        for field in ["epoch", "loss", "lr", "images_per_sec", "data_wait_secs", "code_entropy"] {
            assert!(line.get(field).is_some(), "{field}");
        }
    }

    #[test]
    fn going_on_from_a_checkpoint_drops_later_and_damaged_lines() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("metrics.jsonl");
        let mut log = MetricsLog::open(&path, 0).expect("open");
        (1..=5).for_each(|step| log.write(&metrics(step)).expect("write"));
        std::fs::OpenOptions::new().append(true).open(&path).and_then(|mut file| file.write_all(b"{\"step\": 6, \"lo")).expect("append");
        MetricsLog::open(&path, 3).expect("open").write(&metrics(4)).expect("write");
        let text = std::fs::read_to_string(&path).expect("read");
        let steps: Vec<u64> = text.lines().map(|line| serde_json::from_str::<StepMetrics>(line).expect("whole lines").step).collect();
        assert_eq!(steps, [1, 2, 3, 4]);
    }
}
