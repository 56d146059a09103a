//! Uncompressed tar archives: an index built once, members read with positional reads from any thread.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::dataset::{Found, Place, is_image};
use super::error::DataError;

/// Longest name of a class in a `.cls` member, bytes.
const MOST_CLASS_BYTES: u64 = 1024;

/// Blocks of an archive, bytes.
pub(super) const BLOCK: u64 = 512;
/// The two empty blocks at its end, bytes.
const END_MARK: u64 = 2 * BLOCK;

/// Lists the images of an archive, sorted by path. The class of a member is the text of the `.cls` member of the same name
/// (as WebDataset has it), or the name of the folder it is in.
pub(super) fn scan(path: &Path) -> Result<Vec<Found>, DataError> {
    let error = |source| DataError::Tar { path: path.into(), source };
    let io = |source| DataError::Io { path: path.into(), source };
    let file = File::open(path).map_err(io)?;
    let (len, mut end) = (file.metadata().map_err(io)?.len(), 0);
    let mut archive = ::tar::Archive::new(std::io::BufReader::with_capacity(1 << 16, file));
    let mut found: Vec<Found> = Vec::new();
    let mut classes = HashMap::new();
    for entry in archive.entries_with_seek().map_err(error)? {
        let mut entry = entry.map_err(error)?;
        let member = entry.path().map_err(error)?.into_owned();
        end = (entry.raw_file_position() + entry.size()).next_multiple_of(BLOCK);
        if member.extension().is_some_and(|extension| extension == "cls") && entry.size() <= MOST_CLASS_BYTES {
            let mut class = Vec::new();
            entry.read_to_end(&mut class).map_err(error)?;
            classes.insert(sample_key(&member.to_string_lossy()).to_owned(), String::from_utf8_lossy(&class).trim().to_owned());
            continue;
        }
        if !entry.header().entry_type().is_file() || !is_image(&member) {
            continue;
        }
        let class = member.parent().and_then(Path::file_name).map(|folder| folder.to_string_lossy().into_owned());
        let name = member.to_string_lossy().trim_start_matches("./").to_owned();
        found.push(Found { name, class, place: Some(Place::Bytes { offset: entry.raw_file_position(), len: entry.size() }) });
    }
    if len < end + END_MARK {
        tracing::warn!("{}: the archive has no end: it is cut off, or was never finished; {} images are in what there is", path.display(), found.len());
    }
    for image in &mut found {
        if let Some(class) = classes.get(sample_key(&image.name)) {
            image.class = Some(class.clone());
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// What the members of one WebDataset sample share: the path up to the first dot of the file name.
fn sample_key(name: &str) -> &str {
    let name = name.trim_start_matches("./");
    let file = name.rfind('/').map_or(0, |slash| slash + 1);
    name[file..].find('.').map_or(name, |dot| &name[..file + dot])
}

/// Fills `buffer` from `offset` without moving a shared cursor.
#[cfg(unix)]
pub(super) fn read_exact_at(file: &File, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset)
}

/// Fills `buffer` from `offset` without depending on a shared cursor.
#[cfg(windows)]
pub(super) fn read_exact_at(file: &File, mut buffer: &mut [u8], mut offset: u64) -> std::io::Result<()> {
    use std::os::windows::fs::FileExt;
    while !buffer.is_empty() {
        match file.seek_read(buffer, offset)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            read => {
                buffer = &mut buffer[read..];
                offset += read as u64;
            }
        }
    }
    Ok(())
}
