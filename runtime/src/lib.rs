//! Trains, evaluates and exports encoders with graphs written by `graphgen`, in ONNX Runtime.

pub mod kernels;
pub mod session;
