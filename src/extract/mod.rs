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

use rustix::fs::{CWD, Mode, OFlags, RenameFlags, mkdirat, openat, renameat_with};

use crate::image::{Kind, ReadAt};
pub use tree::{Placed, Tree};

/// Bytes that are read at a time.
const CHUNK: u64 = 1 << 20;
/// Where a chunk cannot be read: bytes that are tried by themselves.
const STEP: u64 = 4096;
/// Gaps of one file that are listed; the rest is counted.
const GAPS: usize = 1000;
/// Places of one file whose map cannot be read, after which the rest of it is given up.
const FAILURES: u32 = 1 << 20;

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
        Self::open(at, name)
    }

    fn open(at: impl rustix::fd::AsFd, name: &OsStr) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        Ok(Self(openat(at, name, flags, Mode::empty())?))
    }

    /// Opens the folder at a path below this one that was made here: safe names with `/` between them.
    pub fn again(&self, path: &str) -> io::Result<Self> {
        let mut here = Self(self.0.try_clone()?);
        for name in path.split('/').filter(|name| !name.is_empty()) {
            refuse(name)?;
            here = Self::open(&here.0, OsStr::new(name))?;
        }
        Ok(here)
    }

    /// Makes a file in this folder. `name` is a safe one.
    pub fn file(&self, name: &str) -> io::Result<File> {
        refuse(name)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::WRONLY;
        Ok(File::from(openat(&self.0, name, flags, Mode::RUSR | Mode::WUSR)?))
    }

    /// Gives a file in this folder another name, which nothing may have yet. Both are safe ones.
    pub fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        refuse(from)?;
        refuse(to)?;
        Ok(renameat_with(&self.0, from, &self.0, to, RenameFlags::NOREPLACE)?)
    }
}

/// A length as an index: never cut short, since nothing here is longer than memory.
fn us(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}

/// Names are made safe before; this is the lock behind the door.
fn refuse(name: &str) -> io::Result<()> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "that is no name for a file"));
    }
    Ok(())
}

/// A part of a file that could not be read: a hole in what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// First byte of the file.
    pub at: u64,
    /// Length in bytes.
    pub len: u64,
    /// Why, for its first byte.
    pub why: String,
}

/// How a file was written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    /// Bytes that could not be read.
    pub missing: u64,
    /// Where they are, in order; not all of them if there are very many.
    pub gaps: Vec<Gap>,
    /// Gaps that are not listed.
    pub unlisted: u64,
    /// End of the last gap.
    until: u64,
}

impl Written {
    fn gap(&mut self, at: u64, len: u64, why: impl FnOnce() -> String) {
        let goes_on = self.missing > 0 && self.until == at;
        self.missing = self.missing.saturating_add(len);
        self.until = at.saturating_add(len);
        let full = self.gaps.len() >= GAPS;
        match self.gaps.last_mut() {
            Some(last) if goes_on && self.unlisted == 0 => last.len = last.len.saturating_add(len),
            _ if goes_on => {}
            _ if full => self.unlisted += 1,
            _ => self.gaps.push(Gap { at, len, why: why() }),
        }
    }
}

/// Writes content as far as it can be read. Zeros stay holes, and so does what cannot be read, which is named. An error is one
/// of writing.
pub fn write(content: &dyn ReadAt, to: &mut File) -> io::Result<Written> {
    let (mut written, mut at, mut failures) = (Written::default(), 0, 0);
    let mut buffer = vec![0; us(CHUNK.min(content.len()))];
    while at < content.len() {
        let rest = content.len() - at;
        let extent = content.extent(at);
        let len = match &extent {
            Ok(extent) => extent.len.clamp(1, rest),
            // The next place may be known again.
            Err(_) if failures < FAILURES => (STEP - at % STEP).min(rest),
            Err(_) => rest,
        };
        match extent.map(|extent| extent.kind) {
            Ok(Kind::Zero) => {}
            Ok(Kind::Gap(why)) => written.gap(at, len, || crate::image::reason(&why)),
            Ok(Kind::Data) => copy(content, (at, len), &mut buffer, to, &mut written)?,
            Err(error) => {
                failures += 1;
                written.gap(at, len, || error.to_string());
            }
        }
        at += len;
    }
    to.set_len(content.len())?;
    Ok(written)
}

/// Copies `len` bytes from `from` on; around what cannot be read in one piece, in small steps.
fn copy(
    content: &dyn ReadAt,
    (from, len): (u64, u64),
    buffer: &mut [u8],
    to: &mut File,
    written: &mut Written,
) -> io::Result<()> {
    let step = STEP.max(content.unit().min(CHUNK));
    let (mut at, end, mut careful_until) = (from, from.saturating_add(len), from);
    while at < end {
        let most = if at < careful_until { step - at % step } else { CHUNK };
        let here = (end - at).min(most);
        let Some(part) = buffer.get_mut(..us(here)) else { break };
        match content.read_at(at, part) {
            Ok(()) => {
                to.seek(SeekFrom::Start(at))?;
                to.write_all(part)?;
            }
            Err(_) if here > step => {
                careful_until = at + here;
                continue;
            }
            Err(error) => written.gap(at, here, || error.to_string()),
        }
        at += here;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::ops::Range;

    use impound_backends::Why;

    use super::*;
    use crate::image::{Extent, ReadError};

    /// Bytes of 7, with parts that cannot be read in each of the ways there are.
    struct Damaged {
        len: u64,
        /// What cannot be read although the map says that it is there.
        bad: Vec<Range<u64>>,
        gap: Range<u64>,
        zero: Range<u64>,
        /// Where there is no map.
        unmapped: Range<u64>,
    }

    impl ReadAt for Damaged {
        fn len(&self) -> u64 {
            self.len
        }

        fn read_at(&self, at: u64, into: &mut [u8]) -> Result<(), ReadError> {
            let wanted = at..at + into.len() as u64;
            if let Some(bad) = self.bad.iter().find(|bad| bad.start < wanted.end && wanted.start < bad.end) {
                return Err(ReadError::corrupt("sum", bad.start, 1, 2));
            }
            into.fill(7);
            Ok(())
        }

        fn extent(&self, at: u64) -> Result<Extent, ReadError> {
            let gap = || Kind::Gap(Why::Unreadable("lost".to_owned()));
            if self.unmapped.contains(&at) {
                return Err(ReadError::caller("read the map", "it is gone"));
            }
            let parts = [(&self.gap, gap()), (&self.zero, Kind::Zero)];
            if let Some((range, kind)) = parts.into_iter().find(|(range, _)| range.contains(&at)) {
                return Ok(Extent { at, len: range.end - at, kind });
            }
            let starts = [self.gap.start, self.zero.start, self.unmapped.start, self.len];
            let end = starts.into_iter().filter(|start| *start > at).min().unwrap();
            Ok(Extent { at, len: end - at, kind: Kind::Data })
        }
    }

    #[test]
    fn what_cannot_be_read_is_a_named_hole_and_the_rest_is_written() {
        let mib = 1 << 20;
        let content = Damaged {
            len: 6 * mib + 100,
            bad: vec![5000..5001, 8200..8201, 3 * mib..3 * mib + 10],
            gap: mib..mib + 77,
            zero: 2 * mib..2 * mib + 4096,
            unmapped: 4 * mib..4 * mib + 9000,
        };
        let mut file = tempfile::tempfile().unwrap();
        let written = write(&content, &mut file).unwrap();
        let gaps: Vec<_> = written.gaps.iter().map(|gap| (gap.at, gap.len)).collect();
        let unmapped = 9000_u64.next_multiple_of(STEP);
        let want = [(4096, 8192), (mib, 77), (3 * mib, 4096), (4 * mib, unmapped)];
        assert_eq!(gaps, want, "two steps that follow each other are one gap");
        assert_eq!((written.missing, written.unlisted), (want.iter().map(|(_, len)| len).sum(), 0));
        let why: Vec<_> = written.gaps.iter().map(|gap| gap.why.as_str()).collect();
        assert!(why[0].contains("damaged") && why[1] == "lost" && why[3].contains("it is gone"), "{why:?}");
        let mut bytes = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len() as u64, content.len);
        let hole =
            |at: u64| content.zero.contains(&at) || want.iter().any(|(from, len)| (*from..from + len).contains(&at));
        assert!((0..).zip(&bytes).all(|(at, byte)| *byte == if hole(at) { 0 } else { 7 }));
    }

    #[test]
    fn a_file_of_nothing_but_gaps_is_counted_and_not_listed_without_end() {
        let bad = (0..2000_u64).map(|n| n * 2 * STEP..n * 2 * STEP + 1).collect();
        let content = Damaged { len: 4000 * STEP, bad, gap: 0..0, zero: 0..0, unmapped: 0..0 };
        let written = write(&content, &mut tempfile::tempfile().unwrap()).unwrap();
        assert_eq!((written.gaps.len(), written.unlisted, written.missing), (GAPS, 1000, 2000 * STEP));
    }

    #[test]
    fn a_name_that_is_taken_is_not_renamed_over() {
        let temp = tempfile::tempdir().unwrap();
        let folder = Folder::create(&temp.path().join("new")).unwrap();
        for name in ["one", "two"] {
            folder.file(name).unwrap().write_all(name.as_bytes()).unwrap();
        }
        assert!(folder.rename("one", "two").is_err() && folder.rename("one", "../two").is_err());
        folder.rename("one", "three").unwrap();
        let read = |name: &str| std::fs::read_to_string(temp.path().join("new").join(name)).unwrap();
        assert_eq!((read("two"), read("three")), ("two".to_owned(), "one".to_owned()));
        std::os::unix::fs::symlink("/", temp.path().join("new/out")).unwrap();
        assert!(folder.again("out").is_err(), "no link is followed");
    }
}
