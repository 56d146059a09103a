//! Batch normalisation over the batch's own statistics, with residual and ReLU: `swav::BatchNormTrain` and its gradient.
//!
//! Maps are channels-last, so that x is a matrix [rows, channels], a pixel a row. Memory decides: forward and backward
//! read their inputs once for [`sums`] over the rows and once more for the result.

mod forward;
mod gradient;
mod strips;
mod sums;
#[cfg(test)]
mod tests;

pub(super) use forward::BatchNormTrain;
pub(super) use gradient::BatchNormTrainGrad;

/// Elements that make a task worth handing to another thread, few enough to stay in the cache.
const TASK_ELEMENTS: usize = 32 * 1024;

/// Sizes of x [rows, channels].
#[derive(Debug, Clone, Copy)]
struct Matrix {
    rows: usize,
    channels: usize,
}

impl Matrix {
    /// That of x [N, C] or [N, H, W, C].
    fn new(shape: &[usize]) -> Result<Matrix, String> {
        let (&[.., channels], 2 | 4) = (shape, shape.len()) else {
            return Err(format!("expected x [N, C] or [N, H, W, C], got {shape:?}"));
        };
        if shape.contains(&0) {
            return Err(format!("expected values in every channel, got {shape:?}"));
        }
        Ok(Matrix { rows: shape.iter().product::<usize>() / channels, channels })
    }

    /// Elements of whole rows that make a task.
    fn elements_per_task(&self) -> usize {
        (TASK_ELEMENTS / self.channels).max(1) * self.channels
    }
}

/// Refuses maps [N, C, H, W].
fn check_layout(shape: &[usize], channels_last: bool) -> Result<(), String> {
    if shape.len() == 4 && !channels_last {
        return Err("expected channels-last maps, got channel-major ones: native kernels want graphs of the target `native`".into());
    }
    Ok(())
}

fn check_vectors(shapes: &[Vec<usize>], channels: usize) -> Result<(), String> {
    match shapes.iter().find(|shape| shape.as_slice() != [channels]) {
        Some(shape) => Err(format!("expected vectors of {channels} channels, got {shape:?}")),
        None => Ok(()),
    }
}
