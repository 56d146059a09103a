//! A preset → a directory of files.

use std::path::{Path, PathBuf};

use crate::manifest::Manifest;
use crate::preset::Preset;
use crate::weights::{Weights, WeightsError};

/// Why artifacts could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// A file could not be read or written.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The directory exists and holds something else.
    #[error("{path}: {problem}")]
    Directory {
        /// The directory or file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        problem: String,
    },
}

/// Writes `train_step.onnx`, `optimizer.onnx`, `init.safetensors` and `manifest.json` into `out` (created if absent).
///
/// # Errors
/// Files that cannot be written, and presets whose graph cannot be built.
pub fn export(preset: &Preset, out: &Path) -> Result<Manifest, ArtifactError> {
    let _ = (preset, out);
    unimplemented!()
}

/// Reads and checks `manifest.json` of an artifact directory.
///
/// # Errors
/// A missing or damaged manifest, another format version, a graph file whose hash differs.
pub fn open(directory: &Path) -> Result<Manifest, ArtifactError> {
    let _ = directory;
    unimplemented!()
}

/// Initial parameters and running statistics of a preset, seeded by `train.seed`.
pub fn initial_weights(preset: &Preset) -> Weights {
    let _ = preset;
    unimplemented!()
}

/// Element type of the exported encoder's input `image`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum EncoderInput {
    /// 8-bit pixels.
    #[default]
    U8,
    /// Pixels in 0…255 as f32.
    F32,
}

/// Options of [`encoder`].
#[derive(Debug, Clone, Default)]
pub struct EncoderOptions {
    /// Element type of `image`.
    pub input: EncoderInput,
    /// Static N, H, W; symbolic when absent.
    pub static_shape: Option<[usize; 3]>,
}

/// `encoder.onnx` as bytes: `image` [N, 3, H, W] → `features` f32 [N, F], `embedding` f32 [N, D]; BatchNorm folded,
/// normalisation inside, only `ai.onnx` operators. Equal weights give equal bytes.
///
/// # Errors
/// Weights that do not belong to the preset's network, by name and shape.
pub fn encoder(preset: &Preset, weights: &Weights, options: &EncoderOptions) -> Result<Vec<u8>, ArtifactError> {
    let _ = (preset, weights, options);
    unimplemented!()
}
