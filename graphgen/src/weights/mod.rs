//! Named weights on the host: their files, and how they fit a network.
//!
//! [`WeightsFile`] reads safetensors files and PyTorch checkpoints, [`import()`] matches them with a network,
//! [`export()`] gives trained weights back under official or torchvision's names.

mod atomic;
mod element;
mod error;
mod export;
mod file;
mod import;
mod names;
mod pth;
mod safetensors;
mod safetensors_writer;

use std::collections::BTreeMap;

pub use atomic::write_atomically;
pub use element::ElementType;
pub use error::WeightsError;
pub use export::{Naming, export};
pub use file::{TensorInfo, WeightsFile};
pub use import::{FreshTensor, Import, ImportReport, UnusedTensor, import};
pub use names::{TorchvisionModel, torchvision_model};
pub use pth::{PickleError, PthError};
pub use safetensors::{from_safetensors, load_safetensors, to_safetensors};
pub use safetensors_writer::SafetensorsWriter;

/// An f32 tensor in row-major order.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightTensor {
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Elements, as many as the product of `shape`.
    pub data: Vec<f32>,
}

impl WeightTensor {
    /// A tensor of zeros.
    pub fn zeros(shape: &[usize]) -> WeightTensor {
        WeightTensor { shape: shape.to_vec(), data: vec![0.0; shape.iter().product()] }
    }
}

/// Weights by PyTorch parameter name, in the order of the names.
pub type Weights = BTreeMap<String, WeightTensor>;

/// Shapes of a network's parameters and running statistics, by PyTorch parameter name.
pub type Shapes = BTreeMap<String, Vec<usize>>;
