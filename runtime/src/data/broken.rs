//! Images that cannot be read: counted, named, listed, and an error when there are too many.

use std::collections::HashSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

use super::error::DataError;

/// Broken images named in an error, and logged one by one.
const NAMED: usize = 5;

/// What is done about images that cannot be read. Another image always stands in for one, the same in every run.
#[derive(Debug, Clone, PartialEq)]
pub struct BrokenPolicy {
    /// Share of an epoch's images, 0 to 1, above which broken ones are an error.
    pub max_share: f64,
    /// File that every broken image is added to, once, a line each with what is wrong.
    pub list: Option<PathBuf>,
}

impl Default for BrokenPolicy {
    fn default() -> BrokenPolicy {
        BrokenPolicy { max_share: 0.01, list: None }
    }
}

/// Keeps count of a stream's broken images.
#[derive(Debug)]
pub(super) struct BrokenImages {
    policy: BrokenPolicy,
    images_per_epoch: usize,
    /// Epoch of the last batch, its broken images so far and the first of their names.
    epoch: usize,
    count: usize,
    names: Vec<String>,
    /// Lines of the list; `None` until the first broken image.
    listed: Option<HashSet<String>>,
}

impl BrokenImages {
    pub(super) fn new(policy: BrokenPolicy, images_per_epoch: usize) -> BrokenImages {
        BrokenImages { policy, images_per_epoch, epoch: 0, count: 0, names: Vec::new(), listed: None }
    }

    /// Counts those of a batch: place in the batch and what is wrong.
    pub(super) fn count(&mut self, epoch: usize, mut broken: Vec<(usize, String)>) -> Result<(), DataError> {
        if epoch != self.epoch {
            (self.epoch, self.count) = (epoch, 0);
            self.names.clear();
        }
        // In the batch's order, not in that of the threads.
        broken.sort_unstable();
        for (_, message) in broken {
            self.count += 1;
            self.list(&message)?;
            if self.count <= NAMED {
                tracing::warn!("epoch {epoch}: another image stands in for a broken one: {message}");
                self.names.push(message);
            } else if self.count == NAMED + 1 {
                tracing::warn!("epoch {epoch}: further broken images are counted, not named");
            }
        }
        if self.count as f64 > self.policy.max_share * self.images_per_epoch as f64 {
            return Err(DataError::TooManyBroken {
                epoch,
                broken: self.count,
                percent: self.policy.max_share * 100.0,
                images: self.images_per_epoch,
                names: self.names.clone(),
            });
        }
        Ok(())
    }

    /// Adds a line to the list unless it is there, from an earlier epoch or run.
    fn list(&mut self, message: &str) -> Result<(), DataError> {
        let Some(path) = &self.policy.list else { return Ok(()) };
        let error = |source| DataError::Io { path: path.clone(), source };
        let listed = match &mut self.listed {
            Some(listed) => listed,
            None => {
                let before = match std::fs::read_to_string(path) {
                    Ok(text) => text.lines().map(str::to_owned).collect(),
                    Err(source) if source.kind() == std::io::ErrorKind::NotFound => HashSet::new(),
                    Err(source) => return Err(error(source)),
                };
                self.listed.insert(before)
            }
        };
        let line = message.replace(['\n', '\r'], " ");
        if listed.contains(&line) {
            return Ok(());
        }
        let mut file = OpenOptions::new().create(true).append(true).open(path).map_err(error)?;
        writeln!(file, "{line}").map_err(error)?;
        listed.insert(line);
        Ok(())
    }
}
