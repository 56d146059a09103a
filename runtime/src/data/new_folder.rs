//! Folders for results: new ones, filled as a whole or left empty.

use std::io::ErrorKind;
use std::path::Path;

use super::error::DataError;

/// Makes sure, before any work is done, that a folder is absent or empty: files of others are neither replaced nor mixed with ours.
///
/// # Errors
/// A folder with something in it, or one that cannot be read.
pub fn check_new_folder(folder: &Path) -> Result<(), DataError> {
    match std::fs::read_dir(folder).map(|mut entries| entries.next().is_some()) {
        Ok(true) => Err(DataError::NotEmpty { path: folder.into() }),
        Ok(false) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(source) => Err(DataError::Io { path: folder.into(), source }),
    }
}

/// Creates a folder, or takes an empty one, and lets `fill` write into it. After an error the folder is empty: a part would pass for
/// the whole, and may be what fills the disk.
///
/// # Errors
/// Those of [`check_new_folder`], a folder that cannot be created, and those of `fill`.
pub fn fill_new_folder<T, E: From<DataError>>(folder: &Path, fill: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    check_new_folder(folder)?;
    std::fs::create_dir_all(folder).map_err(|source| DataError::Io { path: folder.into(), source })?;
    let filled = fill();
    if filled.is_err() {
        // The error that led here is what matters.
        let _ = empty(folder);
    }
    filled
}

fn empty(folder: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        // A link is removed, not followed.
        if entry.file_type()?.is_dir() { std::fs::remove_dir_all(entry.path())? } else { std::fs::remove_file(entry.path())? }
    }
    Ok(())
}
