//! Functions of the domain `swav`: operators whose body in standard operators is part of the file.
//!
//! Every ONNX Runtime runs the body; a runtime that registers a native kernel of the same domain and name runs that
//! instead. A body is written for the static shapes of one call: calls of other shapes get a body of their own, told
//! apart by ONNX's `overload` field.

pub mod batch_norm;
pub mod batch_norm_grad;
pub mod conv_grad;
pub mod convolution;
pub(crate) mod formulations;
pub mod l2_normalize;
pub mod max_pool;
pub mod max_pool_grad;
pub mod normalize_pixels;
pub mod optimizer;
pub mod relu_grad;
pub mod sinkhorn;
mod taps;
mod weight_gradient;
pub mod winograd;

use crate::ir::{Graph, TensorType, ValueId};

/// Version of the domain `swav`.
pub const SWAV_VERSION: i64 = 1;

/// Starts a body: a graph with one input for each type.
pub(crate) fn body_inputs<const N: usize>(names: [&str; N], types: &[&TensorType]) -> (Graph, [ValueId; N]) {
    let mut graph = Graph::new();
    let mut types = types.iter();
    let inputs = names.map(|name| graph.input(name, (*types.next().expect("one type for each input")).clone()));
    (graph, inputs)
}
