//! ONNX Runtime: the library, sessions and the state they share.

pub mod environment;
