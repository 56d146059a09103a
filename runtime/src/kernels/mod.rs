//! Native kernels of graph functions in the domain `swav`.
//!
//! ONNX Runtime prefers a registered operator over a model-local function of the same domain and name, so a graph
//! runs everywhere and is faster here. Registration holds for a whole session: register only what its provider and
//! element types cover.

mod operator;
pub mod sinkhorn;

pub use operator::{DOMAIN, SinkhornOperator, native_operators, sinkhorn_calls};
