//! Which images an epoch's batches hold.

use super::random::{Purpose, Random};

/// A place in the endless sequence of batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) epoch: usize,
    pub(super) batch: usize,
}

/// Walks through the batches, epoch after epoch, each in its own random order; the incomplete last batch is left out.
pub(super) struct Schedule {
    seed: u64,
    images: usize,
    batch_size: usize,
    next: Position,
    /// The order of the images in `next.epoch`.
    order: Vec<usize>,
}

impl Schedule {
    /// The sequence from `next` on; a batch past the end of its epoch counts on into the following ones.
    pub(super) fn new(seed: u64, images: usize, batch_size: usize, next: Position) -> Schedule {
        let batches = images / batch_size;
        let next = Position { epoch: next.epoch + next.batch / batches, batch: next.batch % batches };
        Schedule { seed, images, batch_size, next, order: epoch_order(seed, images, next.epoch) }
    }

    /// The next batch and its images' indices.
    pub(super) fn advance(&mut self) -> (Position, Vec<usize>) {
        let position = self.next;
        let indices = self.order[position.batch * self.batch_size..][..self.batch_size].to_vec();
        self.next.batch += 1;
        if self.next.batch == self.images / self.batch_size {
            self.next = Position { epoch: position.epoch + 1, batch: 0 };
            self.order = epoch_order(self.seed, self.images, self.next.epoch);
        }
        (position, indices)
    }
}

fn epoch_order(seed: u64, images: usize, epoch: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..images).collect();
    Random::new(seed, Purpose::Shuffle, epoch as u64, 0).shuffle(&mut order);
    order
}
