//! A text file that lists images.

use std::path::Path;

use super::dataset::Found;
use super::error::DataError;

/// Reads a list: a path a line, relative to the list's folder or absolute, and optionally a tab and the image's class.
/// Empty lines are passed over. Files are looked for when they are read.
pub(super) fn read(path: &Path) -> Result<Vec<Found>, DataError> {
    let text = std::fs::read_to_string(path).map_err(|source| DataError::Io { path: path.into(), source })?;
    let lines = text.lines().map(str::trim_end).filter(|line| !line.is_empty());
    let found = lines.map(|line| match line.split_once('\t') {
        Some((name, class)) => Found { name: name.to_owned(), class: Some(class.to_owned()), place: None },
        None => Found { name: line.to_owned(), class: None, place: None },
    });
    Ok(found.collect())
}
