//! Native kernels of graph functions in the domain `swav`.
//!
//! ONNX Runtime prefers a registered operator over a model-local function of the same domain and name, so a graph
//! runs everywhere and is faster here. Registration holds for a whole session: register only what its provider and
//! element types cover.

mod batch_norm;
mod channel_last;
mod convolution;
mod gemm;
mod max_pool;
mod operator;
mod optimizer;
mod parallel;
mod peak;
mod pixels;
mod scratch;
mod simd;
pub mod sinkhorn;
mod sinkhorn_operator;
#[cfg(test)]
mod testing;

use graphgen::preset::Target;
pub use operator::{DOMAIN, KernelSet, native_functions, native_operators};
use parallel::Parallel;
pub use peak::measured_peak;
use scratch::ScratchPool;
pub use sinkhorn_operator::{SinkhornOperator, sinkhorn_calls};

impl KernelSet {
    /// What of it runs in the graphs of a target: the kernels take channels-last maps, which `native` has and no other.
    pub fn in_graphs_of(self, target: Target) -> KernelSet {
        if target == Target::Native { self } else { KernelSet::Functions }
    }
}

/// What a kernel computes with.
struct Resources<'a> {
    parallel: &'a dyn Parallel,
    /// That `parallel` has, at least 1.
    threads: usize,
    pool: &'a ScratchPool,
    arch: pulp::Arch,
}
