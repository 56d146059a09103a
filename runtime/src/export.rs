//! What leaves a run: `encoder.onnx`, weights for PyTorch, and feature files.

use std::collections::BTreeMap;
use std::path::Path;

use graphgen::artifacts::{self, EncoderOptions};
use graphgen::weights::{self, Naming, TorchvisionModel, WeightTensor, Weights, to_safetensors, torchvision_model};
use ndarray::Array2;

use crate::train::checkpoint::Checkpoint;
use crate::train::{RunDirectory, TrainError};

/// The encoder of a run's newest undamaged checkpoint, and the steps it was trained for. Equal states give equal bytes.
///
/// # Errors
/// A directory without a checkpoint.
pub fn encoder_of_run(run: &Path, options: &EncoderOptions) -> Result<(Vec<u8>, u64), TrainError> {
    let checkpoint = newest_checkpoint(run)?;
    let bytes = artifacts::encoder(&checkpoint.progress.preset, &checkpoint.weights, options)?;
    Ok((bytes, checkpoint.progress.step))
}

/// A run's weights for PyTorch.
#[derive(Debug, Clone, PartialEq)]
pub struct ExportedWeights {
    /// The safetensors file.
    pub bytes: Vec<u8>,
    /// Steps that they were trained for.
    pub step: u64,
    /// The network that takes them, if torchvision's names were asked for.
    pub torchvision: Option<TorchvisionModel>,
}

/// The weights of a run's newest undamaged checkpoint as a safetensors file. Equal states give equal bytes.
///
/// # Errors
/// A directory without a checkpoint; a network that torchvision does not have, if its names are asked for.
pub fn weights_of_run(run: &Path, naming: Naming) -> Result<ExportedWeights, TrainError> {
    let checkpoint = newest_checkpoint(run)?;
    let (preset, step) = (&checkpoint.progress.preset, checkpoint.progress.step);
    let refuse = |problem| TrainError::Run { path: run.into(), problem };
    let torchvision = match naming {
        Naming::Torchvision => Some(torchvision_model(&preset.model).map_err(refuse)?),
        Naming::Swav => None,
    };
    let bytes = weights::export(preset, &checkpoint.weights, step, naming).map_err(refuse)?;
    Ok(ExportedWeights { bytes, step, torchvision })
}

/// A run's newest undamaged checkpoint.
pub(crate) fn newest_checkpoint(run: &Path) -> Result<Checkpoint, TrainError> {
    let run = RunDirectory::new(run);
    Checkpoint::newest(&run.checkpoints())?.ok_or_else(|| {
        let problem = format!("expected checkpoints in {}, found none; is this a directory that swav-rt train wrote?", run.checkpoints().display());
        TrainError::Run { path: run.root().into(), problem }
    })
}

/// Rows as the bytes of a NumPy file, format version 1.0: f32, row-major.
///
/// ```
/// let bytes = runtime::export::npy(&ndarray::array![[1.0, 2.0]]);
/// assert_eq!(&bytes[..6], b"\x93NUMPY");
/// assert_eq!(bytes.len(), 128 + 2 * 4);
/// ```
pub fn npy(rows: &Array2<f32>) -> Vec<u8> {
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}", rows.nrows(), rows.ncols());
    // Magic, version, length and header together fill whole blocks of 64 bytes, and the header ends with a line break.
    let length = (10 + header.len() + 1).next_multiple_of(64) - 10;
    header += &" ".repeat(length - header.len() - 1);
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend(u16::try_from(length).expect("two dimensions fit into one or two blocks").to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(rows.iter().flat_map(|value| value.to_le_bytes()));
    bytes
}

/// Rows as the bytes of a safetensors file with one tensor.
pub fn safetensors(name: &str, rows: &Array2<f32>) -> Vec<u8> {
    let tensor = WeightTensor { shape: vec![rows.nrows(), rows.ncols()], data: rows.iter().copied().collect() };
    to_safetensors(&Weights::from([(name.to_owned(), tensor)]), &BTreeMap::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numpy_header_is_as_numpy_writes_it() {
        // numpy.save of numpy.zeros((3, 5), "f4")
        let bytes = npy(&Array2::zeros((3, 5)));
        let mut expected = b"\x93NUMPY\x01\x00\x76\x00{'descr': '<f4', 'fortran_order': False, 'shape': (3, 5), }".to_vec();
        expected.resize(127, b' ');
        expected.push(b'\n');
        assert_eq!(bytes[..128], expected);
        assert_eq!(bytes.len(), 128 + 3 * 5 * 4);
    }

    #[test]
    fn a_directory_without_checkpoints_is_named() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let error = encoder_of_run(directory.path(), &EncoderOptions::default()).expect_err("no run").to_string();
        assert!(error.contains("swav-rt train"), "{error}");
    }
}
