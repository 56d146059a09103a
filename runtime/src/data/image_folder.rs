//! Folders of images: class folders, or all in one.

use std::path::{Path, PathBuf};

use super::dataset::{Found, is_image};
use super::error::DataError;

/// What lies in a folder.
#[derive(Default)]
pub(super) struct Listing {
    /// Images, sorted by path.
    pub(super) images: Vec<Found>,
    /// What could not be listed.
    pub(super) problems: Vec<DataError>,
}

/// Lists the images of a folder, sorted by path. The class of an image is the folder directly below `root` that it is
/// in (at any depth), as in torchvision's `ImageFolder`; images of a flat folder have none.
pub(super) fn scan(root: &Path) -> Result<Listing, DataError> {
    let mut flat = Vec::new();
    let mut nested = Listing::default();
    let mut above = vec![canonical(root)?];
    for entry in list(root)? {
        let name = file_name(&entry.path);
        match entry.kind {
            Kind::File if is_image(&entry.path) => flat.push(Found { name, class: None, place: None }),
            Kind::Other if is_image(&entry.path) => nested.problems.push(DataError::NotAFile { path: entry.path }),
            Kind::NotUnicode => nested.problems.push(DataError::NotUnicode { path: entry.path }),
            Kind::Folder { linked } if !name.starts_with('.') => descend(&entry.path, linked, &name, &name, &mut above, &mut nested),
            _ => {}
        }
    }
    if !flat.is_empty() && !nested.images.is_empty() {
        return Err(DataError::Mixed { path: root.into(), flat: flat.len(), nested: nested.images.len() });
    }
    nested.images.append(&mut flat);
    nested.images.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(nested)
}

/// Walks a folder unless it is one of those `above` it, which a link can lead back to.
fn descend(folder: &Path, linked: bool, prefix: &str, class: &str, above: &mut Vec<PathBuf>, listing: &mut Listing) {
    let walked = canonical(folder).and_then(|place| {
        if linked && above.contains(&place) {
            return Err(DataError::LinkLoop { path: folder.into() });
        }
        above.push(place);
        let walked = walk(folder, prefix, class, above, listing);
        above.pop();
        walked
    });
    listing.problems.extend(walked.err());
}

fn walk(folder: &Path, prefix: &str, class: &str, above: &mut Vec<PathBuf>, listing: &mut Listing) -> Result<(), DataError> {
    for entry in list(folder)? {
        let name = format!("{prefix}/{}", file_name(&entry.path));
        match entry.kind {
            Kind::NotUnicode => listing.problems.push(DataError::NotUnicode { path: entry.path }),
            Kind::Folder { linked } => descend(&entry.path, linked, &name, class, above, listing),
            Kind::File if is_image(&entry.path) => listing.images.push(Found { name, class: Some(class.to_owned()), place: None }),
            Kind::Other if is_image(&entry.path) => listing.problems.push(DataError::NotAFile { path: entry.path }),
            _ => {}
        }
    }
    Ok(())
}

enum Kind {
    File,
    Folder {
        /// Reached through a symbolic link.
        linked: bool,
    },
    /// An image or a folder whose name is no Unicode text: names identify images in fingerprints, lists and messages.
    NotUnicode,
    /// A pipe, a device, a socket: reading one might never end.
    Other,
}

struct Entry {
    path: PathBuf,
    kind: Kind,
}

/// The entries of a folder; links are followed. A link that leads nowhere counts as a file, so that it is named when
/// it is read.
fn list(folder: &Path) -> Result<Vec<Entry>, DataError> {
    let io = |source| DataError::Io { path: folder.into(), source };
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        let path = entry.path();
        let own = entry.file_type().map_err(io)?;
        let linked = own.is_symlink();
        let kind = if linked { std::fs::metadata(&path).map(|metadata| metadata.file_type()).ok() } else { Some(own) };
        let is_unicode = path.file_name().is_some_and(|name| name.to_str().is_some());
        let kind = match kind {
            kind if !is_unicode && (is_image(&path) || kind.is_some_and(|kind| kind.is_dir())) => Kind::NotUnicode,
            Some(kind) if kind.is_dir() => Kind::Folder { linked },
            Some(kind) if !kind.is_file() => Kind::Other,
            _ => Kind::File,
        };
        entries.push(Entry { path, kind });
    }
    Ok(entries)
}

fn canonical(folder: &Path) -> Result<PathBuf, DataError> {
    folder.canonicalize().map_err(|source| DataError::Io { path: folder.into(), source })
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
