//! What an item does not hold, and why: merged ranges, a bounded list of them, totals of all.
//!
//! Up to [`MOST`] ranges are kept and go into the manifest. If there are more, all of them, from the first on, are
//! written to `gaps.jsonl`, one object a line, in the order they came.

use std::path::PathBuf;

use impound_backends::Why;
use serde::{Deserialize, Serialize};

use super::space::{Log, Space};
use crate::case::CaseError;

/// The most ranges kept in memory and in the manifest.
pub const MOST: usize = 10_000;
/// The longest reason kept, in characters: it comes from a peer.
const REASON: usize = 400;

/// A range that holds nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// First byte, in the item's address space.
    pub at: u64,
    /// Length in bytes.
    pub len: u64,
    /// Why there is nothing.
    pub why: Why,
}

/// Bytes without content, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GapTotals {
    /// Number of ranges, neighbours merged as far as they came after each other.
    pub ranges: u64,
    /// Bytes where the disk has no block.
    pub sparse: u64,
    /// Bytes of address space with no memory behind.
    pub not_ram: u64,
    /// Bytes that are there and could not be read.
    pub unreadable: u64,
}

/// Gathers gaps.
#[derive(Debug)]
pub(super) struct Gaps {
    path: PathBuf,
    kept: Vec<Gap>,
    /// Once there are too many: the file they all go to, and the last one, which may still grow.
    spilled: Option<(Log, Option<Gap>)>,
    totals: GapTotals,
}

impl Gaps {
    /// None yet; `path` is where they go if they are too many.
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, kept: Vec::new(), spilled: None, totals: GapTotals::default() }
    }

    /// Adds one.
    pub(super) fn add(&mut self, mut gap: Gap, space: &Space) -> Result<(), CaseError> {
        let total = match &mut gap.why {
            Why::Sparse => &mut self.totals.sparse,
            Why::NotRam => &mut self.totals.not_ram,
            Why::Unreadable(reason) => {
                if reason.len() > REASON {
                    *reason = reason.chars().take(REASON).collect();
                }
                &mut self.totals.unreadable
            }
        };
        *total = total.saturating_add(gap.len);
        if let Some((log, last)) = &mut self.spilled {
            let Some(full) = join(last, gap) else { return Ok(()) };
            self.totals.ranges += 1;
            return log.append(&line(&full), space);
        }
        let mut last = self.kept.pop();
        self.kept.extend(join(&mut last, gap));
        self.kept.extend(last);
        if self.kept.len() <= MOST {
            return Ok(());
        }
        self.kept = merged(std::mem::take(&mut self.kept));
        // Half is the margin: merging must not be needed again for every gap.
        if self.kept.len() > MOST / 2 { self.spill(space) } else { Ok(()) }
    }

    fn spill(&mut self, space: &Space) -> Result<(), CaseError> {
        let mut log = Log::create(&self.path)?;
        for gap in &self.kept {
            log.append(&line(gap), space)?;
        }
        self.totals.ranges = self.kept.len() as u64;
        self.spilled = Some((log, None));
        Ok(())
    }

    /// The content had to end at `at` instead of `end`: gaps behind are replaced by one with the reason.
    pub(super) fn cut(&mut self, at: u64, end: u64, why: &str, space: &Space) -> Result<(), CaseError> {
        // Once they are in a file they stay there: the range is then named twice, which is not wrong.
        if self.spilled.is_none() {
            let before = std::mem::take(&mut self.kept);
            self.totals = GapTotals::default();
            for gap in before.into_iter().filter(|gap| gap.at < at) {
                self.add(Gap { len: gap.len.min(at - gap.at), ..gap }, space)?;
            }
        }
        let why = Why::Unreadable(format!("it came and could not be stored: {why}"));
        if at < end { self.add(Gap { at, len: end - at, why }, space) } else { Ok(()) }
    }

    /// Does any of them make the exhibit partial?
    pub(super) fn unreadable(&self) -> bool {
        self.totals.unreadable > 0
    }

    /// The list, sorted, and the totals; true if the file was written, under `name`.
    pub(super) fn finish(
        self,
        name: &std::path::Path,
        space: &Space,
    ) -> Result<(Vec<Gap>, GapTotals, bool), CaseError> {
        let (mut totals, mut kept) = (self.totals, merged(self.kept));
        let Some((mut log, last)) = self.spilled else {
            totals.ranges = kept.len() as u64;
            return Ok((kept, totals, false));
        };
        if let Some(last) = last {
            totals.ranges += 1;
            log.append(&line(&last), space)?;
        }
        log.finish(name, space)?;
        kept.truncate(MOST);
        Ok((kept, totals, true))
    }
}

/// Lets `last` grow by `gap` if they touch and agree; else `gap` becomes the last, and the one before comes back.
fn join(last: &mut Option<Gap>, gap: Gap) -> Option<Gap> {
    match last {
        Some(before) if before.at.saturating_add(before.len) == gap.at && before.why == gap.why => {
            before.len = before.len.saturating_add(gap.len);
            None
        }
        _ => last.replace(gap),
    }
}

fn merged(mut gaps: Vec<Gap>) -> Vec<Gap> {
    gaps.sort_by_key(|gap| gap.at);
    let (mut out, mut last) = (Vec::with_capacity(gaps.len()), None);
    for gap in gaps {
        out.extend(join(&mut last, gap));
    }
    out.extend(last);
    out
}

fn line(gap: &Gap) -> String {
    // A struct of numbers and strings always serializes.
    serde_json::to_string(gap).unwrap_or_default() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gap(at: u64, len: u64) -> Gap {
        Gap { at, len, why: Why::Sparse }
    }

    #[test]
    fn neighbours_are_merged_in_any_order() {
        let folder = tempfile::tempdir().unwrap();
        let space = Space::new(folder.path(), 0, 0).unwrap();
        let mut gaps = Gaps::new(folder.path().join("g.part"));
        for grain in [5, 6, 0, 1, 3, 2] {
            gaps.add(gap(grain * 4096, 4096), &space).unwrap();
        }
        gaps.add(Gap { at: 7 * 4096, len: 4096, why: Why::Unreadable("é".repeat(500)) }, &space).unwrap();
        assert!(gaps.unreadable());
        let (list, totals, file) = gaps.finish(&folder.path().join("g"), &space).unwrap();
        assert_eq!(list[..2], [gap(0, 4 * 4096), gap(5 * 4096, 2 * 4096)]);
        assert_eq!((totals.ranges, totals.sparse, totals.unreadable, file), (3, 6 * 4096, 4096, false));
    }

    #[test]
    fn too_many_go_to_a_file_and_the_totals_stay_true() {
        let folder = tempfile::tempdir().unwrap();
        let space = Space::new(folder.path(), 0, 0).unwrap();
        let mut gaps = Gaps::new(folder.path().join("g.part"));
        for i in 0..25_000_u64 {
            gaps.add(gap(i * 8192, 4096), &space).unwrap();
        }
        let (list, totals, file) = gaps.finish(&folder.path().join("g"), &space).unwrap();
        assert!(file && list.len() <= MOST);
        assert_eq!((totals.ranges, totals.sparse), (25_000, 25_000 * 4096));
        let text = std::fs::read_to_string(folder.path().join("g")).unwrap();
        let lines: Vec<Gap> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 25_000);
        assert_eq!(lines[24_999], gap(24_999 * 8192, 4096));
    }
}
