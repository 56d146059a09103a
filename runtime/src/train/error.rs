//! What can go wrong in training.

use std::path::PathBuf;

use graphgen::artifacts::ArtifactError;
use graphgen::preset::PresetError;
use graphgen::training_api::TrainingApiError;
use graphgen::weights::WeightsError;

use crate::data::DataError;
use crate::eval::EvalError;
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
    /// A probe failed.
    #[error("probe: {0}")]
    Probe(#[from] EvalError),
    /// Graphs could not be written or read.
    #[error(transparent)]
    Artifacts(#[from] ArtifactError),
    /// Weights could not be written or read.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// Graphs that the training API cannot follow, or that could not be written for it.
    #[error(transparent)]
    TrainingApi(#[from] TrainingApiError),
    /// Graphs whose kernels only the training build of ONNX Runtime has.
    #[error(
        "train.target: expected another than ort-training with --engine stock, whose ONNX Runtime lacks its kernels; leave it out, or train with \
         --engine training-api"
    )]
    TrainingKernels,
    /// Settings that this machine cannot hold.
    #[error(transparent)]
    Preset(#[from] PresetError),
    /// A guard ended the run.
    #[error("{message}. The run stops here; its last checkpoint is untouched")]
    Unhealthy {
        /// What was seen, the likely cause and the setting to change.
        message: String,
    },
    /// A file operation failed.
    #[error("{path}: {source}{hint}", hint = way_out(source))]
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
    /// Checkpoints of which none can be used.
    #[error(
        "none of the {count} checkpoints in {path} can be read; the last one tried: {last}. Put one back from a copy; to train anew, remove {path} or choose \
             another --out"
    )]
    NoCheckpoint {
        /// The folder of checkpoints.
        path: PathBuf,
        /// Checkpoints there are.
        count: usize,
        /// What is wrong with the oldest.
        last: Box<TrainError>,
    },
    /// A checkpoint that another version of this program wrote.
    #[error(
        "checkpoint {path}: format version {found}, this program reads {expected}; go on with the program that wrote it, or name an older checkpoint with \
         --resume",
        expected = super::checkpoint::CHECKPOINT_VERSION
    )]
    CheckpointVersion {
        /// The checkpoint's folder.
        path: PathBuf,
        /// Its format version.
        found: u64,
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

/// What to do about a failed file operation, where that is known.
fn way_out(error: &std::io::Error) -> &'static str {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "; free some space and start again with the same command",
        ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => "; make it writable, or choose another --out",
        _ => "",
    }
}
