//! How good the features are while the run goes on: a classifier on labelled images that are never trained on.

use std::path::PathBuf;
use std::sync::Arc;

use graphgen::artifacts::{self, EncoderOptions};
use graphgen::preset::Preset;
use graphgen::weights::Weights;
use ort::environment::Environment;

use super::TrainError;
use crate::data::Dataset;
use crate::eval::knn::{Knn, Labelled, classify};
use crate::eval::linear::{Linear, train_on_features};
use crate::eval::{EvalError, Extraction, Features, Scores, extract};
use crate::machine::thread_count;
use crate::session::{Encoder, SessionOptions};

/// Epochs of the linear probe: enough to see a trend. `eval linear` has the full protocol.
const LINEAR_EPOCHS: usize = 20;

/// Which classifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum ProbeKind {
    /// 20 nearest neighbours; seconds
    #[default]
    Knn,
    /// Logistic regression of 20 epochs on features
    Linear,
    /// One after the other
    Both,
}

/// What is probed, with what, how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeOptions {
    /// Labelled images to learn from.
    pub train: Vec<PathBuf>,
    /// Labelled images to classify.
    pub test: Vec<PathBuf>,
    /// Epochs between two probes, at least 1.
    pub every_epochs: usize,
    /// Classifier.
    pub kind: ProbeKind,
    /// Random subset of each set; 0 for all.
    pub limit: usize,
}

/// Top-1 accuracies, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ProbeScores {
    /// Of the nearest neighbours.
    pub knn: Option<f64>,
    /// Of the linear classifier.
    pub linear: Option<f64>,
}

/// Labelled images, opened once.
#[derive(Debug)]
pub struct Probe {
    options: ProbeOptions,
    train: Arc<Dataset>,
    test: Arc<Dataset>,
    seed: u64,
    threads: usize,
}

impl Probe {
    /// Opens the images. `threads` is 0 for one a core.
    ///
    /// # Errors
    /// Images without labels, and test classes that no training image has.
    pub fn open(options: &ProbeOptions, seed: u64, threads: usize) -> Result<Probe, TrainError> {
        let open = |paths: &[PathBuf]| Ok::<_, TrainError>(Arc::new(Dataset::open(paths)?.subset(options.limit, seed)));
        let probe = Probe { train: open(&options.train)?, test: open(&options.test)?, options: options.clone(), seed, threads };
        for dataset in [&probe.train, &probe.test] {
            let labels = (0..dataset.len()).map(|index| dataset.label(index)).collect();
            Features { rows: Default::default(), labels, size_px: [0, 0] }.labels_among(dataset, probe.train.class_names())?;
        }
        Ok(probe)
    }

    /// Whether it is time after this many steps.
    pub fn is_due(&self, steps: u64, steps_per_epoch: u64) -> bool {
        steps.is_multiple_of(steps_per_epoch * self.options.every_epochs.max(1) as u64)
    }

    /// Classifies the test images with features of these weights.
    ///
    /// # Errors
    /// Images that cannot be read, and whatever the encoder reports.
    pub fn measure(&self, environment: &Environment, preset: &Preset, weights: &Weights) -> Result<ProbeScores, TrainError> {
        let model = artifacts::encoder(preset, weights, &EncoderOptions::default())?;
        let mut encoder = Encoder::from_bytes(environment, &model, &SessionOptions { threads: self.threads, ..SessionOptions::default() })?;
        let mut labelled = |dataset: &Arc<Dataset>| -> Result<_, EvalError> {
            let features = extract(&mut encoder, dataset, &Extraction { workers: preset.train.workers, ..Extraction::default() }, |_| {})?;
            let labels = features.labels_among(dataset, self.train.class_names())?;
            Ok((features.rows, labels))
        };
        let (train, train_labels) = labelled(&self.train)?;
        let (test, test_labels) = labelled(&self.test)?;
        let classes = self.train.class_names();
        let mut scores = ProbeScores::default();
        if self.options.kind != ProbeKind::Knn {
            let settings = Linear { epochs: LINEAR_EPOCHS, seed: self.seed, ..Linear::default() };
            let classifier = train_on_features(train.view(), &train_labels, classes.len(), &settings, |_, _, _| {})?;
            scores.linear = Some(Scores::new(&classifier.classify(test.view()), &test_labels, classes).top1());
        }
        if self.options.kind != ProbeKind::Linear {
            let (bank, test) = (Labelled::new(train, train_labels), Labelled::new(test, test_labels.clone()));
            let rankings = classify(&bank, &test, classes.len(), &[Knn::default()], thread_count(self.threads))?;
            scores.knn = rankings.first().map(|rankings| Scores::new(rankings, &test_labels, classes).top1());
        }
        Ok(scores)
    }
}
