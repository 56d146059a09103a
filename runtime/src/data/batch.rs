//! A batch of crops, and the ring its buffers go back to.

use std::sync::Arc;
use std::time::Duration;

use super::ring::Ring;
use super::schedule::Position;
use super::stages::StageTimes;

/// The crops of N·B images. Dropping it gives its buffers back to the loader.
#[derive(Debug)]
pub struct Batch {
    pub(super) ring: Arc<Ring>,
    pub(super) number: u64,
    pub(super) position: Position,
    pub(super) indices: Vec<usize>,
    pub(super) buffers: Vec<Vec<u8>>,
    pub(super) waited: Duration,
    pub(super) substitutes: usize,
    pub(super) times: StageTimes,
}

impl Batch {
    /// The crops of a group, u8 [N · count · B, 3, S, S]: micro-batch after micro-batch, the first B images in the first,
    /// and each of them crop-major: all B of its first crop, then all B of its second, ….
    ///
    /// # Panics
    /// If there is no such group.
    pub fn crops(&self, group: usize) -> &[u8] {
        &self.buffers[group]
    }

    /// The [crops](Self::crops) of all groups.
    pub fn groups(&self) -> Vec<&[u8]> {
        self.buffers.iter().map(Vec::as_slice).collect()
    }

    /// Which of the loader's batches it is: no other one has its number, of whatever stream.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Epoch, from 0.
    pub fn epoch(&self) -> usize {
        self.position.epoch
    }

    /// Place in the epoch, from 0.
    pub fn index(&self) -> usize {
        self.position.batch
    }

    /// Indices of the N·B images in the data set, as scheduled: a broken image keeps its index though another one's
    /// pixels stand in for it.
    pub fn indices(&self) -> &[usize] {
        &self.indices
    }

    /// How long [`BatchStream::next`](super::BatchStream::next) blocked for this batch: near zero where the loader keeps up.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// Images that another one stands in for, because they could not be read or decoded.
    pub fn substitutes(&self) -> usize {
        self.substitutes
    }

    /// What the loader's threads spent on this batch, summed over threads.
    pub fn stage_times(&self) -> StageTimes {
        self.times
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.ring.give_back(std::mem::take(&mut self.buffers));
    }
}
