//! Checkpoints: everything a run needs to go on as if nothing had happened.
//!
//! A checkpoint is a folder `step-00001234` with `weights.safetensors` (parameters and running statistics),
//! `optimizer.safetensors` (momentum and the like), `queue.safetensors` (with a queue) and `state.json`, which names the
//! others with their SHA-256. The folder is written under another name, synced and renamed: it is complete or absent.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use graphgen::preset::Preset;
use graphgen::weights::{Weights, load_safetensors, to_safetensors};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::TrainError;
use crate::session::{Engine, OptimizerState, QueueState};

/// Version of the format; readers refuse others.
pub const CHECKPOINT_VERSION: u32 = 1;

/// Checkpoints that are kept.
pub const KEEP: usize = 3;

const WEIGHTS: &str = "weights.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const QUEUE: &str = "queue.safetensors";
const STATE: &str = "state.json";
/// End of the names of folders that are being written or removed.
const UNFINISHED: &str = ".tmp";

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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Steps done.
    pub step: u64,
    /// Epoch of the next step, from 0.
    pub epoch: u64,
    /// The resolved preset.
    pub preset: Preset,
    /// Names and sizes of the training images, hashed.
    pub dataset_fingerprint: String,
}

/// `state.json`.
#[derive(Serialize, Deserialize)]
struct State {
    version: u32,
    #[serde(flatten)]
    progress: Progress,
    optimizer_step: Option<i64>,
    queue_filled: Option<i64>,
    /// SHA-256 of the other files, hexadecimal.
    files: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Copies the engine's state.
    ///
    /// # Errors
    /// Whatever the engine reports.
    pub fn of(engine: &dyn Engine, progress: Progress) -> Result<Checkpoint, TrainError> {
        Ok(Checkpoint { progress, weights: engine.weights()?, optimizer: engine.optimizer_state()?, queue: engine.queue_state()? })
    }

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

    /// Writes the checkpoint below `directory` and removes all but the newest [`KEEP`]; gives the folder.
    ///
    /// # Errors
    /// Whatever the file system reports; earlier checkpoints stay then.
    pub fn save(&self, directory: &Path) -> Result<PathBuf, TrainError> {
        let mut files =
            vec![(WEIGHTS, to_safetensors(&self.weights, &BTreeMap::new())), (OPTIMIZER, to_safetensors(&self.optimizer.moments, &BTreeMap::new()))];
        if let Some(queue) = &self.queue {
            let tensors = Weights::from([("queue/embeddings".to_owned(), queue.embeddings.clone())]);
            files.push((QUEUE, to_safetensors(&tensors, &BTreeMap::new())));
        }
        let state = State {
            version: CHECKPOINT_VERSION,
            progress: self.progress.clone(),
            optimizer_step: self.optimizer.step,
            queue_filled: self.queue.as_ref().map(|queue| queue.filled),
            files: files.iter().map(|(name, bytes)| ((*name).to_owned(), sha256(bytes))).collect(),
        };
        files.push((STATE, serde_json::to_vec_pretty(&state).expect("a state has only JSON types")));

        fs::create_dir_all(directory).map_err(TrainError::io(directory))?;
        let folder = directory.join(format!("step-{:08}", self.progress.step));
        let unfinished = unfinished(&folder);
        remove(&unfinished)?;
        fs::create_dir(&unfinished).map_err(TrainError::io(&unfinished))?;
        for (name, bytes) in &files {
            let path = unfinished.join(name);
            write_synced(&path, bytes).map_err(TrainError::io(path))?;
        }
        sync_folder(&unfinished)?;
        // A folder of the same step can only be one that was found damaged when the run was resumed.
        remove(&folder)?;
        fs::rename(&unfinished, &folder).map_err(TrainError::io(&folder))?;
        sync_folder(directory)?;

        for (_, old) in list(directory)?.into_iter().skip(KEEP) {
            remove(&old)?;
        }
        Ok(folder)
    }

    /// Reads a checkpoint and checks every byte of it.
    ///
    /// # Errors
    /// Missing and damaged files, another format version.
    pub fn load(folder: &Path) -> Result<Checkpoint, TrainError> {
        let damaged = |problem: String| TrainError::Checkpoint { path: folder.into(), problem };
        let text = fs::read(folder.join(STATE)).map_err(|error| damaged(format!("{STATE} cannot be read: {error}")))?;
        let version = serde_json::from_slice::<serde_json::Value>(&text).ok().and_then(|state| state.get("version")?.as_u64());
        if let Some(version) = version.filter(|&version| version != u64::from(CHECKPOINT_VERSION)) {
            return Err(damaged(format!("format version {version}, this program reads {CHECKPOINT_VERSION}")));
        }
        let state: State = serde_json::from_slice(&text).map_err(|error| damaged(format!("{STATE} is damaged: {error}")))?;
        for (name, expected) in &state.files {
            let bytes = fs::read(folder.join(name)).map_err(|error| damaged(format!("{name} cannot be read: {error}")))?;
            if sha256(&bytes) != *expected {
                return Err(damaged(format!("{name} is damaged: its SHA-256 is not the one in {STATE}")));
            }
        }
        let queue = match state.queue_filled {
            None => None,
            Some(filled) => {
                let embeddings = load_safetensors(&folder.join(QUEUE))?.remove("queue/embeddings");
                Some(QueueState { embeddings: embeddings.ok_or_else(|| damaged(format!("{QUEUE} holds no queue/embeddings")))?, filled })
            }
        };
        let optimizer = OptimizerState { moments: load_safetensors(&folder.join(OPTIMIZER))?, step: state.optimizer_step };
        Ok(Checkpoint { progress: state.progress, weights: load_safetensors(&folder.join(WEIGHTS))?, optimizer, queue })
    }

    /// The newest undamaged checkpoint; damaged ones are passed over with a warning.
    ///
    /// # Errors
    /// A directory that cannot be listed, and checkpoints of which none can be read.
    pub fn newest(directory: &Path) -> Result<Option<Checkpoint>, TrainError> {
        let folders = list(directory)?;
        let mut last = None;
        for (_, folder) in folders {
            match Checkpoint::load(&folder) {
                Ok(checkpoint) => return Ok(Some(checkpoint)),
                Err(error) => {
                    tracing::warn!("{error}; trying the one before");
                    last = Some(error);
                }
            }
        }
        last.map_or(Ok(None), Err)
    }
}

/// Finished checkpoints below a directory with their steps, newest first; none if the directory does not exist.
///
/// # Errors
/// A directory that cannot be listed.
pub fn list(directory: &Path) -> Result<Vec<(u64, PathBuf)>, TrainError> {
    let mut found = Vec::new();
    for path in entries(directory)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(step) = name.strip_prefix("step-").and_then(|step| step.parse().ok()) {
            found.push((step, path));
        }
    }
    found.sort_unstable_by_key(|(step, _)| std::cmp::Reverse(*step));
    Ok(found)
}

/// Removes what an interrupted save left, and checkpoints later than `step`, which belong to a course that is left.
///
/// # Errors
/// Whatever the file system reports.
pub fn clean(directory: &Path, step: u64) -> Result<(), TrainError> {
    for path in entries(directory)? {
        if path.extension().is_some_and(|extension| format!(".{}", extension.display()) == UNFINISHED) {
            remove(&path)?;
        }
    }
    for (_, folder) in list(directory)?.into_iter().filter(|(later, _)| *later > step) {
        tracing::warn!("removing {}: the run goes on from step {step}", folder.display());
        remove(&folder)?;
    }
    Ok(())
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>, TrainError> {
    match fs::read_dir(directory) {
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>().map_err(TrainError::io(directory)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(TrainError::io(directory)(error)),
    }
}

fn unfinished(folder: &Path) -> PathBuf {
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    folder.with_file_name(format!(".{name}{UNFINISHED}"))
}

/// Removes a folder, renamed first so that it is never seen half removed.
fn remove(folder: &Path) -> Result<(), TrainError> {
    let mut path = folder.to_owned();
    if folder.extension().is_none() && folder.exists() {
        path = unfinished(&folder.with_file_name(format!("old-{}", folder.file_name().unwrap_or_default().display())));
        fs::rename(folder, &path).map_err(TrainError::io(folder))?;
    }
    match fs::remove_dir_all(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(TrainError::io(path)(error)),
        _ => Ok(()),
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = fs::File::create(path)?;
    std::io::Write::write_all(&mut file, bytes)?;
    file.sync_all()
}

/// Makes names inside a folder durable; only Unix can.
fn sync_folder(folder: &Path) -> Result<(), TrainError> {
    if cfg!(unix) {
        fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(TrainError::io(folder))?;
    }
    Ok(())
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[path = "checkpoint_tests.rs"]
mod tests;
