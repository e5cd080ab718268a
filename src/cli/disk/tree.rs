//! Files in a new folder, and the manifest that says what each of them is.
//!
//! What is not all there carries `.partial` behind its name, because files get copied without their manifest; which bytes
//! lack, and why, is in the manifest.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::disk::extract::{Folder, Written, write};
use crate::disk::fs::{FileKind, Node};
use crate::disk::names::Taken;
use crate::image::{ReadAt, ReadError};
use crate::report::json_name;

/// What stands behind the name of a file that is not all there.
const PARTIAL: &str = ".partial";

/// What there is to write of a file.
pub(super) enum Content<'a> {
    /// All of it.
    All(&'a dyn ReadAt),
    /// All of it, but these bytes now belong to others.
    Part { bytes: &'a dyn ReadAt, why: String, foreign: Value },
    /// It has none that could be written: a directory, a link, a device.
    None,
    /// It has some, and it cannot be had: why not.
    Lost(String),
}

/// Folders that are kept open: there may be more of them than a process may have.
const OPEN: usize = 64;

/// A folder that was made: the names in it, and its path below the new folder.
struct Below {
    taken: Taken,
    path: String,
}

/// How many files became what.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    complete: u64,
    partial: u64,
    unwritten: u64,
    too_long: u64,
}

impl Counts {
    /// All that was to be written was, whole.
    pub(super) fn good(self) -> bool {
        self.partial == 0 && self.unwritten == 0
    }
}

/// See the module.
pub(super) struct Tree {
    root: Folder,
    /// By the path in evidence.
    below: HashMap<Vec<u8>, Below>,
    /// Paths below the new folder, the last used one behind.
    open: VecDeque<(String, Rc<Folder>)>,
    manifest: BufWriter<File>,
    /// Bytes of the longest file that is written.
    most: u64,
    at: PathBuf,
    pub(super) counts: Counts,
}

impl Tree {
    /// Makes the folder, which must not exist.
    pub(super) fn create(at: &Path, most: Option<u64>) -> Result<Self> {
        let made = || format!("could not make {}; it must not exist yet", at.display());
        let root = Folder::create(at).with_context(made)?;
        let manifest = BufWriter::new(root.file("manifest.jsonl").context("could not write the manifest")?);
        root.folder("files")?;
        let below = HashMap::from([(Vec::new(), Below { taken: Taken::default(), path: "files".to_owned() })]);
        let (most, at, counts) = (most.unwrap_or(u64::MAX), at.to_owned(), Counts::default());
        Ok(Self { root, below, open: VecDeque::new(), manifest, most, at, counts })
    }

    /// Makes the folder for a path of evidence, and those above it, unless it is there.
    pub(super) fn folder(&mut self, path: &[u8]) -> Result<()> {
        let mut here = Vec::new();
        for part in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
            let full = [here.as_slice(), b"/", part].concat();
            if !self.below.contains_key(&full) {
                let parent = self.below.get_mut(&here).context("a folder went missing")?;
                let safe = parent.taken.take(part);
                let (above, path) = (parent.path.clone(), format!("{}/{safe}", parent.path));
                self.opened(&above)?.folder(&safe).with_context(|| format!("could not make {path}"))?;
                self.below.insert(full.clone(), Below { taken: Taken::default(), path });
            }
            here = full;
        }
        Ok(())
    }

    /// The folder at a path below the new one.
    fn opened(&mut self, path: &str) -> io::Result<Rc<Folder>> {
        if let Some(index) = self.open.iter().rposition(|(open, _)| open == path) {
            let found = self.open.remove(index);
            self.open.extend(found);
        } else {
            if self.open.len() >= OPEN {
                self.open.pop_front();
            }
            self.open.push_back((path.to_owned(), Rc::new(self.root.again(path)?)));
        }
        self.open.back().map(|(_, folder)| Rc::clone(folder)).ok_or_else(|| io::Error::other("a folder went missing"))
    }

    /// Writes one file and its line. `own` is the last part of `path`, which may hold a `/` itself if a hostile directory says so.
    /// What cannot be read is said in the line, and does not stop the rest.
    pub(super) fn file(
        &mut self,
        (path, own): (&[u8], &[u8]),
        node: &Node,
        content: &Content<'_>,
        more: &Value,
    ) -> Result<()> {
        let cut = path.len().saturating_sub(own.len() + 1);
        let above = path.get(..cut).unwrap_or_default();
        let mut line = json!({
            "path": json_name(path), "inode": node.inode, "size": node.size, "mode": format!("{:04o}", node.mode & 0o7777),
            "kind": node.kind.map_or("unknown", FileKind::name), "uid": node.uid, "gid": node.gid,
            "modified": node.times.modified, "more": more,
        });
        let outcome = match content {
            Content::None => json!({ "outcome": "not written", "why": "it has no content of its own" }),
            Content::Lost(why) => {
                self.counts.unwritten += 1;
                json!({ "outcome": "not written", "why": why })
            }
            Content::All(bytes) | Content::Part { bytes, .. } if bytes.len() > self.most => {
                self.counts.too_long += 1;
                json!({ "outcome": "not written", "why": "it is longer than --max-file" })
            }
            Content::All(bytes) => self.content((above, own), *bytes, None)?,
            Content::Part { bytes, why, foreign } => self.content((above, own), *bytes, Some((why, foreign)))?,
        };
        if let (Some(line), Value::Object(outcome)) = (line.as_object_mut(), outcome) {
            line.extend(outcome);
        }
        writeln!(self.manifest, "{line}").context("could not write the manifest")
    }

    /// A line for what could not even be looked at.
    pub(super) fn unread(&mut self, path: &[u8], inode: u64, error: &ReadError) -> Result<()> {
        self.counts.unwritten += 1;
        let (outcome, why) = ("not written", error.to_string());
        let line = json!({ "path": json_name(path), "inode": inode, "outcome": outcome, "why": why });
        writeln!(self.manifest, "{line}").context("could not write the manifest")
    }

    /// Writes content under a safe name; tells that name and how it went.
    fn content(
        &mut self,
        (above, own): (&[u8], &[u8]),
        bytes: &dyn ReadAt,
        part: Option<(&String, &Value)>,
    ) -> Result<Value> {
        self.folder(above)?;
        let (folder, safe, full) = self.name(above, own)?;
        let mut file = folder.file(&safe).with_context(|| format!("could not make {full}"))?;
        let (written, failed) = match write(bytes, &mut file) {
            Ok(written) => (written, None),
            // Every other file would fail as well.
            Err(error) if is_full(&error) => return Err(error).with_context(|| format!("could not write {full}")),
            Err(error) => (Written::default(), Some(format!("could not be written: {error}"))),
        };
        let lacks = (written.missing > 0).then(|| format!("{} bytes could not be read and are zeros", written.missing));
        let why: Vec<_> = failed.into_iter().chain(lacks).chain(part.map(|(why, _)| why.clone())).collect();
        if why.is_empty() {
            self.counts.complete += 1;
            return Ok(json!({ "file": full, "outcome": "complete" }));
        }
        let (_, marked, to) = self.name(above, &[own, PARTIAL.as_bytes()].concat())?;
        folder.rename(&safe, &marked).with_context(|| format!("could not mark {full} as partial"))?;
        self.counts.partial += 1;
        let mut line = json!({ "file": to, "outcome": "partial", "why": why.join("; "), "missing": missing(&written) });
        if let (Some((_, foreign)), Some(line)) = (part, line.as_object_mut()) {
            line.insert("foreign".to_owned(), foreign.clone());
        }
        if let (1.., Some(line)) = (written.unlisted, line.as_object_mut()) {
            line.insert("missing_unlisted".to_owned(), json!(written.unlisted));
        }
        Ok(line)
    }

    /// A name for a file in the folder for a path of evidence that is there: the folder, the safe name, and the path of both.
    fn name(&mut self, path: &[u8], own: &[u8]) -> Result<(Rc<Folder>, String, String)> {
        // As `folder` joins them.
        let parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty());
        let key: Vec<u8> = parts.flat_map(|part| [b"/", part].concat()).collect();
        let below = self.below.get_mut(&key).context("a folder went missing")?;
        let safe = below.taken.take(own);
        let (above, full) = (below.path.clone(), format!("{}/{safe}", below.path));
        Ok((self.opened(&above)?, safe, full))
    }

    /// Nothing follows. Tells what became of the files.
    pub(super) fn end(&mut self) -> Result<String> {
        self.manifest.flush().context("could not write the manifest")?;
        let Counts { complete, partial, unwritten, too_long } = self.counts;
        let mut all = vec![format!("{complete} complete")];
        let more =
            [(partial, "partial (named .partial)"), (unwritten, "not to be had"), (too_long, "longer than --max-file")];
        all.extend(more.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")));
        Ok(format!("files: {}; {} tells of each", all.join(", "), self.at.join("manifest.jsonl").display()))
    }
}

fn missing(written: &Written) -> Vec<Value> {
    written.gaps.iter().map(|gap| json!({ "at": gap.at, "len": gap.len, "why": gap.why })).collect()
}

/// No room, or no right to write: not a matter of one file.
fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem | PermissionDenied)
}
