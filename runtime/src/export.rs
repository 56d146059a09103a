//! `encoder.onnx` and feature files.

use std::collections::BTreeMap;
use std::path::Path;

use graphgen::artifacts::{self, EncoderOptions};
use graphgen::weights::{WeightTensor, Weights, to_safetensors};
use ndarray::Array2;

use crate::train::checkpoint::Checkpoint;
use crate::train::{RunDirectory, TrainError};

/// The encoder of a run's newest undamaged checkpoint, and the steps it was trained for. Equal states give equal bytes.
///
/// # Errors
/// A directory without a checkpoint.
pub fn encoder_of_run(run: &Path, options: &EncoderOptions) -> Result<(Vec<u8>, u64), TrainError> {
    let run = RunDirectory::new(run);
    let Some(checkpoint) = Checkpoint::newest(&run.checkpoints())? else {
        let problem = format!("expected checkpoints in {}, found none; is this a directory that swav-rt train wrote?", run.checkpoints().display());
        return Err(TrainError::Run { path: run.root().into(), problem });
    };
    let bytes = artifacts::encoder(&checkpoint.progress.preset, &checkpoint.weights, options)?;
    Ok((bytes, checkpoint.progress.step))
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
