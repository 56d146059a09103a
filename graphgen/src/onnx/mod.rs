//! ONNX files: the protobuf messages, the writer, reading files back, inspection.

mod cost;
mod emulate;
mod file;
mod functions;
mod inspection;
#[cfg(test)]
mod inspection_tests;
mod lower;
#[rustfmt::skip]
pub mod proto;
mod tensor;
#[cfg(test)]
mod tests;
mod writer;

pub use cost::Cost;
pub use emulate::emulate_f16;
pub use file::{FileError, encode, read_model};
pub use functions::FunctionNames;
pub use inspection::{Inspection, Size, inspect};
pub use writer::{Dim, ModelOptions, write_model};

pub(crate) use functions::{NUMBER_SEPARATOR, body_nodes};
pub(crate) use inspection::operator_name;
pub(crate) use tensor::{attribute, data_type, graph_attribute, tensor, tensor_attribute, value_info};

/// Version of `ai.onnx` that files are written for: the newest whose kernels CUDA's and DirectML's providers share.
pub const OPSET: i64 = 17;
