//! Free space: watched while the copy grows, with a ballast that is dropped when there is none left.
//!
//! A full disk must not cost what was taken. The ballast is an unlinked file of a few MiB, allocated before the first
//! byte comes; when a write finds no space it is given back, so that the hashes and the manifest of what is there can
//! still be written. Logs of this module are written by position, so the same line can be tried again.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{FallocateFlags, fallocate, fstatvfs};

use crate::case::CaseError;

/// What the ballast holds at least, in bytes: manifests, gaps, the wire log.
const BALLAST: u64 = 4 << 20;
/// What a line of the block map takes, in bytes.
const BLOCK_LINE: u64 = 256;
/// How much a log gathers before it is written, in bytes.
const GATHER: usize = 64 << 10;

/// The file system under a draft.
#[derive(Debug)]
pub(super) struct Space {
    folder: File,
    path: PathBuf,
    /// To be kept free, in bytes.
    min_free: u64,
    ballast: Mutex<Option<File>>,
}

impl Space {
    /// Puts the ballast down in `folder`, for an item of `blocks` blocks.
    pub(super) fn new(folder: &Path, min_free: u64, blocks: u64) -> Result<Self, CaseError> {
        let open = File::open(folder).map_err(CaseError::io("open the draft", folder))?;
        let ballast = tempfile::tempfile_in(folder).map_err(CaseError::io("put a ballast file into", folder))?;
        let len = BALLAST.saturating_add(blocks.saturating_mul(BLOCK_LINE));
        match fallocate(&ballast, FallocateFlags::empty(), 0, len) {
            // A file system without allocation ahead goes without ballast; min_free still watches.
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
            Err(error) => return Err(CaseError::io(format!("set {len} bytes aside in"), folder)(error.into())),
        }
        Ok(Self { folder: open, path: folder.to_owned(), min_free, ballast: Mutex::new(Some(ballast)) })
    }

    /// `Err` says that there is less free than shall stay free.
    pub(super) fn check(&self) -> Result<(), String> {
        // A file system that cannot tell is not watched; a write that finds no space still says so.
        let Ok(stat) = fstatvfs(&self.folder) else { return Ok(()) };
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free >= self.min_free {
            return Ok(());
        }
        let (path, keep) = (self.path.display(), self.min_free);
        Err(format!("only {free} bytes are free in {path}, and {keep} shall stay free"))
    }

    /// Gives the ballast back.
    pub(super) fn release(&self) {
        self.ballast.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Runs `write`, and once more without ballast if there was no space.
    pub(super) fn insist(&self, mut write: impl FnMut() -> io::Result<()>) -> io::Result<()> {
        match write() {
            Err(error) if full(&error) => {
                self.release();
                write()
            }
            result => result,
        }
    }
}

/// Is it the space that is missing: no blocks, no quota, or a file longer than may be?
pub(super) fn full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// A file that grows by lines. What was appended reaches the system with [`Log::flush`].
#[derive(Debug)]
pub(super) struct Log {
    file: File,
    path: PathBuf,
    at: u64,
    gathered: Vec<u8>,
}

impl Log {
    /// Creates the file at `path`, which must not be there.
    pub(super) fn create(path: &Path) -> Result<Self, CaseError> {
        Ok(Self { file: create(path)?, path: path.to_owned(), at: 0, gathered: Vec::new() })
    }

    /// Goes on after the first `keep` bytes of the file at `path`; what follows them is cut off.
    pub(super) fn go_on(path: &Path, keep: u64) -> Result<Self, CaseError> {
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(CaseError::io("open", path))?;
        file.set_len(keep).map_err(CaseError::io("cut", path))?;
        Ok(Self { file, path: path.to_owned(), at: keep, gathered: Vec::new() })
    }

    /// The file was renamed to `path`.
    pub(super) fn moved_to(&mut self, path: &Path) {
        path.clone_into(&mut self.path);
    }

    /// Adds a line.
    pub(super) fn append(&mut self, line: &str, space: &Space) -> Result<(), CaseError> {
        self.gathered.extend_from_slice(line.as_bytes());
        if self.gathered.len() >= GATHER { self.flush(space) } else { Ok(()) }
    }

    /// Hands all lines to the system: they outlive this process, not yet the machine.
    pub(super) fn flush(&mut self, space: &Space) -> Result<(), CaseError> {
        let (file, gathered, at) = (&self.file, &self.gathered, self.at);
        space.insist(|| file.write_all_at(gathered, at)).map_err(CaseError::io("write", &self.path))?;
        self.at = at.saturating_add(gathered.len() as u64);
        self.gathered.clear();
        Ok(())
    }

    /// Writes a line that the next one replaces. The next one must not be shorter.
    pub(super) fn provisional(&mut self, line: &str, space: &Space) -> Result<(), CaseError> {
        self.flush(space)?;
        let (file, at) = (&self.file, self.at);
        space.insist(|| file.write_all_at(line.as_bytes(), at)).map_err(CaseError::io("write", &self.path))
    }

    /// Flushes, makes it durable and gives it its name.
    pub(super) fn finish(&mut self, name: &Path, space: &Space) -> Result<(), CaseError> {
        self.flush(space)?;
        settle(&self.file, &self.path, name)
    }
}

/// Creates a file that must not be there, for reading and writing. Nobody else may read it: it holds a guest's secrets.
pub(super) fn create(path: &Path) -> Result<File, CaseError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600).open(path).map_err(CaseError::io("create", path))
}

/// Makes a finished file durable and gives it its name, which must be free.
pub(super) fn settle(file: &File, path: &Path, name: &Path) -> Result<(), CaseError> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    file.sync_all().map_err(CaseError::io("make durable", path))?;
    match renameat_with(CWD, path, CWD, name, RenameFlags::NOREPLACE) {
        // File systems without the flag (NFS, FUSE) get the same in two steps; a draft has one writer.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) if !name.exists() => std::fs::rename(path, name),
        result => result.map_err(io::Error::from),
    }
    .map_err(CaseError::io(format!("rename {} to", path.display()), name))?;
    let folder = name.parent().unwrap_or(Path::new("."));
    File::open(folder).and_then(|open| open.sync_all()).map_err(CaseError::io("make durable", folder))
}
