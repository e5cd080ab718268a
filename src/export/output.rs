//! The file under construction: it has a temporary name until all of it is there and was read back.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};

use super::ExportError;
use crate::image::FileBytes;

/// See the module. Locked while it is written. Removed when it is dropped, unless it is kept.
pub struct Output {
    file: File,
    path: PathBuf,
    at: u64,
    keep: bool,
}

impl Output {
    /// Begins the file that is to become `to`.
    pub(super) fn create(to: &Path) -> Result<Self, ExportError> {
        let Some(name) = to.file_name() else {
            return Err(ExportError::Refused(format!("{} is no name of a file", to.display())));
        };
        let mut temporary = std::ffi::OsString::from(".");
        temporary.push(name);
        temporary.push(".tmp");
        let path = to.with_file_name(temporary);
        remove_left(&path)?;
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o444).open(&path);
        let file = file.map_err(ExportError::write("create the file", &path))?;
        let inode = |found: fs::Metadata| (found.dev(), found.ino());
        let locked = flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
        // Another run may have taken it for a leftover before it was locked.
        let ours = fs::symlink_metadata(&path).map(inode).ok() == file.metadata().map(inode).ok();
        if !locked || !ours {
            return Err(busy(&path));
        }
        Ok(Self { file, path, at: 0, keep: false })
    }

    /// Where the next bytes go.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Appends.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<(), ExportError> {
        self.write_at(self.at, bytes)?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    /// Leaves a hole up to the next multiple of `unit`.
    pub(super) fn align(&mut self, unit: u64) {
        self.at = self.at.next_multiple_of(unit);
    }

    /// Leaves a hole of `len` bytes.
    pub(super) fn skip(&mut self, len: u64) {
        self.at = self.at.saturating_add(len);
    }

    /// Writes anywhere.
    pub(super) fn write_at(&self, at: u64, bytes: &[u8]) -> Result<(), ExportError> {
        self.file.write_all_at(bytes, at).map_err(ExportError::write("write", &self.path))
    }

    /// Sets the length, with holes where nothing was written.
    pub(super) fn set_len(&mut self, len: u64) -> Result<(), ExportError> {
        self.at = len;
        self.file.set_len(len).map_err(ExportError::write("set the length of", &self.path))
    }

    /// Makes it durable.
    pub(super) fn sync(&self) -> Result<(), ExportError> {
        self.file.sync_all().map_err(ExportError::write("fsync", &self.path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn len(&self) -> Result<u64, ExportError> {
        Ok(self.file.metadata().map_err(ExportError::write("look at", &self.path))?.len())
    }

    /// To read what was written.
    pub(super) fn reader(&self) -> Result<FileBytes, ExportError> {
        Ok(FileBytes::open(&self.path)?)
    }

    /// It has its final name.
    pub(super) fn keep(mut self) {
        self.keep = true;
    }
}

/// Removes what a killed run left under this name; a file that a live run still writes is locked.
fn remove_left(path: &Path) -> Result<(), ExportError> {
    let left = match OpenOptions::new().read(true).custom_flags(OFlags::NOFOLLOW.bits().cast_signed()).open(path) {
        Ok(left) => left,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(ExportError::write("look at what an earlier run left", path)(error)),
    };
    flock(&left, FlockOperation::NonBlockingLockExclusive).map_err(|_| busy(path))?;
    fs::remove_file(path).map_err(ExportError::write("remove what an earlier run left", path))
}

fn busy(path: &Path) -> ExportError {
    ExportError::Refused(format!("another run is writing {}", path.display()))
}

impl Drop for Output {
    fn drop(&mut self) {
        if !self.keep {
            // Whatever went wrong is told already; a file that cannot be removed has a name that says what it is.
            let _ = fs::remove_file(&self.path);
        }
    }
}
