//! Integration tests across `graphgen`, `runtime` and ONNX Runtime. The tests are in `tests/tests`.
#![warn(missing_docs)]

pub mod hostile;
