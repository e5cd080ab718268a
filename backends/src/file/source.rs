//! The file or device itself: opened, measured, watched for change.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde_json::{Value, json};

use crate::{BackendError, Consistency};

/// What is read.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) file: File,
    /// As asked for.
    asked: PathBuf,
    /// Where symbolic links lead to.
    resolved: PathBuf,
    /// Name of the item: `[a-z0-9._-]+`.
    pub(super) name: String,
    /// Length in bytes at the time of opening.
    pub(super) len: u64,
    /// State at the time of opening.
    before: Metadata,
    device: bool,
    read_only: bool,
}

impl Source {
    /// Opens a regular file or a block device, and refuses all else.
    pub(super) fn open(asked: &Path) -> Result<Self, BackendError> {
        let on = || asked.display().to_string();
        let failed = |error: &io::Error| BackendError::io("open for reading", on(), error);
        let resolved = asked
            .canonicalize()
            .map_err(|error| failed(&error).advise("is the path right, and may this user reach it?"))?;
        // Looked at before it is opened: opening a FIFO would wait for a writer, and a device may act on being opened.
        let kind = resolved.metadata().map_err(|error| failed(&error))?.file_type();
        let device = kind.is_block_device();
        if !kind.is_file() && !device {
            return Err(refuse(asked, kind));
        }
        let file = open(&resolved).map_err(|error| failed(&error).advise("may this user read it? root may"))?;
        let before = file.metadata().map_err(|error| failed(&error))?;
        let kind = before.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(refuse(asked, kind));
        }
        let len = measure(&file).map_err(|error| BackendError::io("measure", on(), &error))?;
        let read_only = device && is_read_only(before.rdev());
        let name = safe_name(asked);
        Ok(Self { file, asked: asked.to_owned(), resolved, name, len, before, device, read_only })
    }

    /// For messages.
    pub(super) fn shown(&self) -> String {
        self.resolved.display().to_string()
    }

    /// What it promises.
    pub(super) fn consistency(&self) -> Consistency {
        if self.read_only { Consistency::Instantaneous } else { Consistency::Live }
    }

    /// What a responder must know.
    pub(super) fn warnings(&self) -> Vec<String> {
        if self.read_only {
            return Vec::new();
        }
        vec![format!("nothing keeps others from writing to {} while it is read", self.shown())]
    }

    /// Bytes that take space, as far as the file system tells. In bytes.
    pub(super) fn allocated(&self) -> u64 {
        // Blocks of `stat` are 512 bytes everywhere on Linux.
        if self.device { self.len } else { self.before.blocks().saturating_mul(512).min(self.len) }
    }

    /// For the manifest.
    pub(super) fn facts(&self) -> Value {
        json!({
            "path": self.asked.display().to_string(),
            "resolved": self.shown(),
            "kind": if self.device { "block device" } else { "file" },
            "len": self.len,
            "read_only_device": self.read_only,
            "device": self.before.dev(),
            "inode": self.before.ino(),
            "modified_ns": stamp(self.before.mtime(), self.before.mtime_nsec()),
            "changed_ns": stamp(self.before.ctime(), self.before.ctime_nsec()),
        })
    }

    /// `Err` says how the source differs from what was opened.
    pub(super) fn unchanged(&self) -> Result<(), String> {
        let on = self.shown();
        let now = self.file.metadata().map_err(|error| format!("could not look at {on} again: {error}"))?;
        let len = measure(&self.file).map_err(|error| format!("could not measure {on} again: {error}"))?;
        if len != self.len {
            let how = if len > self.len { "grew" } else { "shrank" };
            return Err(format!("{on} {how} while it was read: from {} to {len} bytes", self.len));
        }
        // The times of a device node say nothing about what is written to the device.
        let times = |of: &Metadata| (of.mtime(), of.mtime_nsec(), of.ctime(), of.ctime_nsec());
        if !self.device && times(&now) != times(&self.before) {
            return Err(format!("{on} was written to, or its owner or rights changed, while it was read"));
        }
        match self.resolved.metadata() {
            Ok(there) if (there.dev(), there.ino()) == (self.before.dev(), self.before.ino()) => Ok(()),
            Ok(_) => Err(format!("another file is at {on} now; what was opened first was read to its end")),
            Err(error) => Err(format!("{on} is gone ({error}); what was opened was read to its end")),
        }
    }
}

/// Read-only, and without a new time of access where that is allowed.
fn open(path: &Path) -> io::Result<File> {
    let flags = |flags: OFlags| i32::try_from((flags | OFlags::NONBLOCK | OFlags::CLOEXEC).bits()).unwrap_or(0);
    let with = |extra| OpenOptions::new().read(true).custom_flags(flags(extra)).open(path);
    match with(OFlags::NOATIME) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => with(OFlags::empty()),
        result => result,
    }
}

/// The end of a file, and of a block device: seeking there works for both.
fn measure(mut file: &File) -> io::Result<u64> {
    file.seek(SeekFrom::End(0))
}

fn refuse(path: &Path, kind: std::fs::FileType) -> BackendError {
    let what = match kind {
        kind if kind.is_dir() => "a folder",
        kind if kind.is_fifo() => "a FIFO",
        kind if kind.is_socket() => "a socket",
        kind if kind.is_char_device() => "a character device",
        _ => "neither file nor block device",
    };
    BackendError::caller("open for reading", path.display().to_string(), format!("it is {what}"))
        .advise("give an image file or a block device")
}

/// Does the kernel refuse writes to the block device `rdev`?
fn is_read_only(rdev: u64) -> bool {
    let (major, minor) = (rustix::fs::major(rdev), rustix::fs::minor(rdev));
    std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/ro")).is_ok_and(|text| text.trim() == "1")
}

/// Nanoseconds since 1970, as text: more than a JSON number keeps everywhere.
fn stamp(seconds: i64, nanoseconds: i64) -> String {
    (i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds)).to_string()
}

/// The file's name as an item may be called: `[a-z0-9._-]+`, at most 64 long, not beginning with a dot.
pub(crate) fn safe_name(path: &Path) -> String {
    let name = path.file_name().map(|name| name.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '_' };
    let safe: String = name.trim_start_matches('.').chars().take(64).map(plain).collect();
    if safe.is_empty() { "disk".into() } else { safe }
}
