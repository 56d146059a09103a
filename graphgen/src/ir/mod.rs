//! The graph that everything here builds, differentiates, evaluates and writes.

mod graph;
mod types;

pub use graph::{Graph, GraphError, Node, Value, ValueId, ValueSource};
pub use types::{DType, TensorData, TensorType};
