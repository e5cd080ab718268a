//! Writing files from evidence into a new folder, and nowhere else.
//!
//! Everything is made below the folder with `openat` from one open directory to the next, `O_NOFOLLOW`, and `O_EXCL`: no
//! link is followed and nothing is overwritten. Links and devices are not made; the manifest tells of them. Owners and
//! permissions are not taken over: a set-uid program from evidence stays a file.

pub mod names;
mod tree;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};

use crate::image::{Kind, ReadAt, ReadError, map};
pub use tree::Tree;

/// Bytes that are read at a time.
const CHUNK: u64 = 1 << 20;

/// A directory that was made here.
pub struct Folder(OwnedFd);

impl Folder {
    /// Makes the folder `path`, which must not exist.
    pub fn create(path: &Path) -> io::Result<Self> {
        Self::make(CWD, path.as_os_str())
    }

    /// Makes a folder in this one. `name` is a safe one.
    pub fn folder(&self, name: &str) -> io::Result<Self> {
        refuse(name)?;
        Self::make(&self.0, OsStr::new(name))
    }

    fn make(at: impl rustix::fd::AsFd + Copy, name: &OsStr) -> io::Result<Self> {
        mkdirat(at, name, Mode::RWXU)?;
        Self::enter(at, name)
    }

    /// Opens a folder in this one again.
    fn open(&self, name: &str) -> io::Result<Self> {
        refuse(name)?;
        Self::enter(&self.0, OsStr::new(name))
    }

    fn enter(at: impl rustix::fd::AsFd, name: &OsStr) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        Ok(Self(openat(at, name, flags, Mode::empty())?))
    }

    /// Makes a file in this folder. `name` is a safe one.
    pub fn file(&self, name: &str) -> io::Result<File> {
        refuse(name)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::WRONLY;
        Ok(File::from(openat(&self.0, name, flags, Mode::RUSR | Mode::WUSR)?))
    }
}

/// Names are made safe before; this is the lock behind the door.
fn refuse(name: &str) -> io::Result<()> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "that is no name for a file"));
    }
    Ok(())
}

/// How a file was written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    /// Length in bytes.
    pub len: u64,
    /// Parts that evidence does not hold, first byte and length: holes here.
    pub gaps: Vec<(u64, u64)>,
}

impl Written {
    /// Bytes that are missing.
    pub fn missing(&self) -> u64 {
        self.gaps.iter().fold(0, |sum, (_, len)| sum.saturating_add(*len))
    }

    /// How it went, as the manifest says it.
    pub fn outcome(&self) -> String {
        match self.missing() {
            0 => "complete".to_owned(),
            missing => format!("partial: {missing} bytes could not be read and are zeros"),
        }
    }
}

/// Writes content; zeros stay holes, so do parts that cannot be read, and they are counted.
pub fn write(content: &dyn ReadAt, to: &mut File) -> Result<Written, ReadError> {
    let failed = |error: io::Error| ReadError::io("write", "an extracted file")(error);
    let mut gaps = Vec::new();
    let mut buffer = vec![0; CHUNK.min(content.len()) as usize];
    for extent in map::walk(content, 0..content.len()) {
        let extent = extent?;
        match extent.kind {
            Kind::Zero => {}
            Kind::Gap(_) => gaps.push((extent.at, extent.len)),
            Kind::Data => {
                to.seek(SeekFrom::Start(extent.at)).map_err(failed)?;
                let mut at = extent.at;
                while at < extent.end() {
                    let len = (extent.end() - at).min(CHUNK) as usize;
                    let Some(part) = buffer.get_mut(..len) else { break };
                    content.read_at(at, part)?;
                    to.write_all(part).map_err(failed)?;
                    at += len as u64;
                }
            }
        }
    }
    to.set_len(content.len()).map_err(failed)?;
    Ok(Written { len: content.len(), gaps })
}
