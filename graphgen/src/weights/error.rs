//! What can be wrong with a weights file.

use std::path::PathBuf;

use super::{ElementType, PthError};

/// What is wrong with a weights file.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// Reading or writing failed.
    #[error("{path}: {reason}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: std::io::Error,
    },
    /// Neither of the formats that can be read.
    #[error("{path}: neither a safetensors file nor a PyTorch checkpoint (.pth, .pth.tar, .pt of torch.save, zip or legacy format)")]
    Unknown {
        /// The file.
        path: PathBuf,
    },
    /// A damaged safetensors file.
    #[error("{path}: not a readable safetensors file: {reason}")]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A PyTorch checkpoint that is damaged or holds more than tensors and plain containers.
    #[error("{path}: {reason}")]
    Pth {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: PthError,
    },
    /// A tensor whose elements are no floating-point numbers that can be read.
    #[error("{path}: tensor {name} has type {element}, expected {expected}")]
    Type {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type.
        element: ElementType,
        /// Types that can be read here.
        expected: &'static str,
    },
    /// A tensor with a value that no network can work with.
    #[error(
        "{path}: tensor {name} holds {value} at place {place} (as f32), expected finite numbers; the training that wrote it may have diverged: take an \
         earlier checkpoint"
    )]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// NaN or an infinity.
        value: f32,
        /// Where, in row-major order.
        place: usize,
    },
    /// Weights of another network.
    #[error("{path}: {problem}")]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// What was expected and what came.
        problem: String,
    },
}
