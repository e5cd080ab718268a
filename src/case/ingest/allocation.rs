//! `allocation.jsonl`: what the source said of each range of a disk, as it came.
//!
//! ```json
//! {"at":0,"len":1048576,"kind":"data"}
//! {"at":1048576,"len":4096,"kind":"unreadable","why":"Input/output error"}
//! ```
//!
//! `kind` is `data` (bytes came), `zero` (the source said: zeros), `sparse` (no block there; reads as zeros) or
//! `unreadable`. Neighbours that came after each other are merged; the order is that of arrival. A resumed copy takes
//! from here what it knows of the part it keeps.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use impound_backends::Why;
use serde::{Deserialize, Serialize};

use super::space::{Log, Space};
use crate::case::CaseError;

/// The longest line, in bytes.
const LINE: u64 = 8192;

/// What a range is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    Data,
    Zero,
    Sparse,
    NotRam,
    Unreadable,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Run {
    pub(super) at: u64,
    pub(super) len: u64,
    pub(super) kind: Kind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) why: Option<String>,
}

impl Run {
    /// The gap this run is, if it is one.
    pub(super) fn gap(&self) -> Option<Why> {
        match self.kind {
            Kind::Data | Kind::Zero => None,
            Kind::Sparse => Some(Why::Sparse),
            Kind::NotRam => Some(Why::NotRam),
            Kind::Unreadable => Some(Why::Unreadable(self.why.clone().unwrap_or_default())),
        }
    }

    /// The run of a gap.
    pub(super) fn of_gap(at: u64, len: u64, why: &Why) -> Self {
        let (kind, why) = match why {
            Why::Sparse => (Kind::Sparse, None),
            Why::NotRam => (Kind::NotRam, None),
            Why::Unreadable(why) => (Kind::Unreadable, Some(why.clone())),
        };
        Self { at, len, kind, why }
    }

    fn line(&self) -> String {
        // A struct of numbers and strings always serializes.
        serde_json::to_string(self).unwrap_or_default() + "\n"
    }
}

/// The map while it is written.
#[derive(Debug)]
pub(super) struct Allocation {
    log: Log,
    open: Option<Run>,
}

impl Allocation {
    /// Begins one at `path`, with what is known from before.
    pub(super) fn create(path: &Path) -> Result<Self, CaseError> {
        Ok(Self { log: Log::create(path)?, open: None })
    }

    /// The file was renamed to `path`.
    pub(super) fn moved_to(&mut self, path: &Path) {
        self.log.moved_to(path);
    }

    /// Notes a run.
    pub(super) fn note(&mut self, run: Run, space: &Space) -> Result<(), CaseError> {
        match &mut self.open {
            Some(open) if open.at + open.len == run.at && open.kind == run.kind && open.why == run.why => {
                open.len += run.len;
                Ok(())
            }
            _ => match self.open.replace(run) {
                Some(closed) => self.log.append(&closed.line(), space),
                None => Ok(()),
            },
        }
    }

    /// Hands all to the system, the run that may still grow included: a longer line will take its place.
    pub(super) fn flush(&mut self, space: &Space) -> Result<(), CaseError> {
        match &self.open {
            Some(open) => self.log.provisional(&open.line(), space),
            None => self.log.flush(space),
        }
    }

    /// Ends it under its name.
    pub(super) fn finish(&mut self, name: &Path, space: &Space) -> Result<(), CaseError> {
        if let Some(open) = self.open.take() {
            self.log.append(&open.line(), space)?;
        }
        self.log.finish(name, space)
    }
}

/// Reads the map of an earlier run and tells each whole line. What a kill left unfinished at the end is passed over.
pub(super) fn read(path: &Path, mut tell: impl FnMut(Run) -> Result<(), CaseError>) -> Result<(), CaseError> {
    let file = std::fs::File::open(path).map_err(CaseError::io("open the allocation map", path))?;
    let (mut from, mut line) = (BufReader::new(file), Vec::new());
    loop {
        line.clear();
        let mut bounded = (&mut from).take(LINE);
        bounded.read_until(b'\n', &mut line).map_err(CaseError::io("read the allocation map", path))?;
        match line.pop() {
            Some(b'\n') => {}
            _ => return Ok(()),
        }
        match serde_json::from_slice(&line) {
            Ok(run) => tell(run)?,
            Err(_) => return Ok(()),
        }
    }
}

/// The name while it is written.
pub(super) fn part(draft: &Path) -> PathBuf {
    draft.join("allocation.jsonl.part")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_grows_replaces_its_provisional_line() {
        let folder = tempfile::tempdir().unwrap();
        let space = Space::new(folder.path(), 0, 0).unwrap();
        let path = part(folder.path());
        let mut map = Allocation::create(&path).unwrap();
        let run = |at, len, kind| Run { at, len, kind, why: None };
        let lines = |path: &Path| {
            let mut out = Vec::new();
            read(path, |run| {
                out.push(run);
                Ok(())
            })
            .unwrap();
            out
        };
        map.note(run(0, 4096, Kind::Data), &space).unwrap();
        map.flush(&space).unwrap();
        assert_eq!(lines(&path), [run(0, 4096, Kind::Data)]);
        map.note(run(4096, 1 << 40, Kind::Data), &space).unwrap();
        map.flush(&space).unwrap();
        map.note(run(0x7000, 4096, Kind::Zero), &space).unwrap();
        map.flush(&space).unwrap();
        let name = folder.path().join("allocation.jsonl");
        map.finish(&name, &space).unwrap();
        assert_eq!(lines(&name), [run(0, (1 << 40) + 4096, Kind::Data), run(0x7000, 4096, Kind::Zero)]);
    }
}
