//! Folders of images: class folders, or all in one.

use std::path::{Path, PathBuf};

use super::dataset::{Found, is_image};
use super::error::DataError;

/// Lists the images of a folder, sorted by path. The class of an image is the folder directly below `root` that it is
/// in (at any depth), as in torchvision's `ImageFolder`; images of a flat folder have none.
pub(super) fn scan(root: &Path) -> Result<Vec<Found>, DataError> {
    let mut flat = Vec::new();
    let mut nested = Vec::new();
    for (path, is_folder) in list(root)? {
        let name = file_name(&path);
        if !is_folder {
            if is_image(&path) {
                flat.push(Found { name, class: None, place: None });
            }
        } else if !name.starts_with('.') {
            walk(&path, &name, &name, &mut nested)?;
        }
    }
    if !flat.is_empty() && !nested.is_empty() {
        return Err(DataError::Mixed { path: root.into(), flat: flat.len(), nested: nested.len() });
    }
    flat.append(&mut nested);
    flat.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(flat)
}

fn walk(folder: &Path, prefix: &str, class: &str, found: &mut Vec<Found>) -> Result<(), DataError> {
    for (path, is_folder) in list(folder)? {
        let name = format!("{prefix}/{}", file_name(&path));
        if is_folder {
            walk(&path, &name, class, found)?;
        } else if is_image(&path) {
            found.push(Found { name, class: Some(class.to_owned()), place: None });
        }
    }
    Ok(())
}

/// The entries of a folder, and whether each is a folder itself; links are followed.
fn list(folder: &Path) -> Result<Vec<(PathBuf, bool)>, DataError> {
    let io = |source| DataError::Io { path: folder.into(), source };
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        let path = entry.path();
        let kind = entry.file_type().map_err(io)?;
        let is_folder = if kind.is_symlink() { path.is_dir() } else { kind.is_dir() };
        entries.push((path, is_folder));
    }
    Ok(entries)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
