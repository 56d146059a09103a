//! Encoders.

pub mod resnet;
