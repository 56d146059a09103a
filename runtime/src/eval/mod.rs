//! Evaluation of an exported encoder.

pub mod augmented;
mod bounds;
mod confusion;
mod error;
mod features;
pub mod knn;
mod label_choice;
pub mod linear;
mod scores;
pub mod semisup;

pub use bounds::Bounds;
pub(crate) use confusion::csv_field;
pub use confusion::{confusion_csv, confusion_png, per_class_csv};
pub use error::EvalError;
pub use features::{Extraction, Features, Representation, extract};
pub use label_choice::LabelChoice;
pub use scores::{ClassScore, Rankings, Scores, TOP};
