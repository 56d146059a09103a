//! Memory that kernels share between calls: asking the system for megabytes anew costs more than filling them.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

/// Elements in a cache line: where buffers begin.
const LINE: usize = 16;

/// Buffers that are not in use.
#[derive(Debug, Default)]
pub(super) struct ScratchPool {
    free: Mutex<Vec<Vec<f32>>>,
}

impl ScratchPool {
    /// A buffer of `len` elements of any value; it goes back when it is dropped.
    pub fn take(&self, len: usize) -> Scratch<'_> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        // The smallest that is large enough, or else the largest, which then grows.
        let fits = |buffer: &Vec<f32>| buffer.len() >= len + LINE;
        let best =
            (0..free.len()).min_by_key(|&index| (!fits(&free[index]), if fits(&free[index]) { free[index].len() } else { usize::MAX - free[index].len() }));
        let mut buffer = best.map(|index| free.swap_remove(index)).unwrap_or_default();
        drop(free);
        if buffer.len() < len + LINE {
            // The content is of no use: a new buffer saves copying it.
            buffer = vec![0.0; len + LINE];
        }
        let start = buffer.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
        Scratch { pool: self, buffer, start, len }
    }
}

/// A buffer that begins at a cache line.
pub(super) struct Scratch<'a> {
    pool: &'a ScratchPool,
    buffer: Vec<f32>,
    start: usize,
    len: usize,
}

impl Deref for Scratch<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.buffer[self.start..self.start + self.len]
    }
}

impl DerefMut for Scratch<'_> {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.buffer[self.start..self.start + self.len]
    }
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        self.pool.free.lock().unwrap_or_else(PoisonError::into_inner).push(std::mem::take(&mut self.buffer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_used_again_and_the_best_fitting_first() {
        let pool = ScratchPool::default();
        let (small, large) = (pool.take(100), pool.take(1000));
        let (small_at, large_at) = (small.as_ptr(), large.as_ptr());
        drop((small, large));
        let again = pool.take(90);
        assert_eq!(again.as_ptr(), small_at);
        assert_eq!(again.len(), 90);
        assert_eq!(pool.take(500).as_ptr(), large_at);
    }
}
