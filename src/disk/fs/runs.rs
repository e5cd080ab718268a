//! What the file systems that keep lists of runs share: putting a list in order, the bytes behind the end of a file, and
//! how much of a deleted file is still its own.

use std::sync::Arc;

use super::content::Content;
use super::{Confidence, Run};
use crate::disk::us;
use crate::image::{ReadAt, ReadError, read_vec};

/// The runs of a file as they are collected, and what was wrong with them.
#[derive(Debug, Default)]
pub(crate) struct Map {
    /// In the order of the file once [`Map::finish`] was called.
    pub(crate) runs: Vec<Run>,
    /// Blocks that hold the map itself, where somebody wants to know.
    pub(crate) own: Vec<u64>,
    /// What is damaged. The runs that are there are sound all the same.
    pub(crate) odd: Vec<String>,
}

impl Map {
    /// Adds a run; one that goes on where the last one ended becomes a part of it.
    pub(crate) fn push(&mut self, run: Run) {
        if let Some(last) = self.runs.last_mut()
            && last.unwritten == run.unwritten
            && last.logical.checked_add(last.len) == Some(run.logical)
            && last.physical.checked_add(last.len) == Some(run.physical)
        {
            last.len += run.len;
            return;
        }
        self.runs.push(run);
    }

    /// Sorts what a sound tree has sorted already, and drops what overlaps.
    pub(crate) fn finish(mut self) -> Self {
        if !self.runs.is_sorted_by_key(|run| run.logical) {
            self.odd.push("its extents are not in order".to_owned());
            self.runs.sort_by_key(|run| run.logical);
        }
        let (mut end, mut overlap) = (0, false);
        self.runs.retain(|run| {
            let good = run.logical >= end;
            overlap |= !good;
            if good {
                end = run.logical.saturating_add(run.len);
            }
            good
        });
        if overlap {
            self.odd.push("some of its extents overlap; the later ones were left out".to_owned());
        }
        self
    }

    /// Blocks of all runs.
    pub(crate) fn blocks(&self) -> u64 {
        self.runs.iter().fold(0, |sum, run| sum.saturating_add(run.len))
    }

    /// The content of a file of `size` bytes. With `strict`, what a damaged map does not tell is a gap, not zeros.
    pub(crate) fn content(self, volume: &Arc<dyn ReadAt>, block: u64, size: u64, strict: bool) -> Arc<dyn ReadAt> {
        let damaged = self.odd.into_iter().next().filter(|_| strict);
        Arc::new(Content::new(Arc::clone(volume), self.runs, block, size, damaged))
    }

    /// What stands behind the end of a file of `size` bytes in its last block.
    pub(crate) fn slack(&self, volume: &dyn ReadAt, block: u64, size: u64) -> Result<Vec<u8>, ReadError> {
        let (last, inside) = (size / block, size % block);
        let holds = |run: &&Run| last.checked_sub(run.logical).is_some_and(|n| n < run.len);
        let Some(run) = self.runs.iter().find(holds).filter(|_| inside != 0) else { return Ok(Vec::new()) };
        let at = run.physical.saturating_add(last - run.logical).saturating_mul(block);
        read_vec(volume, at.saturating_add(inside), us(block - inside))
    }

    /// Blocks of content, and how many of them somebody else has now. `used` counts those of a range that are in use on
    /// a volume of `end` blocks.
    pub(crate) fn books(&self, end: u64, used: impl Fn(std::ops::Range<u64>) -> u64) -> (u64, u64) {
        let (mut blocks, mut reused) = (0_u64, 0_u64);
        for run in self.runs.iter().filter(|run| !run.unwritten) {
            let here = run.physical.min(end)..run.physical.saturating_add(run.len).min(end);
            let outside = run.len.saturating_sub(here.end - here.start);
            blocks = blocks.saturating_add(run.len);
            reused = reused.saturating_add(outside).saturating_add(used(here));
        }
        (blocks, reused)
    }

    /// What [`Map::books`] mean for a file that `had` content.
    pub(crate) fn confidence(&self, (blocks, reused): (u64, u64), had: bool) -> Confidence {
        match (blocks, reused) {
            (0, _) if had => Confidence::NoMap,
            (_, 0) if self.odd.is_empty() => Confidence::Whole,
            (blocks, reused) if blocks == reused => Confidence::Reused,
            _ => Confidence::Part,
        }
    }
}
