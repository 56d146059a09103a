//! The checkpoints of a run: which there are, which stay.

use std::path::{Path, PathBuf};

use super::Checkpoint;
use crate::train::TrainError;
use crate::train::files::{Files, entries, file_name, remove_unfinished, sync_parent, unfinished};

/// Start of the names of checkpoints.
const STEP: &str = "step-";
/// Put in front of the name of a checkpoint that cannot be read.
const DAMAGED: &str = "damaged-";

/// Which checkpoints stay when a new one has been saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::train) struct Retention {
    /// The newest ones, at least 1.
    pub(in crate::train) last: usize,
    /// Those whose step is a multiple of this, for good; 0 for none.
    pub(in crate::train) every_steps: u64,
    /// The newest one up to this step, which a rollback would go to.
    pub(in crate::train) healthy_step: u64,
}

/// What becomes of checkpoints later than the one that a run goes on from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::train) enum Later {
    /// They belong to a course that is left, and are removed.
    Left,
    /// They are damaged, and are set aside.
    Damaged,
}

/// The folder of a step's checkpoint.
pub(in crate::train) fn folder_of(directory: &Path, step: u64) -> PathBuf {
    directory.join(format!("{STEP}{step:08}"))
}

/// Finished checkpoints below a directory with their steps, newest first; none if the directory does not exist.
///
/// # Errors
/// A directory that cannot be listed.
pub fn list(directory: &Path) -> Result<Vec<(u64, PathBuf)>, TrainError> {
    let step = |path: &Path| file_name(path).strip_prefix(STEP).and_then(|step| step.parse().ok());
    let mut found: Vec<(u64, PathBuf)> = entries(directory)?.into_iter().filter_map(|path| Some((step(&path)?, path))).collect();
    found.sort_unstable_by_key(|(step, _)| std::cmp::Reverse(*step));
    Ok(found)
}

/// The newest undamaged checkpoint of at most `step` steps; as [`Checkpoint::newest`].
pub(in crate::train) fn newest_up_to(directory: &Path, step: u64) -> Result<Option<Checkpoint>, TrainError> {
    let mut last = None;
    let found: Vec<PathBuf> = list(directory)?.into_iter().filter(|(found, _)| *found <= step).map(|(_, folder)| folder).collect();
    for folder in &found {
        match Checkpoint::load(folder) {
            Ok(checkpoint) => return Ok(Some(checkpoint)),
            Err(error @ TrainError::CheckpointVersion { .. }) => return Err(error),
            Err(error) => {
                tracing::warn!("{error}; trying the one before");
                last = Some(error);
            }
        }
    }
    last.map_or(Ok(None), |last| Err(TrainError::NoCheckpoint { path: directory.into(), count: found.len(), last: Box::new(last) }))
}

/// Removes the checkpoints that need not stay. One that cannot be removed is named in a warning: it does no harm.
pub(in crate::train) fn prune(files: &dyn Files, directory: &Path, retention: Retention) -> Result<(), TrainError> {
    let found = list(directory)?;
    let healthy = found.iter().map(|(step, _)| *step).find(|&step| step <= retention.healthy_step);
    for (step, folder) in found.into_iter().skip(retention.last) {
        let for_good = retention.every_steps > 0 && step > 0 && step.is_multiple_of(retention.every_steps);
        if !for_good && Some(step) != healthy {
            remove(files, &folder).unwrap_or_else(|error| tracing::warn!("an old checkpoint cannot be removed: {error}"));
        }
    }
    Ok(())
}

/// Tidies up before a run goes on from `step`: what an interrupted save left, and later checkpoints.
///
/// # Errors
/// Whatever the file system reports.
pub(in crate::train) fn clean(files: &dyn Files, directory: &Path, step: u64, later: Later) -> Result<(), TrainError> {
    remove_unfinished(directory)?;
    for (_, folder) in list(directory)?.into_iter().filter(|(found, _)| *found > step) {
        match later {
            Later::Left => {
                tracing::warn!("removing {}: the run goes on from step {step}", folder.display());
                remove(files, &folder)?;
            }
            Later::Damaged => {
                let aside = folder.with_file_name(format!("{DAMAGED}{}", file_name(&folder)));
                tracing::warn!("{} is damaged and is now {}; remove it when you have seen it", folder.display(), file_name(&aside));
                files.remove_folder(&aside).map_err(TrainError::io(&aside))?;
                files.rename(&folder, &aside).map_err(TrainError::io(&folder))?;
            }
        }
    }
    Ok(())
}

/// Removes a checkpoint, renamed first so that it is never seen half removed; an absent one is no error.
pub(super) fn remove(files: &dyn Files, folder: &Path) -> Result<(), TrainError> {
    if !folder.exists() {
        return Ok(());
    }
    let leaving = unfinished(&folder.with_file_name(format!("old-{}", file_name(folder))));
    files.remove_folder(&leaving).map_err(TrainError::io(&leaving))?;
    files.rename(folder, &leaving).map_err(TrainError::io(folder))?;
    sync_parent(files, folder)?;
    files.remove_folder(&leaving).map_err(TrainError::io(leaving))
}
