//! Writes that survive a crash: temporary name, fsync, rename, fsync of the folder. Sealed files are read-only.
//!
//! Every step goes through [`Disk`], so that the tests can cut the power after any one of them and look at what lies
//! there then.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::CaseError;

/// Mode of a sealed file: nobody writes to it.
const SEALED: u32 = 0o444;
/// Mode of a sealed script.
const SEALED_SCRIPT: u32 = 0o555;
/// What is copied at once, in bytes.
const CHUNK: u64 = 1 << 20;
/// Longest line of a log that is copied, in bytes.
const LINE_MAX: usize = 256 << 20;

/// The way to the disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disk {
    #[cfg(test)]
    pub(crate) fuse: Option<std::sync::Arc<tests::Fuse>>,
}

impl Disk {
    /// Writes a file that must not exist yet; it is read-only from its first moment under its own name.
    pub(crate) fn write_new(&self, path: &Path, bytes: &[u8]) -> Result<(), CaseError> {
        let temporary = self.write_temporary(path, bytes, SEALED)?;
        self.rename_new(&temporary, path)
    }

    /// As [`Disk::write_new`], for a file to be run.
    pub(crate) fn write_new_script(&self, path: &Path, bytes: &[u8]) -> Result<(), CaseError> {
        let temporary = self.write_temporary(path, bytes, SEALED_SCRIPT)?;
        self.rename_new(&temporary, path)
    }

    /// Writes the bytes under the temporary name of `path`, durably, and answers that name.
    pub(crate) fn write_temporary(&self, path: &Path, bytes: &[u8], mode: u32) -> Result<PathBuf, CaseError> {
        self.temporary(path, mode, |file, temporary| self.write_all(file, temporary, bytes))
    }

    /// The same with the whole lines of another file, which may be long, and which somebody may still be writing.
    pub(crate) fn copy_lines(&self, from: &Path, path: &Path, mode: u32) -> Result<PathBuf, CaseError> {
        self.temporary(path, mode, |file, temporary| {
            let (mut source, mut buffer) = (open_plain(from)?, Vec::new());
            loop {
                let got = io::Read::read_to_end(&mut io::Read::take(&mut source, CHUNK), &mut buffer)?;
                if got == 0 {
                    return Ok(());
                }
                let whole = buffer.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at.saturating_add(1));
                if whole > 0 {
                    self.write_all(file, temporary, buffer.get(..whole).unwrap_or_default())?;
                }
                buffer.drain(..whole);
                if buffer.len() > LINE_MAX {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "a line is too long"));
                }
            }
        })
    }

    fn temporary(
        &self,
        path: &Path,
        mode: u32,
        fill: impl Fn(&mut File, &Path) -> io::Result<()>,
    ) -> Result<PathBuf, CaseError> {
        let temporary = temporary_name(path);
        let attempt = || -> io::Result<()> {
            match fs::remove_file(&temporary) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            // create_new never follows a link that somebody laid there meanwhile.
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
            fill(&mut file, &temporary)?;
            file.set_permissions(fs::Permissions::from_mode(mode))?;
            self.step("fsync", &temporary)?;
            file.sync_all()
        };
        attempt().map_err(CaseError::io("write the file", path))?;
        Ok(temporary)
    }

    /// Gives a file or folder a name that nothing has yet.
    pub(crate) fn rename_new(&self, from: &Path, to: &Path) -> Result<(), CaseError> {
        self.step("rename", to).map_err(CaseError::io("name the file", to))?;
        rename_no_replace(from, to).map_err(CaseError::io("give it a name that nothing has yet", to))?;
        self.sync_parent(to)
    }

    /// Gives a file a name, in place of whatever had it.
    pub(crate) fn rename_over(&self, from: &Path, to: &Path) -> Result<(), CaseError> {
        self.step("rename", to).and_then(|()| fs::rename(from, to)).map_err(CaseError::io("replace the file", to))?;
        self.sync_parent(to)
    }

    /// Writes all bytes to an open file. Not yet durable.
    pub(crate) fn write_all(&self, file: &mut File, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let step = self.step("write", path);
        // A cut in the middle of a write leaves a part of it.
        #[cfg(test)]
        if step.is_err() {
            file.write_all(bytes.get(..bytes.len() / 2).unwrap_or_default())?;
        }
        step.and_then(|()| file.write_all(bytes))
    }

    /// Appends bytes to an open file, durably.
    pub(crate) fn append(&self, file: &mut File, path: &Path, bytes: &[u8]) -> Result<(), CaseError> {
        self.write_all(file, path, bytes)
            .and_then(|()| self.step("fsync", path))
            .and_then(|()| file.sync_data())
            .map_err(CaseError::io("add to the log", path))
    }

    /// Makes a file that is already written read-only and durable.
    pub(crate) fn settle(&self, path: &Path) -> Result<(), CaseError> {
        self.step("fsync", path)
            .and_then(|()| {
                let file = open_plain(path)?;
                file.set_permissions(fs::Permissions::from_mode(SEALED))?;
                file.sync_all()
            })
            .map_err(CaseError::io("make the file read-only and durable", path))
    }

    /// Makes a folder that nothing has the name of yet.
    pub(crate) fn make_dir(&self, path: &Path) -> Result<(), CaseError> {
        self.step("mkdir", path).and_then(|()| fs::create_dir(path)).map_err(CaseError::io("make the folder", path))?;
        self.sync_parent(path)
    }

    /// Makes the names in a folder durable.
    pub(crate) fn sync_dir(&self, path: &Path) -> Result<(), CaseError> {
        self.step("fsync", path)
            .and_then(|()| File::open(path)?.sync_all())
            .map_err(CaseError::io("make the folder durable", path))
    }

    fn sync_parent(&self, path: &Path) -> Result<(), CaseError> {
        self.sync_dir(path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "the twin for tests cuts the power here")]
    fn step(&self, _act: &'static str, _on: &Path) -> io::Result<()> {
        Ok(())
    }

    #[cfg(test)]
    fn step(&self, act: &'static str, on: &Path) -> io::Result<()> {
        self.fuse.as_ref().map_or(Ok(()), |fuse| fuse.step(act, on))
    }
}

/// `.NAME.tmp` beside the file: hidden, and known to `verify` as something a killed run left.
pub(crate) fn temporary_name(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.tmp"))
}

/// Is this such a name?
pub(crate) fn is_temporary(name: &Path) -> bool {
    name.to_str().and_then(|name| name.strip_prefix('.')?.strip_suffix(".tmp")).is_some_and(|name| !name.is_empty())
}

/// Opens a regular file for reading; a link, pipe or device in its place is refused, not followed.
pub(crate) fn open_plain(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC;
    let file =
        OpenOptions::new().read(true).custom_flags(i32::try_from(flags.bits()).unwrap_or_default()).open(path)?;
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))
}

/// Reads a small file whole; a longer one than `limit` bytes is refused before it fills the memory.
pub(crate) fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = open_plain(path)?;
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, limit.saturating_add(1)), &mut bytes)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > limit {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("longer than the {limit} bytes it may have")));
    }
    Ok(bytes)
}

fn rename_no_replace(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // File systems without the flag (NFS, old FUSE): look first. Only two runs sealing one name could meet here,
        // and names carry a counter.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => match fs::symlink_metadata(to) {
            Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
            Err(_) => fs::rename(from, to),
        },
        other => other.map_err(io::Error::from),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Cuts the power after a number of steps, and keeps what was done.
    #[derive(Debug, Default)]
    pub(crate) struct Fuse {
        pub(crate) limit: Option<usize>,
        pub(crate) done: Mutex<Vec<(&'static str, PathBuf)>>,
    }

    impl Fuse {
        pub(crate) fn step(&self, act: &'static str, on: &Path) -> io::Result<()> {
            let mut done = self.done.lock().unwrap();
            if self.limit.is_some_and(|limit| done.len() >= limit) {
                return Err(io::Error::other("the power is gone"));
            }
            done.push((act, on.to_owned()));
            Ok(())
        }
    }

    #[test]
    fn a_name_that_is_taken_is_not_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        Disk::default().write_new(&path, b"first").unwrap();
        assert!(Disk::default().write_new(&path, b"second").is_err());
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o444);
    }

    #[test]
    fn a_log_is_copied_in_whole_lines_however_long_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("log"), dir.path().join("copy"));
        let line = [vec![b'x'; 700_000], vec![b'\n']].concat();
        fs::write(&from, [line.repeat(5), b"torn".to_vec()].concat()).unwrap();
        let copied = Disk::default().copy_lines(&from, &to, 0o444).unwrap();
        assert!(fs::read(copied).unwrap() == line.repeat(5));
        fs::write(&from, b"").unwrap();
        assert!(fs::read(Disk::default().copy_lines(&from, &to, 0o444).unwrap()).unwrap().is_empty());
    }

    #[test]
    fn links_and_pipes_are_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
        assert!(open_plain(&link).is_err());
        assert!(open_plain(dir.path()).is_err());
        assert!(read_bounded(Path::new("/dev/zero"), 10).is_err());
    }
}
