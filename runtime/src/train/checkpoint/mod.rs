//! Checkpoints: everything a run needs to go on as if nothing had happened.
//!
//! A checkpoint is a folder `step-00001234` with `weights.safetensors` (parameters and running statistics),
//! `optimizer.safetensors` (momentum and the like), `queue.safetensors` (with a queue), `state.json` (position, preset,
//! guards, versions) and `checksums.json`, which names the others with their SHA-256. The folder is written under another
//! name, synced and renamed: it is complete or absent.

mod directory;
mod save;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use graphgen::preset::Preset;
use graphgen::weights::{Weights, from_safetensors};
use serde::{Deserialize, Serialize};

use super::TrainError;
use super::files::{Disk, Files, file_name};
use super::guards::GuardState;
use crate::session::{Engine, EngineState, OptimizerState, QueueState, QueueView, state_of};
pub use directory::list;
pub(super) use directory::{Later, Retention, clean, folder_of, newest_up_to, prune};
pub(super) use save::save;
use save::sha256;

/// Version of the format; readers refuse others.
pub const CHECKPOINT_VERSION: u32 = 2;

const WEIGHTS: &str = "weights.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const QUEUE: &str = "queue.safetensors";
const STATE: &str = "state.json";
const CHECKSUMS: &str = "checksums.json";

/// A run's state after a step.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// Position and origin.
    pub progress: Progress,
    /// Parameters and running statistics.
    pub weights: Weights,
    /// Momentum and the like.
    pub optimizer: OptimizerState,
    /// The queue, if the preset has one.
    pub queue: Option<QueueState>,
}

/// Where a run stands, and what it is.
///
/// Everything random is a function of the seed (in the preset), the epoch and the place in it: epoch and batch are the
/// position of the random numbers, too.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Steps done.
    pub step: u64,
    /// Epoch of the next step, from 0.
    pub epoch: u64,
    /// Place of the next step in its epoch, from 0.
    pub batch: u64,
    /// The resolved preset.
    pub preset: Preset,
    /// Names and sizes of the training images, hashed.
    pub dataset_fingerprint: String,
    /// What the guards have seen.
    pub guards: GuardState,
    /// What wrote the checkpoint.
    pub versions: Versions,
}

/// Programs whose numbers a run's are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// This program's version.
    pub program: String,
    /// What ONNX Runtime says of itself.
    pub onnxruntime: String,
}

impl Versions {
    /// Those of this process, with ONNX Runtime loaded.
    pub fn current() -> Versions {
        Versions { program: env!("CARGO_PKG_VERSION").into(), onnxruntime: ort::info().into() }
    }
}

/// `state.json`.
#[derive(Serialize, Deserialize)]
struct State {
    version: u32,
    #[serde(flatten)]
    progress: Progress,
    optimizer_step: Option<i64>,
    queue_filled: Option<i64>,
}

/// SHA-256 of the other files by name, hexadecimal.
type Checksums = BTreeMap<String, String>;

/// Whether a folder looks like a checkpoint, damaged or not.
pub(super) fn is_one(folder: &Path) -> bool {
    folder.join(STATE).exists()
}

impl Checkpoint {
    /// Overwrites the engine's state.
    ///
    /// # Errors
    /// State of another network, optimizer or queue.
    pub fn restore(&self, engine: &mut dyn Engine) -> Result<(), TrainError> {
        engine.load_weights(&self.weights)?;
        engine.load_optimizer_state(&self.optimizer, self.progress.step)?;
        engine.load_queue(self.queue.as_ref())?;
        Ok(())
    }

    /// Writes the checkpoint below `directory`; gives the folder.
    ///
    /// # Errors
    /// Whatever the file system reports; earlier checkpoints stay then.
    pub fn save(&self, directory: &Path) -> Result<PathBuf, TrainError> {
        self.save_with(&Disk, directory)
    }

    pub(super) fn save_with(&self, files: &dyn Files, directory: &Path) -> Result<PathBuf, TrainError> {
        save(files, directory, &self.progress, &self.state())
    }

    /// The state that an engine would have.
    fn state(&self) -> EngineState<'_> {
        let queue = self.queue.as_ref().map(|queue| QueueView { embeddings: Box::new(&queue.embeddings), filled: queue.filled });
        EngineState { weights: state_of(&self.weights), moments: state_of(&self.optimizer.moments), step: self.optimizer.step, queue }
    }

    /// Reads a checkpoint and checks every byte of it.
    ///
    /// # Errors
    /// Missing and damaged files; [`TrainError::CheckpointVersion`] for another format version.
    pub fn load(folder: &Path) -> Result<Checkpoint, TrainError> {
        let damaged = |problem: String| TrainError::Checkpoint { path: folder.into(), problem };
        let read = |name: &str| fs::read(folder.join(name)).map_err(|error| damaged(format!("{name} cannot be read: {error}")));

        let state = read(STATE)?;
        let checksums = read(CHECKSUMS);
        let checksums =
            checksums.and_then(|text| serde_json::from_slice::<Checksums>(&text).map_err(|error| damaged(format!("{CHECKSUMS} is damaged: {error}"))));
        let check = |checksums: &Checksums, name: &str, bytes: &[u8]| match checksums.get(name) {
            Some(expected) if *expected == sha256(bytes) => Ok(()),
            Some(_) => Err(damaged(format!("{name} is damaged: its SHA-256 is not the one in {CHECKSUMS}"))),
            None => Err(damaged(format!("{CHECKSUMS} does not name {name}"))),
        };
        let state_is_whole = checksums.as_ref().map_or(true, |checksums| check(checksums, STATE, &state).is_ok());
        let version = serde_json::from_slice::<serde_json::Value>(&state).ok().and_then(|state| state.get("version")?.as_u64());
        if let Some(found) = version.filter(|&version| state_is_whole && version != u64::from(CHECKPOINT_VERSION)) {
            return Err(TrainError::CheckpointVersion { path: folder.into(), found });
        }

        let checksums = checksums?;
        check(&checksums, STATE, &state)?;
        let state: State = serde_json::from_slice(&state).map_err(|error| damaged(format!("{STATE} is damaged: {error}")))?;
        if folder_of(folder.parent().unwrap_or(Path::new("")), state.progress.step) != folder {
            tracing::warn!("checkpoint {}: the folder has been renamed; it holds step {}", file_name(folder), state.progress.step);
        }
        let weights = |name: &str| {
            let bytes = read(name)?;
            check(&checksums, name, &bytes)?;
            from_safetensors(&bytes, &folder.join(name)).map_err(TrainError::from)
        };
        let queue = match state.queue_filled {
            None => None,
            Some(filled) => {
                let embeddings = weights(QUEUE)?.remove("queue/embeddings");
                Some(QueueState { embeddings: embeddings.ok_or_else(|| damaged(format!("{QUEUE} holds no queue/embeddings")))?, filled })
            }
        };
        let optimizer = OptimizerState { moments: weights(OPTIMIZER)?, step: state.optimizer_step };
        Ok(Checkpoint { progress: state.progress, weights: weights(WEIGHTS)?, optimizer, queue })
    }

    /// The newest undamaged checkpoint; damaged ones are passed over with a warning.
    ///
    /// # Errors
    /// A directory that cannot be listed, checkpoints of which none can be read, and a newest one of another format
    /// version: to go back behind it would throw away what another version of this program did.
    pub fn newest(directory: &Path) -> Result<Option<Checkpoint>, TrainError> {
        newest_up_to(directory, u64::MAX)
    }
}

#[cfg(test)]
mod tests;
