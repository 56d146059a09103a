//! Work split over threads, without owning any.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use ort::operator::ComputeContext;

/// Something that runs independent tasks, possibly at the same time.
pub(super) trait Parallel {
    /// Calls `task` with 0…`tasks` − 1.
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) -> Result<(), KernelError>;
}

/// Why a kernel could not finish.
#[derive(Debug, thiserror::Error)]
pub(super) enum KernelError {
    /// A task panicked: a defect of the kernel.
    #[error("a part of the kernel panicked: {0}")]
    Panic(String),
    /// Shapes that do not belong together.
    #[error("{0}")]
    Shape(String),
    /// ONNX Runtime's thread pool.
    #[error("ONNX Runtime's thread pool: {0}")]
    Pool(#[from] ort::Error),
}

/// ONNX Runtime's own thread pool.
pub(super) struct OrtPool<'a>(pub(super) &'a ComputeContext);

impl Parallel for OrtPool<'_> {
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) -> Result<(), KernelError> {
        // A panic must not unwind into ONNX Runtime: it would abort the process without a message.
        let panic = Mutex::new(None);
        // One batch a task lets threads take the next one when they are done: with one batch a thread, all wait for the one
        // whose processor does something else.
        self.0.par_for(tasks, tasks, |index| {
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| task(index))) {
                let message = payload.downcast_ref::<String>().cloned().or_else(|| payload.downcast_ref::<&str>().map(|&text| text.to_owned()));
                *panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(message.unwrap_or_default());
            }
        })?;
        match panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(message) => Err(KernelError::Panic(message)),
            None => Ok(()),
        }
    }
}

/// Calls `task` once with each of `parts`: the way to hand every task its own piece of an output.
pub(super) fn for_each<T: Send>(parallel: &dyn Parallel, parts: impl IntoIterator<Item = T>, task: impl Fn(usize, T) + Sync) -> Result<(), KernelError> {
    let parts: Vec<Mutex<Option<T>>> = parts.into_iter().map(|part| Mutex::new(Some(part))).collect();
    parallel.run(parts.len(), &|index| {
        let part = parts[index].lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(part) = part {
            task(index, part);
        }
    })
}
