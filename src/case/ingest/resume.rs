//! Taking up a copy that was interrupted.
//!
//! While a copy that can be resumed runs, the draft holds `resume.json` (what is copied, under which boot of this machine),
//! `allocation.jsonl.part` (what came, handed to the system at least once a block) and `blocks.jsonl.part` (a line a hashed
//! block).
//!
//! After a kill the page cache still holds all that was handed over, in that order: the copy goes on after the last whole
//! block that the allocation map knows; the last line of the block map is checked against the local bytes, and blocks the
//! hashers had not reached are hashed from the local copy. After a crash or a reboot of the machine nothing says what of
//! it reached the disk: then every line kept is checked against the local bytes, and the copy goes on where the first one
//! differs or the lines end. After a kill at most one block is read again from the source.

use std::fs::{self, File};
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::allocation;
use super::coverage::Coverage;
use crate::case::CaseError;
use crate::case::blocks::{self, Block, Link, Links};
use crate::progress::Silent;

/// The file that says what is copied.
pub(super) const HEAD: &str = "resume.json";
/// The map of blocks while it is written.
pub(super) const MAP: &str = "blocks.jsonl.part";

/// What is copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Of this format: 1.
    pub version: u32,
    /// Name of the item.
    pub item: String,
    /// Where the item comes from.
    pub source: String,
    /// The method that took it.
    pub method: String,
    /// Length of the item in bytes.
    pub len: u64,
    /// Length of a block in bytes.
    pub block: u64,
    /// Name of the image file while it is written, in `data/`.
    pub image: String,
    /// `/proc/sys/kernel/random/boot_id` at the time.
    pub boot: String,
}

/// Where an interrupted copy goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResumePoint {
    /// The byte of the item to go on with: a multiple of the block length.
    pub at: u64,
    /// What was copied.
    pub head: Head,
    /// The last block that is kept.
    pub(super) last: Option<Link>,
    /// Bytes of the block map before the line of `last`.
    pub(super) keep: u64,
}

/// Which boot this is; empty where the system does not tell.
pub(super) fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

impl Head {
    /// Writes it down, durably.
    pub(super) fn write(&self, draft: &Path) -> Result<(), CaseError> {
        let path = draft.join(HEAD);
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        let file = super::space::create(&path)?;
        std::io::Write::write_all(&mut &file, text.as_bytes()).map_err(CaseError::io("write", &path))?;
        file.sync_all().map_err(CaseError::io("make durable", &path))
    }

    fn read(path: &Path) -> Result<Option<Self>, CaseError> {
        let file = match File::open(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            result => result.map_err(CaseError::io("open", path))?,
        };
        let mut text = String::new();
        file.take(64 << 10).read_to_string(&mut text).map_err(CaseError::io("read", path))?;
        let damaged = |expected: &str, found: String| CaseError::Corrupt {
            on: path.to_owned(),
            at: "its beginning".into(),
            expected: expected.into(),
            found,
        };
        let head: Self = serde_json::from_str(&text).map_err(|e| damaged("what a copy left behind", e.to_string()))?;
        let plain = !head.image.is_empty() && !head.image.contains('/') && !head.image.starts_with('.');
        if head.version != 1 || !plain || !blocks::is_block(head.block) {
            return Err(damaged("version 1, a file name and a block length", text));
        }
        Ok(Some(head))
    }
}

impl ResumePoint {
    /// Looks into a draft for a copy that can be taken up. `None` if there is none.
    ///
    /// # Errors
    /// `Corrupt` if the local copy is not what its map says, `Io` if it cannot be read.
    pub fn find(draft: &Path) -> Result<Option<Self>, CaseError> {
        let Some(head) = Head::read(&draft.join(HEAD))? else { return Ok(None) };
        let image = draft.join("data").join(&head.image);
        let open = File::open(&image).map_err(CaseError::io("open the copy so far", &image))?;
        let actual = open.metadata().map_err(CaseError::io("measure", &image))?.len();
        let trusted = !head.boot.is_empty() && head.boot == boot();
        let mut walk =
            Walk { head: &head, image: &image, open: &open, actual, kept: Vec::new(), buffer: vec![0; 1 << 20] };
        let told = told(draft, head.len);
        walk.all(&draft.join(MAP), told, !trusted)?;
        if trusted {
            walk.check_last()?;
        }
        let (last, keep) = walk.kept.pop().map_or((None, 0), |(link, keep)| (Some(link), keep));
        let hashed = last.as_ref().map_or(0, |link| link.at + link.len);
        let at = if trusted { hashed.max(told / head.block * head.block) } else { hashed };
        if at > actual {
            return Err(CaseError::Corrupt {
                on: image,
                at: format!("byte {actual}"),
                expected: format!("{at} bytes that were copied"),
                found: "the end of the file".into(),
            });
        }
        Ok(Some(Self { at, head, last, keep }))
    }
}

/// Up to where the allocation map speaks of every byte.
fn told(draft: &Path, len: u64) -> u64 {
    let mut coverage = Coverage::new(len, std::iter::once(0..len).collect());
    // A map that cannot be read tells of nothing, and the copy begins anew.
    let _ = allocation::read(&allocation::part(draft), |run| {
        if coverage.check(run.at, run.len, false).is_ok() {
            coverage.note(run.at, run.len, false);
        }
        Ok(())
    });
    coverage.advance(|_, _| {})
}

/// A walk over the block map of an interrupted copy.
struct Walk<'a> {
    head: &'a Head,
    image: &'a Path,
    open: &'a File,
    actual: u64,
    /// The last two blocks that can be kept, with the bytes of map before each.
    kept: Vec<(Link, u64)>,
    buffer: Vec<u8>,
}

impl Walk<'_> {
    /// Goes over whole lines up to byte `told` of the item; with `hash` only over blocks that are as the map says.
    fn all(&mut self, map: &Path, told: u64, hash: bool) -> Result<(), CaseError> {
        let file = File::open(map).map_err(CaseError::io("open the map of blocks", map))?;
        let whole = whole_lines(&file).map_err(CaseError::io("read the map of blocks", map))?;
        let mut before = 0;
        for link in Links::new(BufReader::new(file.take(whole)), map) {
            // A line that does not follow ends what can be kept; so does the last of the item, which holds a digest.
            let Ok(link) = link else { return Ok(()) };
            let end = link.at.saturating_add(link.len);
            if link.len != self.head.block || end > told || end >= self.head.len {
                return Ok(());
            }
            if hash && !self.unchanged(&link)? {
                return Ok(());
            }
            let written = Block::line(link.at, link.len, &link.sha256, &link.after).len() as u64;
            if self.kept.len() > 1 {
                self.kept.remove(0);
            }
            self.kept.push((link, before));
            before += written;
        }
        Ok(())
    }

    fn unchanged(&mut self, link: &Link) -> Result<bool, CaseError> {
        // As the last of the map a block may be taken for the last of the file; here it never is.
        let link = Link { last: false, ..link.clone() };
        blocks::unchanged(self.open, self.image, &link, self.actual, &mut self.buffer, &Silent)
    }

    /// Hashes the last block, and the one before if it differs.
    fn check_last(&mut self) -> Result<(), CaseError> {
        let first = self.kept.len();
        while let Some((link, _)) = self.kept.last().cloned() {
            if self.unchanged(&link)? {
                return Ok(());
            }
            self.kept.pop();
        }
        if first < 2 {
            return Ok(());
        }
        Err(CaseError::Corrupt {
            on: self.image.to_owned(),
            at: "its last two blocks".into(),
            expected: "what the map of blocks says".into(),
            found: "other bytes: somebody wrote to the draft; begin anew".into(),
        })
    }
}

/// Length of the part of a file that consists of whole lines.
fn whole_lines(mut file: &File) -> std::io::Result<u64> {
    let len = file.seek(SeekFrom::End(0))?;
    let from = len.saturating_sub(4096);
    file.seek(SeekFrom::Start(from))?;
    let mut tail = Vec::new();
    file.take(4096).read_to_end(&mut tail)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| from + at as u64 + 1))
}
