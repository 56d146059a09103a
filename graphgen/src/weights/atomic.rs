//! Files that are there as a whole or not at all.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use super::WeightsError;

/// Writes a file beside its place, syncs it and renames it: `path` holds either its old content or all of the new one.
///
/// # Errors
/// Whatever the file system reports; the temporary file is removed.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), WeightsError> {
    let io = |reason| WeightsError::Io { path: path.into(), reason };
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // With a file of our own, errors do not name the temporary path, and the permissions are those of any other file.
    let create = |path: &Path| File::options().write(true).create_new(true).open(path);
    let mut file = tempfile::Builder::new().prefix(".").suffix(".tmp").make_in(directory, create).map_err(io)?;
    file.as_file_mut().write_all(bytes).map_err(io)?;
    file.as_file().sync_all().map_err(io)?;
    file.persist(path).map_err(|error| io(error.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_file_that_was_to_be_written() {
        let path = Path::new("/absent/folder/file");
        let error = write_atomically(path, b"new").expect_err("no folder").to_string();
        assert!(error.starts_with("/absent/folder/file: ") && error.matches("/absent").count() == 1, "{error}");
    }

    #[test]
    fn a_file_is_replaced_and_no_temporary_one_stays() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("file");
        write_atomically(&path, b"old").expect("write");
        write_atomically(&path, b"new").expect("write");
        assert_eq!(std::fs::read(&path).expect("read"), b"new");
        assert_eq!(std::fs::read_dir(dir.path()).expect("list").count(), 1);
    }
}
