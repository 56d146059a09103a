//! Trains, evaluates and exports encoders with graphs written by `graphgen`, in ONNX Runtime.

pub mod data;
pub mod eval;
pub mod kernels;
pub mod session;
pub mod train;
