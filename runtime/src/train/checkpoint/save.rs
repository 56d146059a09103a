//! Writing a checkpoint, tensor by tensor from where they lie: a save holds no copy of the state.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use graphgen::weights::SafetensorsWriter;
use sha2::{Digest, Sha256};

use super::{CHECKPOINT_VERSION, CHECKSUMS, Checksums, OPTIMIZER, Progress, QUEUE, STATE, State, WEIGHTS, directory, folder_of};
use crate::session::{EngineState, StateTensor, StateTensors};
use crate::train::TrainError;
use crate::train::files::{Files, Output, sync_parent, unfinished, write_synced};

/// Bytes that are written at a time.
pub(super) const BUFFER: usize = 1 << 16;

/// Writes a checkpoint below `directory`; gives the folder.
///
/// # Errors
/// Whatever the file system or the engine reports; earlier checkpoints stay then.
pub(in crate::train) fn save(files: &dyn Files, directory: &Path, progress: &Progress, state: &EngineState<'_>) -> Result<PathBuf, TrainError> {
    let folder = folder_of(directory, progress.step);
    let unfinished = unfinished(&folder);
    let saved = write(files, &unfinished, progress, state).and_then(|()| {
        directory::remove(files, &folder)?;
        files.rename(&unfinished, &folder).map_err(TrainError::io(&folder))?;
        sync_parent(files, &folder)
    });
    if saved.is_err() {
        // What was written may be what fills the disk. If it cannot be removed now, it is when the run starts again.
        let _ = files.remove_folder(&unfinished);
    }
    saved.map(|()| folder)
}

/// Writes and syncs a folder with everything.
fn write(files: &dyn Files, folder: &Path, progress: &Progress, state: &EngineState<'_>) -> Result<(), TrainError> {
    files.remove_folder(folder).map_err(TrainError::io(folder))?;
    files.create_folder(folder).map_err(TrainError::io(folder))?;

    let mut checksums = Checksums::new();
    let mut write = |name: &str, tensors: &StateTensors<'_>| {
        checksums.insert(name.into(), write_tensors(files, &folder.join(name), tensors)?);
        Ok::<_, TrainError>(())
    };
    write(WEIGHTS, &state.weights)?;
    write(OPTIMIZER, &state.moments)?;
    if let Some(queue) = &state.queue {
        write(QUEUE, &StateTensors::from([("queue/embeddings".to_owned(), Box::new(&*queue.embeddings) as Box<dyn StateTensor>)]))?;
    }
    let state = State {
        version: CHECKPOINT_VERSION,
        progress: progress.clone(),
        optimizer_step: state.step,
        queue_filled: state.queue.as_ref().map(|queue| queue.filled),
    };
    let state = serde_json::to_vec_pretty(&state).expect("a state has only JSON types");
    checksums.insert(STATE.into(), sha256(&state));
    write_synced(files, &folder.join(STATE), &state)?;
    let checksums = serde_json::to_vec_pretty(&checksums).expect("checksums have only JSON types");
    write_synced(files, &folder.join(CHECKSUMS), &checksums)?;
    files.sync_folder(folder).map_err(TrainError::io(folder))
}

/// Writes a safetensors file, reading one tensor at a time, and syncs it; gives its SHA-256.
fn write_tensors(files: &dyn Files, path: &Path, tensors: &StateTensors<'_>) -> Result<String, TrainError> {
    let io = || TrainError::io(path);
    let shapes = tensors.iter().map(|(name, tensor)| (name.clone(), tensor.shape())).collect();
    let out = Hashing { out: files.create(path).map_err(io())?, hash: Sha256::new() };
    let mut file = SafetensorsWriter::new(BufWriter::with_capacity(BUFFER, out), &shapes, &BTreeMap::new()).map_err(io())?;
    for (name, tensor) in tensors {
        file.write(name, &tensor.read()?).map_err(io())?;
    }
    let Hashing { mut out, hash } = file.finish().and_then(|out| out.into_inner().map_err(io::IntoInnerError::into_error)).map_err(io())?;
    out.sync().map_err(io())?;
    Ok(hexadecimal(&hash.finalize()))
}

/// Hashes what is written.
struct Hashing {
    out: Box<dyn Output>,
    hash: Sha256,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// SHA-256, hexadecimal.
pub(super) fn sha256(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
