//! When a run saves, and what a failed save means.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::TrainError;
use super::checkpoint::{Progress, Retention, prune, save};
use super::files::Files;
use crate::session::EngineState;

/// Time after which a save that failed is tried again.
const RETRY: Duration = Duration::from_secs(60);

/// The saves of a run.
pub(super) struct Saves {
    pub(super) files: Arc<dyn Files>,
    /// The folder of checkpoints.
    directory: PathBuf,
    /// Step of the newest checkpoint.
    newest: Option<u64>,
    /// When a failed save is tried again.
    retry: Option<Instant>,
}

impl Saves {
    /// The saves of a run whose newest checkpoint is that of step `newest`.
    pub(super) fn new(files: Arc<dyn Files>, directory: PathBuf, newest: Option<u64>) -> Saves {
        Saves { files, directory, newest, retry: None }
    }

    /// Step of the newest checkpoint.
    pub(super) fn newest(&self) -> Option<u64> {
        self.newest
    }

    /// Whether a save failed a while ago.
    pub(super) fn retry_is_due(&self) -> bool {
        self.retry.is_some_and(|at| Instant::now() >= at)
    }

    /// Goes on from an earlier checkpoint.
    pub(super) fn go_back(&mut self, step: u64) {
        self.newest = Some(step);
        self.retry = None;
    }

    /// Saves, and removes what need not stay.
    ///
    /// # Errors
    /// Whatever the file system or the engine reports; earlier checkpoints stay then.
    pub(super) fn save(&mut self, progress: &Progress, state: &EngineState<'_>, retention: Retention) -> Result<(), TrainError> {
        self.files.create_folder(&self.directory).map_err(TrainError::io(&self.directory))?;
        save(&*self.files, &self.directory, progress, state)?;
        self.newest = Some(progress.step);
        self.retry = None;
        prune(&*self.files, &self.directory, retention)
    }

    /// A save in the middle of a run failed: the run goes on, and tries again later.
    pub(super) fn failed(&mut self, error: &TrainError) {
        self.retry = Some(Instant::now() + RETRY);
        let newest = self.newest.map_or("there is no checkpoint yet".to_owned(), |step| format!("the checkpoint of step {step} stays"));
        tracing::error!("cannot save: {error}. The run goes on and tries again; {newest}");
    }
}
