//! `metrics.jsonl`: one object a step.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};

use super::files::{Files, Output, replace};
use super::{StepReport, TrainError};

/// A line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// Steps done, this one included.
    pub step: u64,
    /// Epoch, from 0.
    pub epoch: u64,
    /// Swapped prediction loss; `null` in the file if it is not finite.
    #[serde(deserialize_with = "null_is_nan")]
    pub loss: f32,
    /// Loss over ln K, averaged over several heads: 1 is the loss of uniform predictions, where a collapsed run stays.
    #[serde(deserialize_with = "null_is_nan")]
    pub loss_over_ln_k: f32,
    /// Learning rate.
    pub lr: f64,
    /// Images of the batch over the time from the end of the last step to the end of this one.
    #[serde(deserialize_with = "null_is_nan")]
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
    /// Whether a guard left the step's update out; absent if not.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub skipped: bool,
}

/// JSON has no NaN and no infinity: they are written as `null`.
fn null_is_nan<'de, D: Deserializer<'de>, T: Deserialize<'de> + From<f32>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_else(|| T::from(f32::NAN)))
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
            skipped: false,
        }
    }
}

/// Appends to `metrics.jsonl`.
pub struct MetricsLog {
    path: PathBuf,
    file: Box<dyn Output>,
    /// Bytes that could not be written yet.
    pending: Vec<u8>,
    /// Whether the last attempt to write failed.
    failing: bool,
}

impl MetricsLog {
    /// Opens the log of a run that goes on after `step` steps: the lines of later steps, damaged ones and those that occur
    /// twice are dropped, and a warning says how many are missing.
    ///
    /// # Errors
    /// Whatever the file system reports.
    pub(super) fn open(files: &dyn Files, path: &Path, step: u64) -> Result<MetricsLog, TrainError> {
        let mut kept = Vec::new();
        let (mut last, mut dropped) = (0, false);
        let (mut missing, mut first_missing) = (0, None);
        let mut miss = |from: u64, to: u64| {
            missing += to - from;
            first_missing = first_missing.or((from < to).then_some(from + 1));
        };
        match File::open(path) {
            Ok(file) => {
                let mut reader = BufReader::new(file);
                let mut line = Vec::new();
                while reader.read_until(b'\n', &mut line).map_err(TrainError::io(path))? > 0 {
                    let of_step = serde_json::from_slice::<StepMetrics>(&line).ok().map(|metrics| metrics.step);
                    match of_step.filter(|&found| line.ends_with(b"\n") && (last + 1..=step).contains(&found)) {
                        Some(found) => {
                            miss(last, found - 1);
                            last = found;
                            kept.extend_from_slice(&line);
                        }
                        None => dropped = true,
                    }
                    line.clear();
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(TrainError::io(path)(error)),
        }
        miss(last, step);
        if let Some(first) = first_missing {
            tracing::warn!(
                "{}: {missing} of the {step} lines before the checkpoint are missing, the first is that of step {first}; the run goes on, but its curves and \
                 report have a gap",
                path.display()
            );
        }
        if dropped {
            replace(files, path, &kept)?;
        }
        let file = files.append(path).map_err(TrainError::io(path))?;
        Ok(MetricsLog { path: path.into(), file, pending: Vec::new(), failing: false })
    }

    /// Writes a line. If that fails, say because the disk is full, the line waits in memory for the next attempt: the run
    /// goes on, without a gap in the log.
    pub fn write(&mut self, metrics: &StepMetrics) {
        serde_json::to_writer(&mut self.pending, metrics).expect("metrics have only JSON types");
        self.pending.push(b'\n');
        match self.flush() {
            Ok(()) => self.failing = false,
            Err(error) if !self.failing => {
                self.failing = true;
                tracing::warn!("{error}; the lines wait in memory, and the run goes on");
            }
            Err(_) => {}
        }
    }

    /// Waits until all lines are on the disk.
    ///
    /// # Errors
    /// Whatever the file system reports; the lines that are missing stay in memory.
    pub fn sync(&mut self) -> Result<(), TrainError> {
        self.flush()?;
        self.file.sync().map_err(TrainError::io(&self.path))
    }

    fn flush(&mut self) -> Result<(), TrainError> {
        while !self.pending.is_empty() {
            match self.file.write(&self.pending) {
                Ok(0) => return Err(TrainError::io(&self.path)(ErrorKind::WriteZero.into())),
                Ok(written) => drop(self.pending.drain(..written)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(TrainError::io(&self.path)(error)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::train::files::Disk;
    use crate::train::files::faulty::{Faulty, NO_SPACE};

    fn steps(path: &Path) -> Vec<u64> {
        let text = std::fs::read_to_string(path).expect("read");
        text.lines().map(|line| serde_json::from_str::<StepMetrics>(line).expect("whole lines").step).collect()
    }

    fn metrics(step: u64) -> StepMetrics {
        let report = StepReport {
            step: step - 1,
            epoch: 0,
            learning_rate: 0.1,
            loss: 2.0,
            stats: [("grad_norm".to_owned(), 3.0)].into(),
            overflowed: false,
            queue: Some((8, 16)),
        };
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
    fn going_on_from_a_checkpoint_drops_later_double_and_damaged_lines() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("metrics.jsonl");
        let mut log = MetricsLog::open(&Disk, &path, 0).expect("open");
        [1, 2, 2, 3, 4, 5].into_iter().for_each(|step| log.write(&metrics(step)));
        std::fs::OpenOptions::new().append(true).open(&path).and_then(|mut file| file.write_all(b"{\"step\": 6, \"lo")).expect("append");
        MetricsLog::open(&Disk, &path, 3).expect("open").write(&metrics(4));
        assert_eq!(steps(&path), [1, 2, 3, 4]);
    }

    #[test]
    fn a_line_without_a_finite_loss_is_a_line() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("metrics.jsonl");
        let line = StepMetrics { loss: f32::NAN, loss_over_ln_k: f32::NAN, skipped: true, images_per_sec: f64::INFINITY, ..metrics(1) };
        MetricsLog::open(&Disk, &path, 0).expect("open").write(&line);
        MetricsLog::open(&Disk, &path, 1).expect("open").write(&metrics(2));
        assert_eq!(steps(&path), [1, 2]);
    }

    #[test]
    fn lines_that_a_full_disk_refuses_come_later() {
        // Opening is the first operation, every line one more.
        for failing in 1..5 {
            let directory = tempfile::tempdir().expect("temporary directory");
            let path = directory.path().join("metrics.jsonl");
            let mut log = MetricsLog::open(&Faulty::new(failing, NO_SPACE), &path, 0).expect("open");
            (1..=3).for_each(|step| log.write(&metrics(step)));
            let synced = log.sync();
            assert_eq!(synced.is_err(), failing == 4, "only the sync reports that it failed");
            assert_eq!(steps(&path), [1, 2, 3]);
        }
    }
}
