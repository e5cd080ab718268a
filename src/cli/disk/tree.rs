//! Files of a file system in a new folder, and the manifest that says what each of them is, and how many became what.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::disk::fs::{FileKind, Node};
use crate::extract;
use crate::image::{ReadAt, ReadError};
use crate::report::json_name;

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
    made: extract::Tree,
    /// Bytes of the longest file that is written.
    most: u64,
    at: PathBuf,
    pub(super) counts: Counts,
}

impl Tree {
    /// Makes the folder, which must not exist.
    pub(super) fn create(at: &Path, most: Option<u64>) -> Result<Self> {
        let why = || format!("could not make {}; it must not exist yet", at.display());
        let made = extract::Tree::create(at).with_context(why)?;
        Ok(Self { made, most: most.unwrap_or(u64::MAX), at: at.to_owned(), counts: Counts::default() })
    }

    /// Makes the folder for a path of evidence, and those above it, unless it is there.
    pub(super) fn folder(&mut self, path: &[u8]) -> Result<()> {
        Ok(self.made.folder(path)?)
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
        Ok(self.made.line(&line)?)
    }

    /// A line for what could not even be looked at.
    pub(super) fn unread(&mut self, path: &[u8], inode: u64, error: &ReadError) -> Result<()> {
        self.counts.unwritten += 1;
        let (outcome, why) = ("not written", error.to_string());
        let line = json!({ "path": json_name(path), "inode": inode, "outcome": outcome, "why": why });
        Ok(self.made.line(&line)?)
    }

    /// Writes content under a safe name; tells that name and how it went.
    fn content(
        &mut self,
        (above, own): (&[u8], &[u8]),
        bytes: &dyn ReadAt,
        part: Option<(&String, &Value)>,
    ) -> Result<Value> {
        let placed = self.made.content(above, own, bytes, part.map(|(why, _)| why.as_str()))?;
        let count = if placed.lacks.is_none() { &mut self.counts.complete } else { &mut self.counts.partial };
        *count += 1;
        let mut told = placed.told();
        if let (Some((_, foreign)), Some(told)) = (part, told.as_object_mut()) {
            told.insert("foreign".to_owned(), foreign.clone());
        }
        Ok(told)
    }

    /// Nothing follows. Tells what became of the files.
    pub(super) fn end(&mut self) -> Result<String> {
        self.made.flush()?;
        let Counts { complete, partial, unwritten, too_long } = self.counts;
        let mut all = vec![format!("{complete} complete")];
        let more =
            [(partial, "partial (named .partial)"), (unwritten, "not to be had"), (too_long, "longer than --max-file")];
        all.extend(more.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")));
        Ok(format!("files: {}; {} tells of each", all.join(", "), self.at.join("manifest.jsonl").display()))
    }
}
