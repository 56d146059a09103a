//! Writes the training step of self-supervised image encoders as ONNX graphs: forward, codes, swapped loss,
//! hand-derived gradients and optimizer, for any ONNX Runtime.
#![forbid(unsafe_code)]
#![allow(rustdoc::broken_intra_doc_links, reason = "shapes such as [N,C] are no links")]

pub mod artifacts;
pub mod autodiff;
pub mod backbones;
pub mod check;
pub mod functions;
pub mod gradcheck;
pub mod interpreter;
pub mod ir;
pub mod manifest;
pub mod methods;
pub mod nn;
pub mod onnx;
pub mod ops;
pub mod optim;
pub mod preset;
pub mod training_api;
pub mod weights;
