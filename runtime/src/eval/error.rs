//! What can go wrong in an evaluation.

use graphgen::artifacts::ArtifactError;

use crate::data::DataError;
use crate::session::EngineError;

/// Why an encoder could not be evaluated.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// The images.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The encoder.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Graphs that could not be built or written.
    #[error(transparent)]
    Artifacts(#[from] ArtifactError),
    /// Images without classes.
    #[error("{name} has no label: an evaluation needs a folder of class folders (or a .tar of one), one folder of images for each class")]
    Unlabelled {
        /// The first such image.
        name: String,
    },
    /// A class that can never be predicted.
    #[error("the test class {class} does not occur in the training images, whose classes are {known}; do both folders have the same class folders?")]
    UnknownClass {
        /// The class.
        class: String,
        /// The first known classes.
        known: String,
    },
    /// A setting that cannot work.
    #[error("{setting}: {problem}")]
    Setting {
        /// The option.
        setting: &'static str,
        /// What was expected and what came.
        problem: String,
    },
}
