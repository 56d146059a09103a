//! Evaluation of an exported encoder.

pub mod augmented;
mod confusion;
mod error;
mod features;
pub mod knn;
pub mod linear;
mod scores;

pub(crate) use confusion::csv_field;
pub use confusion::{confusion_csv, confusion_png, per_class_csv};
pub use error::EvalError;
pub use features::{Extraction, Features, Representation, extract};
pub use scores::{ClassScore, Rankings, Scores, TOP};
