//! Evaluation of an exported encoder.

mod error;
mod features;
pub mod knn;

pub use error::EvalError;
pub use features::{Extraction, Features, Representation, extract};
