//! The bounded ring of preallocated batches between the workers and the consumer.
//!
//! A worker claims a run of images of the newest batch, makes the crops of an image in its own memory and copies them to
//! their places. Which thread makes an image has no influence on its pixels.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::error::DataError;
use super::multi_crop::{MultiCrop, crop_bytes};
use super::schedule::{Position, Schedule};
use super::stages::StageTimes;

/// A batch being made.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) position: Position,
    pub(super) indices: Vec<usize>,
    pub(super) filled: Mutex<Filled>,
}

/// What has been made of a batch.
#[derive(Debug, Default)]
pub(super) struct Filled {
    pub(super) buffers: Vec<Vec<u8>>,
    pub(super) images: usize,
    /// Place in the batch and what was wrong with it.
    pub(super) broken: Vec<(usize, String)>,
    pub(super) error: Option<DataError>,
    pub(super) times: StageTimes,
}

/// A run of images of a batch, claimed by a worker.
pub(super) struct Claim {
    pub(super) slot: Arc<Slot>,
    pub(super) places: std::ops::Range<usize>,
}

/// The batches between workers and consumer.
pub(super) struct Ring {
    pub(super) batch_size: usize,
    pub(super) micro_batch_size: usize,
    /// Bytes of each group's buffer.
    group_bytes: Vec<usize>,
    state: Mutex<State>,
    /// A buffer has come back, or the stream has ended.
    work: Condvar,
    /// A batch is complete, or something failed.
    ready: Condvar,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("batch_size", &self.batch_size).finish_non_exhaustive()
    }
}

struct State {
    schedule: Schedule,
    /// Batches begun and not yet handed out, oldest first.
    slots: VecDeque<Arc<Slot>>,
    /// Images of the newest slot that have been claimed.
    claimed: usize,
    /// Buffers nobody uses.
    free: Vec<Vec<Vec<u8>>>,
    error: Option<DataError>,
    closed: bool,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panicked worker is reported through `State::error`; what it held is whole or no longer used.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ring {
    /// `batches`: how many there are at once, those that the consumer holds included.
    pub(super) fn new(multi_crop: &MultiCrop, (batch_size, micro_batches): (usize, usize), batches: usize, schedule: Schedule) -> Ring {
        let group_bytes: Vec<usize> = multi_crop.groups().iter().map(|group| group.count * batch_size * crop_bytes(group.size_px)).collect();
        let buffers = || group_bytes.iter().map(|&bytes| vec![0; bytes]).collect();
        let free = (0..batches).map(|_| buffers()).collect();
        let state = State { schedule, slots: VecDeque::new(), claimed: batch_size, free, error: None, closed: false };
        let micro_batch_size = batch_size / micro_batches;
        Ring { batch_size, micro_batch_size, group_bytes, state: Mutex::new(state), work: Condvar::new(), ready: Condvar::new() }
    }

    /// Up to `run` images to make; waits for a free buffer. `None` when the stream has ended.
    pub(super) fn claim(&self, run: usize) -> Option<Claim> {
        let mut state = lock(&self.state);
        loop {
            if state.closed {
                return None;
            }
            if state.claimed == self.batch_size
                && let Some(buffers) = state.free.pop()
            {
                let (position, indices) = state.schedule.advance();
                let filled = Mutex::new(Filled { buffers, ..Filled::default() });
                state.slots.push_back(Arc::new(Slot { position, indices, filled }));
                state.claimed = 0;
            }
            if state.claimed < self.batch_size {
                let places = state.claimed..(state.claimed + run).min(self.batch_size);
                state.claimed = places.end;
                let slot = Arc::clone(state.slots.back().expect("the newest slot stays until all of its images are made"));
                return Some(Claim { slot, places });
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Tells the consumer that a batch is complete.
    pub(super) fn complete(&self) {
        // The lock keeps the consumer from missing the signal between its look at the slot and its wait.
        let _state = lock(&self.state);
        self.ready.notify_all();
    }

    /// The oldest batch once it is complete; `None` if it is not by `deadline`.
    pub(super) fn take_oldest(&self, deadline: Option<Instant>) -> Result<Option<(Arc<Slot>, Filled)>, DataError> {
        let mut state = lock(&self.state);
        loop {
            if let Some(error) = state.error.take() {
                state.closed = true;
                self.work.notify_all();
                return Err(error);
            }
            if state.closed {
                return Err(DataError::WorkerPanicked);
            }
            if let Some(slot) = state.slots.front().map(Arc::clone) {
                let mut filled = lock(&slot.filled);
                if filled.images == self.batch_size {
                    let made = std::mem::take(&mut *filled);
                    drop(filled);
                    state.slots.pop_front();
                    return Ok(Some((slot, made)));
                }
            }
            let patience = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if patience == Some(Duration::ZERO) {
                return Ok(None);
            }
            if state.slots.is_empty() && state.free.is_empty() {
                // The consumer holds every batch there is: without another one it would wait for itself.
                state.free.push(self.group_bytes.iter().map(|&bytes| vec![0; bytes]).collect());
                self.work.notify_all();
            }
            state = match patience {
                None => self.ready.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(patience) => self.ready.wait_timeout(state, patience).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
    }

    pub(super) fn give_back(&self, buffers: Vec<Vec<u8>>) {
        lock(&self.state).free.push(buffers);
        self.work.notify_all();
    }

    pub(super) fn fail(&self, error: DataError) {
        let mut state = lock(&self.state);
        state.error.get_or_insert(error);
        self.ready.notify_all();
    }

    pub(super) fn close(&self) {
        lock(&self.state).closed = true;
        self.work.notify_all();
    }
}
