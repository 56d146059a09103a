//! One function over many images, on all cores.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::error::DataError;
use crate::machine::thread_count;

/// Calls `work` with a thread's own state for each of `indices`; the results come in the order of the indices.
pub(crate) fn for_each_image<S: Default, T: Send>(
    indices: std::ops::Range<usize>,
    workers: usize,
    work: impl Fn(&mut S, usize) -> T + Sync,
) -> Result<Vec<T>, DataError> {
    let next = AtomicUsize::new(indices.start);
    let run = || {
        let mut state = S::default();
        let mut made = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= indices.end {
                return made;
            }
            made.push((index, work(&mut state, index)));
        }
    };
    let mut made = std::thread::scope(|scope| {
        let threads = (0..thread_count(workers).min(indices.len())).map(|_| std::thread::Builder::new().spawn_scoped(scope, run).map_err(DataError::Spawn));
        let threads = threads.collect::<Result<Vec<_>, _>>()?;
        let mut made = Vec::with_capacity(indices.len());
        for thread in threads {
            made.append(&mut thread.join().map_err(|_| DataError::WorkerPanicked)?);
        }
        Ok::<_, DataError>(made)
    })?;
    made.sort_unstable_by_key(|(index, _)| *index);
    Ok(made.into_iter().map(|(_, result)| result).collect())
}
