//! What the prototypes found: images sorted by prototype, as tables, folders and a gallery for the browser.

mod assign;
mod folders;
mod gallery;
mod tables;
mod thumbnails;

pub use assign::{Clusters, neighbours};
pub use folders::{Placing, place};
pub use gallery::{GalleryOptions, write_gallery};
pub use tables::{csv, json};

use std::path::PathBuf;

use crate::data::DataError;

/// Why clusters could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ClustersError {
    /// An image.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A file operation failed.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A link needs a file.
    #[error("{name} lies in an archive and cannot be linked; use --files copy")]
    NoFile {
        /// The image.
        name: String,
    },
    /// A sheet of thumbnails could not be encoded.
    #[error("{path}: {message}")]
    Encode {
        /// The sheet.
        path: PathBuf,
        /// The encoder's message.
        message: String,
    },
}

impl ClustersError {
    fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> ClustersError {
        let path = path.into();
        move |source| ClustersError::Io { path, source }
    }
}
