//! Writes the training step of self-supervised image encoders as ONNX graphs: forward, codes, swapped loss,
//! hand-derived gradients and optimizer, for any ONNX Runtime.
#![forbid(unsafe_code)]

pub mod artifacts;
pub mod manifest;
pub mod preset;
pub mod weights;
