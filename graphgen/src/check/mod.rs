//! Whether a provider of ONNX Runtime has a kernel for every node of a graph: known on any machine, from tables of the
//! provider's kernels (`graphgen/kernels`), function bodies included.

mod tables;
mod walk;

use std::fmt;

use crate::onnx::proto::ModelProto;
use tables::Tables;

/// A provider with its way of running graphs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum ExecutionProvider {
    /// CPUExecutionProvider.
    Cpu,
    /// CUDAExecutionProvider.
    Cuda,
    /// CUDAExecutionProvider with `prefer_nhwc`.
    CudaNhwc,
    /// DmlExecutionProvider.
    Directml,
    /// CPUExecutionProvider of the training build.
    OrtTraining,
}

impl fmt::Display for ExecutionProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ExecutionProvider::Cpu => "cpu",
            ExecutionProvider::Cuda => "cuda",
            ExecutionProvider::CudaNhwc => "cuda-nhwc",
            ExecutionProvider::Directml => "directml",
            ExecutionProvider::OrtTraining => "ort-training",
        })
    }
}

/// A node that the provider does not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Names of the calls that the node stands in, then its own, joined by ` › `; an operator stands for a name that is empty.
    pub node: String,
    /// Operator, `domain::name` outside `ai.onnx`.
    pub operator: String,
    /// Why.
    pub reason: String,
}

/// What [`check`] found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Nodes that were judged, those of a function once for each call.
    pub nodes: usize,
    /// Nodes that the provider does not take, in the order of the file.
    pub refusals: Vec<Refusal>,
    /// Nodes some of whose element types the file does not say: judged by what it does say.
    pub untyped: usize,
    /// Calls of functions that were left to a native kernel of the host.
    pub native: usize,
}

/// Judges every node of a model, inside functions as well. Calls of functions named in `native` are not looked into: the
/// runtime replaces them by kernels of its own.
pub fn check(model: &ModelProto, provider: ExecutionProvider, native: &[String]) -> Report {
    walk::walk(model, &Tables::of(provider), native)
}

#[cfg(test)]
mod tests;
