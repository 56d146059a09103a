//! `manifest.json`: what an artifact directory holds, so that it can be run without its preset file.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::preset::{Preset, Target};
use crate::weights::ImportReport;

/// Version of the manifest's format; readers refuse others.
pub const MANIFEST_VERSION: u32 = 1;

/// A graph input or output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TensorSpec {
    /// Name in the graph.
    pub name: String,
    /// `f32`, `u8`, `i64` or `bool`.
    pub dtype: String,
    /// Static dimensions.
    pub shape: Vec<usize>,
}

/// Inputs and outputs of one graph file, in the order of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GraphSpec {
    /// File name inside the directory.
    pub file: String,
    /// SHA-256 of the file, hexadecimal.
    pub sha256: String,
    /// Inputs.
    pub inputs: Vec<TensorSpec>,
    /// Outputs.
    pub outputs: Vec<TensorSpec>,
}

/// The further graphs of `train.accumulate = N` above 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AccumulationSpec {
    /// `embed_step.onnx`: one micro-batch's embeddings.
    pub embed_step: GraphSpec,
    /// `assign_step.onnx`: the codes of all micro-batches.
    pub assign_step: GraphSpec,
}

/// The artifacts of ONNX Runtime's training API, in the folder `training_api`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainingApiSpec {
    /// What TrainStep takes, in this order.
    pub inputs: Vec<TensorSpec>,
    /// What TrainStep gives, in this order.
    pub outputs: Vec<TensorSpec>,
    /// SHA-256 of the models by file name, hexadecimal.
    pub sha256: BTreeMap<String, String>,
}

/// The content of `manifest.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`MANIFEST_VERSION`].
    pub version: u32,
    /// The fully resolved preset.
    pub preset: Preset,
    /// Formulations that were chosen.
    pub target: Target,
    /// `ai.onnx` opset.
    pub opset: i64,
    /// `com.microsoft` operators that the graphs use; empty for `portable`.
    pub microsoft_operators: Vec<String>,
    /// Functions of the domain `swav` that the graphs call: a runtime may replace them by native kernels.
    pub functions: Vec<String>,
    /// Trainable parameters, in graph order.
    pub parameters: Vec<TensorSpec>,
    /// BatchNorm running statistics, in graph order.
    pub running_statistics: Vec<TensorSpec>,
    /// `train_step.onnx`.
    pub train_step: GraphSpec,
    /// `optimizer.onnx`.
    pub optimizer: GraphSpec,
    /// What `train_step.onnx` needs beside itself where it is the step of one micro-batch.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub accumulation: Option<AccumulationSpec>,
    /// Loss scale that a run in mixed precision starts with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_loss_scale: Option<f64>,
    /// The training API's artifacts, where they have been written.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub training_api: Option<TrainingApiSpec>,
    /// SHA-256 over all graphs and the preset, hexadecimal: equal hashes mean interchangeable directories.
    pub hash: String,
    /// What `init.safetensors` took from a file of weights; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<ImportReport>,
}

impl Manifest {
    /// All graphs of the directory.
    pub fn graphs(&self) -> impl Iterator<Item = &GraphSpec> {
        let further = self.accumulation.iter().flat_map(|accumulation| [&accumulation.embed_step, &accumulation.assign_step]);
        [&self.train_step, &self.optimizer].into_iter().chain(further)
    }
}
