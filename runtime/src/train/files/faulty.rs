//! A file system on which one chosen operation fails.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Disk, Files, Output};

/// ENOSPC and EIO of Linux.
pub(in crate::train) const NO_SPACE: i32 = 28;
pub(in crate::train) const BROKEN_DISK: i32 = 5;

/// Counts operations and bytes, and lets the one with a number, from 0, fail.
pub(in crate::train) struct Faulty {
    pub(in crate::train) done: Arc<AtomicUsize>,
    /// Bytes written.
    pub(in crate::train) bytes: Arc<AtomicUsize>,
    pub(in crate::train) fails: usize,
    pub(in crate::train) error: i32,
}

impl Faulty {
    pub(in crate::train) fn new(fails: usize, error: i32) -> Faulty {
        Faulty { done: Arc::default(), bytes: Arc::default(), fails, error }
    }

    fn next(&self) -> io::Result<()> {
        match self.done.fetch_add(1, Ordering::Relaxed) == self.fails {
            true => Err(io::Error::from_raw_os_error(self.error)),
            false => Ok(()),
        }
    }
}

struct FaultyOutput {
    inner: Box<dyn Output>,
    files: Faulty,
    /// The error of a write that took only a part.
    owed: Option<io::Error>,
}

impl io::Write for FaultyOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(error) = self.owed.take() {
            return Err(error);
        }
        if let Err(error) = self.files.next() {
            // A full disk takes a part first, and refuses the rest.
            self.owed = Some(error);
            return self.inner.write(&bytes[..bytes.len().div_ceil(2)]);
        }
        let written = self.inner.write(bytes)?;
        self.files.bytes.fetch_add(written, Ordering::Relaxed);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl Output for FaultyOutput {
    fn sync(&mut self) -> io::Result<()> {
        self.files.next()?;
        self.inner.sync()
    }
}

impl Faulty {
    fn wrap(&self, inner: Box<dyn Output>) -> Box<dyn Output> {
        let files = Faulty { done: Arc::clone(&self.done), bytes: Arc::clone(&self.bytes), ..*self };
        Box::new(FaultyOutput { inner, files, owed: None })
    }
}

impl Files for Faulty {
    fn create_folder(&self, folder: &Path) -> io::Result<()> {
        self.next()?;
        Disk.create_folder(folder)
    }

    fn create(&self, file: &Path) -> io::Result<Box<dyn Output>> {
        self.next()?;
        Ok(self.wrap(Disk.create(file)?))
    }

    fn append(&self, file: &Path) -> io::Result<Box<dyn Output>> {
        self.next()?;
        Ok(self.wrap(Disk.append(file)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.next()?;
        Disk.rename(from, to)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.next()?;
        Disk.sync_folder(folder)
    }

    fn remove_folder(&self, folder: &Path) -> io::Result<()> {
        self.next()?;
        Disk.remove_folder(folder)
    }
}
