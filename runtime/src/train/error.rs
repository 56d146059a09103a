//! What can go wrong in training.

use std::path::PathBuf;

use graphgen::artifacts::ArtifactError;
use graphgen::training_api::TrainingApiError;
use graphgen::weights::WeightsError;

use crate::data::DataError;
use crate::session::EngineError;

/// Why a training run stopped or did not start.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The loader failed.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Graphs could not be written or read.
    #[error(transparent)]
    Artifacts(#[from] ArtifactError),
    /// Weights could not be written or read.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// Graphs that the training API cannot follow, or that could not be written for it.
    #[error(transparent)]
    TrainingApi(#[from] TrainingApiError),
    /// A number that ends the run.
    #[error(
        "the {name} of step {step} is {value}; the last checkpoint is untouched. Likely causes: a learning rate that is too high (lower \
         optim.base_lr or lengthen optim.warmup_epochs), an epsilon or temperature that is too small (loss.epsilon, loss.temperature), or \
         weights from --init that do not fit"
    )]
    NotFinite {
        /// `loss` or `gradient norm`.
        name: &'static str,
        /// NaN or infinite.
        value: f32,
        /// The step, from 0.
        step: u64,
    },
    /// A file operation failed.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A checkpoint that cannot be used.
    #[error("checkpoint {path}: {problem}")]
    Checkpoint {
        /// The checkpoint's folder.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// A run directory that does not fit to the command.
    #[error("run directory {path}: {problem}")]
    Run {
        /// The run directory.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        problem: String,
    },
}

impl TrainError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> TrainError {
        let path = path.into();
        move |source| TrainError::Io { path, source }
    }
}
