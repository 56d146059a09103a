//! Uncompressed tar archives: an index built once, members read with positional reads from any thread.

use std::fs::File;
use std::path::Path;

use super::dataset::{Found, Place, is_image};
use super::error::DataError;

/// Lists the images of an archive, sorted by path. The class of a member is the name of the folder it is in.
pub(super) fn scan(path: &Path) -> Result<Vec<Found>, DataError> {
    let error = |source| DataError::Tar { path: path.into(), source };
    let file = File::open(path).map_err(|source| DataError::Io { path: path.into(), source })?;
    let mut archive = ::tar::Archive::new(std::io::BufReader::with_capacity(1 << 16, file));
    let mut found = Vec::new();
    for entry in archive.entries_with_seek().map_err(error)? {
        let entry = entry.map_err(error)?;
        let member = entry.path().map_err(error)?;
        if !entry.header().entry_type().is_file() || !is_image(&member) {
            continue;
        }
        let class = member.parent().and_then(Path::file_name).map(|folder| folder.to_string_lossy().into_owned());
        let name = member.to_string_lossy().trim_start_matches("./").to_owned();
        found.push(Found { name, class, place: Some(Place { offset: entry.raw_file_position(), len: entry.size() }) });
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
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
