//! The files of a run: everything that a save writes, syncs, renames or removes goes through here.
//!
//! A file or folder is written under another name, synced, renamed, and then the folder that it is in is synced: after a
//! crash or power failure it is there as a whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::TrainError;

/// End of the names of what is being written or removed.
pub(super) const UNFINISHED: &str = ".tmp";

/// A file being written.
pub(super) trait Output: Write {
    /// Waits until everything written is on the disk.
    fn sync(&mut self) -> io::Result<()>;
}

/// What a save asks of the file system.
pub(super) trait Files: Send + Sync {
    /// Creates a folder and those above it.
    fn create_folder(&self, folder: &Path) -> io::Result<()>;
    /// Creates a file, or empties one.
    fn create(&self, file: &Path) -> io::Result<Box<dyn Output>>;
    /// Opens a file to write at its end.
    fn append(&self, file: &Path) -> io::Result<Box<dyn Output>>;
    /// Gives a file or folder another name; a file of that name is replaced.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Waits until the names in a folder are on the disk.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;
    /// Removes a folder and all in it; an absent one is no error.
    fn remove_folder(&self, folder: &Path) -> io::Result<()>;
}

/// The file system itself.
pub(super) struct Disk;

impl Output for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

impl Files for Disk {
    fn create_folder(&self, folder: &Path) -> io::Result<()> {
        fs::create_dir_all(folder)
    }

    fn create(&self, file: &Path) -> io::Result<Box<dyn Output>> {
        Ok(Box::new(File::create(file)?))
    }

    fn append(&self, file: &Path) -> io::Result<Box<dyn Output>> {
        Ok(Box::new(OpenOptions::new().create(true).append(true).open(file)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        // Only Unix can open a folder for that; elsewhere the file system's journal has to do.
        if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
    }

    fn remove_folder(&self, folder: &Path) -> io::Result<()> {
        match fs::remove_dir_all(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Writes a new file and syncs it.
pub(super) fn write_synced(files: &dyn Files, path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    let write = || {
        let mut file = files.create(path)?;
        file.write_all(bytes)?;
        file.sync()
    };
    write().map_err(TrainError::io(path))
}

/// Replaces a file as a whole: `path` holds either its old content or all of the new one.
pub(super) fn replace(files: &dyn Files, path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    let unfinished = unfinished(path);
    write_synced(files, &unfinished, bytes)?;
    files.rename(&unfinished, path).map_err(TrainError::io(path))?;
    sync_parent(files, path)
}

/// Makes a new name durable.
pub(super) fn sync_parent(files: &dyn Files, path: &Path) -> Result<(), TrainError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    files.sync_folder(folder).map_err(TrainError::io(folder))
}

/// Where a file or folder is written before it gets its name.
pub(super) fn unfinished(path: &Path) -> PathBuf {
    path.with_file_name(format!(".{}{UNFINISHED}", file_name(path)))
}

/// Whether a name is that of something unfinished, which an interrupted program left.
pub(super) fn is_unfinished(path: &Path) -> bool {
    let name = file_name(path);
    name.starts_with('.') && name.ends_with(UNFINISHED)
}

/// The last part of a path, as text.
pub(super) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Everything in a folder; nothing if it does not exist.
pub(super) fn entries(folder: &Path) -> Result<Vec<PathBuf>, TrainError> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>().map_err(TrainError::io(folder)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(TrainError::io(folder)(error)),
    }
}

/// Removes what an interrupted program left unfinished in a folder.
pub(super) fn remove_unfinished(folder: &Path) -> Result<(), TrainError> {
    for path in entries(folder)?.into_iter().filter(|path| is_unfinished(path)) {
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(TrainError::io(path))?;
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod faulty;
