//! The training API's checkpoint: a flatbuffer with the identifier `ODTC`, version 2.
//!
//! Tables and the numbers of their fields, as far as they are written here (`onnxruntime/core/flatbuffers/schema`):
//!
//! | table | fields |
//! |---|---|
//! | Checkpoint | 0 version i32, 1 module state, 2 optimizer groups, 3 properties |
//! | ModuleState | 0 trained parameters, 1 frozen parameters, 2 nominal bool, 3 external data bool |
//! | Tensor | 0 name, 1 doc string, 2 dims [i64], 3 data type i32, 4 raw data [u8], 5 strings, 6 offset of external data i64 |
//! | OptimizerGroup | 0 name, 1 step i64, 2 initial learning rate f32, 3 states |
//! | ParameterOptimizerState | 0 parameter's name, 1 moments [Tensor] |

mod read;
#[cfg(test)]
mod tests;
mod write;

use std::collections::BTreeMap;

use crate::weights::{WeightTensor, Weights};

/// Marks the file as a checkpoint.
const IDENTIFIER: &str = "ODTC";
/// Version of the format.
const VERSION: i32 = 2;
/// The one group that the training API knows.
const GROUP: &str = "group0";
/// Names of a parameter's first and second moment.
const MOMENTS: [&str; 2] = ["momentum0", "momentum1"];
/// `TensorProto.DataType` of f32.
const FLOAT: i32 = 1;
/// Bytes of weights from which on they go into a file of their own; a flatbuffer ends at 2 GiB.
const EXTERNAL_FROM: usize = 1 << 30;
/// Bytes of weights and moments that a flatbuffer takes; the rest is left to names and tables.
const MAX_INSIDE: usize = (1 << 31) - (1 << 24);

/// Why a checkpoint could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// More moments than the format holds.
    #[error("{bytes} bytes of weights and moments do not fit the training API's checkpoint, which holds at most {MAX_INSIDE}; train with --engine stock")]
    TooLarge {
        /// Their size.
        bytes: usize,
    },
    /// Bytes that are no checkpoint.
    #[error("not a checkpoint of the training API: {0}")]
    Damaged(&'static str),
}

/// What the training API's checkpoint holds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TrainingCheckpoint {
    /// Parameters that are trained.
    pub parameters: Weights,
    /// Tensors that the optimizer leaves alone: running statistics.
    pub frozen: Weights,
    /// The optimizer's state; absent before the first update, when it is zero.
    pub optimizer: Option<OptimizerGroup>,
}

/// The optimizer's state.
#[derive(Debug, Clone, PartialEq)]
pub struct OptimizerGroup {
    /// Updates made.
    pub step: i64,
    /// Learning rate to start with.
    pub learning_rate: f32,
    /// First and second moment of every parameter.
    pub moments: BTreeMap<String, [WeightTensor; 2]>,
}

/// The files of a checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckpointFiles {
    /// `checkpoint`.
    pub checkpoint: Vec<u8>,
    /// `checkpoint.data`: the weights of large networks.
    pub data: Option<Vec<u8>>,
}

fn bytes_of<'a>(tensors: impl Iterator<Item = &'a WeightTensor>) -> usize {
    tensors.map(|tensor| 4 * tensor.data.len()).sum()
}

impl TrainingCheckpoint {
    /// The checkpoint's files. Equal checkpoints give equal bytes.
    ///
    /// # Errors
    /// Moments beyond 2 GiB.
    pub fn to_files(&self) -> Result<CheckpointFiles, CheckpointError> {
        self.files(EXTERNAL_FROM)
    }

    fn files(&self, external_from: usize) -> Result<CheckpointFiles, CheckpointError> {
        let weights = bytes_of(self.parameters.values().chain(self.frozen.values()));
        let moments = bytes_of(self.optimizer.iter().flat_map(|group| group.moments.values()).flatten());
        let external = weights > external_from;
        let inside = moments + if external { 0 } else { weights };
        if inside > MAX_INSIDE {
            return Err(CheckpointError::TooLarge { bytes: inside });
        }
        Ok(write::files(self, external))
    }

    /// Reads the bytes of a checkpoint; `data` is what its `.data` file holds, for those that have one.
    ///
    /// # Errors
    /// Bytes that are no checkpoint of f32 tensors, and lengths that go beyond them.
    pub fn read(checkpoint: &[u8], data: Option<&[u8]>) -> Result<TrainingCheckpoint, CheckpointError> {
        read::checkpoint(checkpoint, data)
    }
}
