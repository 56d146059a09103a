//! `[device]`: how a provider that is not the CPU works. Nothing here changes what a run computes.

use serde::{Deserialize, Serialize};

/// How the CUDA provider's memory grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ArenaGrowth {
    /// By what is asked for.
    SameAsRequested,
    /// To the next power of two.
    NextPowerOfTwo,
}

/// How cuDNN chooses the algorithm of a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConvolutionSearch {
    /// cuDNN's better heuristics.
    Exhaustive,
    /// cuDNN's quick heuristics.
    Heuristic,
}

/// `[device]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Device {
    /// Which of several devices, from 0.
    pub id: u32,
    /// Largest memory of the CUDA provider's arena, bytes; 0 for all there is.
    pub memory_limit_bytes: usize,
    /// How the CUDA provider's arena grows.
    pub arena_growth: ArenaGrowth,
    /// How cuDNN chooses convolutions.
    pub convolution_search: ConvolutionSearch,
    /// Whether cuDNN may use as much scratch memory as it likes.
    pub convolution_workspace: bool,
    /// Operators that may run on the CPU although the run is on a device, by operator name; without them such a node is an
    /// error. Sinkhorn-Knopp with `train.sinkhorn = "native"` need not be named.
    pub allow_on_cpu: Vec<String>,
}

impl Default for Device {
    fn default() -> Self {
        Device {
            id: 0,
            memory_limit_bytes: 0,
            arena_growth: ArenaGrowth::SameAsRequested,
            convolution_search: ConvolutionSearch::Exhaustive,
            convolution_workspace: true,
            allow_on_cpu: Vec::new(),
        }
    }
}
