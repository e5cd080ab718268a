//! A regular file or a block device, read with `pread`. Holes of the file system are known as such.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, SeekFrom};

use super::bytes::within;
use super::{Extent, Kind, ReadAt, ReadError};

/// An open file.
pub(crate) struct FileBytes {
    file: File,
    path: PathBuf,
    len: u64,
    /// Device and inode: two names of one file are one file.
    pub(super) id: (u64, u64),
}

impl FileBytes {
    /// Opens what the user named: a regular file or a block device.
    pub(crate) fn open(path: &Path) -> Result<Self, ReadError> {
        // A FIFO must not hang us, so the kind is looked at before anything is read.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| ReadError::io("open", path)(e.into()))?;
        let this = Self::from_fd(fd, path, true)?;
        Ok(this)
    }

    /// Takes an open file; anything but a regular file, or a device if `device`, is refused.
    pub(super) fn from_fd(fd: OwnedFd, path: &Path, device: bool) -> Result<Self, ReadError> {
        let mut file = File::from(fd);
        let found = file.metadata().map_err(ReadError::io("look at", path))?;
        let id = (found.dev(), found.ino());
        let len = if found.is_file() {
            found.len()
        } else if device && found.file_type().is_block_device() {
            std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0)).map_err(ReadError::io("measure", path))?
        } else {
            let wanted = if device { "a regular file or a block device" } else { "a regular file" };
            return Err(ReadError::caller(format!("open {}", path.display()), format!("it is not {wanted}")));
        };
        Ok(Self { file, path: path.to_owned(), len, id })
    }
}

impl ReadAt for FileBytes {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> Result<(), ReadError> {
        within(self.len, at, into.len() as u64)?;
        self.file.read_exact_at(into, at).map_err(ReadError::io("read", &self.path))
    }

    fn extent(&self, at: u64) -> Result<Extent, ReadError> {
        within(self.len, at, 1)?;
        let rest = self.len - at;
        // Both answers are hints of the file system; one that has none says that all is data.
        let data = match rustix::fs::seek(&self.file, SeekFrom::Data(at)) {
            Ok(data) => data.clamp(at, self.len),
            Err(rustix::io::Errno::NXIO) => self.len,
            Err(_) => at,
        };
        if data > at {
            return Ok(Extent { at, len: data - at, kind: Kind::Zero });
        }
        let hole = rustix::fs::seek(&self.file, SeekFrom::Hole(at)).unwrap_or(self.len).clamp(at, self.len);
        let len = if hole > at { hole - at } else { rest };
        Ok(Extent { at, len, kind: Kind::Data })
    }
}
