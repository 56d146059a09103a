//! `init.json`: the weights that a run started from.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use graphgen::artifacts;
use graphgen::preset::Preset;
use graphgen::weights::{Import, ImportReport, Weights, import};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::files::{Disk, replace};
use super::{RunDirectory, TrainError};

/// What `--init` brought into a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitRecord {
    /// The file as it was named.
    pub file: PathBuf,
    /// SHA-256 of the file, hexadecimal.
    pub sha256: String,
    /// What was taken from it, and what was not.
    #[serde(flatten)]
    pub report: ImportReport,
}

impl InitRecord {
    /// Reads what the preset's network can use of a file; the report goes to the log.
    ///
    /// # Errors
    /// A file that cannot be read, or whose backbone is not the preset's.
    pub fn import(file: &Path, preset: &Preset) -> Result<(InitRecord, Weights), TrainError> {
        let Import { weights, report } = import(file, &artifacts::network_shapes(preset)?)?;
        tracing::info!("initial weights from {}:", file.display());
        report.lines().iter().for_each(|line| tracing::info!("  {line}"));
        Ok((InitRecord { file: file.into(), sha256: sha256_of(file)?, report }, weights))
    }

    /// Makes sure that a run with checkpoints started from this very file: going on with it then changes nothing.
    ///
    /// # Errors
    /// A run that started from random weights or from another file.
    pub fn check_origin(file: &Path, run: &RunDirectory) -> Result<(), TrainError> {
        let refuse = |start: String| TrainError::Run {
            path: run.root().into(),
            problem: format!(
                "holds a run that started from {start}, so --init {} has nothing to start; leave --init out to go on, or choose another --out",
                file.display()
            ),
        };
        let path = run.init();
        let record = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice::<InitRecord>(&text).map_err(|error| refuse(format!("what a damaged {} names: {error}", path.display())))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(refuse("random weights".into())),
            Err(error) => return Err(TrainError::io(path)(error)),
        };
        if sha256_of(file)? != record.sha256 {
            return Err(refuse(format!("{} (another file, or other bytes)", record.file.display())));
        }
        tracing::info!("the run started from {}; it goes on from its checkpoint", file.display());
        Ok(())
    }

    /// Writes the record of a new run, or removes one that an interrupted start left.
    ///
    /// # Errors
    /// Whatever the file system reports.
    pub fn store(record: Option<&InitRecord>, run: &RunDirectory) -> Result<(), TrainError> {
        let path = run.init();
        match record {
            Some(record) => replace(&Disk, &path, &serde_json::to_vec_pretty(record).expect("a record has only JSON types")),
            None => match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(TrainError::io(path)(error)),
                _ => Ok(()),
            },
        }
    }
}

/// SHA-256 of a file, hexadecimal; the file may be larger than memory.
fn sha256_of(path: &Path) -> Result<String, TrainError> {
    let mut file = File::open(path).map_err(TrainError::io(path))?;
    let mut hasher = Sha256::new();
    let mut block = vec![0; 1 << 20];
    loop {
        match file.read(&mut block) {
            Ok(0) => break,
            Ok(count) => hasher.update(&block[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(TrainError::io(path)(error)),
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
