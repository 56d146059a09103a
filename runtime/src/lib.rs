//! Trains, evaluates and exports encoders with graphs written by `graphgen`, in ONNX Runtime.

pub mod clusters;
pub mod commands;
pub mod data;
pub mod eval;
pub mod export;
pub mod kernels;
pub mod machine;
pub mod plan;
pub mod report;
pub mod session;
pub mod train;
