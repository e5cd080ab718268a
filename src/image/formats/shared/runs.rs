//! An address space written in any order, where the last copy of a byte wins, and where the pages of a run may stand
//! apart in the file: migration streams (a header before each page) and makedumpfile's flattened form.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::image::bytes::within;
use crate::image::{Extent, Kind, ReadAt, ReadError};

/// Runs that are always believed; above, a file must be longer by [`BYTES_PER_RUN`] for each.
const RUNS_FREE: u64 = 1 << 16;
/// Bytes of the file for each run: a page that is stored costs 4096, so only a file made to exhaust memory has less.
const BYTES_PER_RUN: u64 = 512;

/// `len` bytes at `at`; in the file, every `unit` of them begins `stride` bytes after the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) at: u64,
    pub(crate) len: u64,
    /// Offset in the file; `None`: zeros that are not stored.
    pub(crate) from: Option<u64>,
    pub(crate) unit: u64,
    pub(crate) stride: u64,
}

impl Run {
    /// Bytes that stand together in the file.
    pub(crate) fn plain(at: u64, len: u64, from: Option<u64>) -> Self {
        Self { at, len, from, unit: 1, stride: 1 }
    }

    pub(crate) fn end(&self) -> u64 {
        self.at.saturating_add(self.len)
    }

    /// Offset in the file of address `at`, which is inside, and how many bytes stand together there.
    fn place(&self, at: u64) -> (Option<u64>, u64) {
        let into = at - self.at;
        let Some(from) = self.from else { return (None, self.len - into) };
        if self.unit == self.stride {
            return (Some(from + into), self.len - into);
        }
        let (page, rest) = (into / self.unit, into % self.unit);
        (Some(from + page * self.stride + rest), (self.unit - rest).min(self.len - into))
    }

    /// The part of it from `at` on. Cuts lie between units.
    fn behind(&self, at: u64) -> Self {
        Self { at, len: self.end() - at, from: self.place(at).0, ..*self }
    }

    /// The part of it between two addresses; `None` if they are not inside, or not between units.
    pub(crate) fn cut(&self, from: u64, to: u64) -> Option<Self> {
        let inside = self.at <= from && from < to && to <= self.end();
        let whole = (from.checked_sub(self.at)?) % self.unit == 0;
        (inside && whole).then(|| Self { len: to - from, ..self.behind(from) })
    }

    /// Takes `next` in if it goes on as this one does.
    fn join(&mut self, next: &Self) -> bool {
        if self.end() != next.at {
            return false;
        }
        let goes_on = match (self.from, next.from) {
            (None, None) => true,
            (Some(from), Some(then)) if self.unit == next.unit => {
                // A single page has no stride yet: it gets that of its successor.
                let stride = if self.len == self.unit && self.unit > 1 { then.wrapping_sub(from) } else { self.stride };
                let fits = stride >= self.unit && self.len.is_multiple_of(self.unit);
                let alone = next.len == next.unit || next.stride == stride;
                let follows = from.checked_add((self.len / self.unit).saturating_mul(stride)) == Some(then);
                let joined = fits && alone && follows && stride < self.unit + 4096;
                if joined {
                    self.stride = stride;
                }
                joined
            }
            _ => false,
        };
        if goes_on {
            self.len += next.len;
        }
        goes_on
    }
}

/// Runs as they are found; a later one covers what it overlaps.
pub(crate) struct Writer {
    runs: BTreeMap<u64, Run>,
    last: Option<Run>,
    stored: u64,
}

impl Writer {
    /// Runs of a file of `stored` bytes.
    pub(crate) fn new(stored: u64) -> Self {
        Self { runs: BTreeMap::new(), last: None, stored }
    }

    /// Adds a run; fails if there are more than an honest file of this length can have.
    pub(crate) fn put(&mut self, run: Run) -> Result<(), ReadError> {
        if self.last.as_mut().is_some_and(|last| last.join(&run)) {
            return Ok(());
        }
        if let Some(last) = self.last.replace(run) {
            self.settle(last);
        }
        if self.runs.len() as u64 > RUNS_FREE.max(self.stored / BYTES_PER_RUN) {
            let why = format!("its pages lie in more than {} pieces", self.runs.len());
            return Err(ReadError::unsupported("this file", why));
        }
        Ok(())
    }

    fn settle(&mut self, run: Run) {
        if let Some((_, before)) = self.runs.range(..run.at).next_back().map(|(at, run)| (*at, *run))
            && before.end() > run.at
        {
            if before.end() > run.end() {
                self.runs.insert(run.end(), before.behind(run.end()));
            }
            self.runs.insert(before.at, Run { len: run.at - before.at, ..before });
        }
        while let Some((at, old)) = self.runs.range(run.at..run.end()).next().map(|(at, run)| (*at, *run)) {
            self.runs.remove(&at);
            if old.end() > run.end() {
                self.runs.insert(run.end(), old.behind(run.end()));
            }
        }
        self.runs.insert(run.at, run);
    }

    /// All of them, ascending and apart.
    pub(crate) fn finish(mut self) -> Vec<Run> {
        if let Some(last) = self.last.take() {
            self.settle(last);
        }
        let mut joined: Vec<Run> = Vec::new();
        for run in self.runs.into_values() {
            if !joined.last_mut().is_some_and(|last| last.join(&run)) {
                joined.push(run);
            }
        }
        joined
    }
}

/// Runs that can be read.
pub(crate) struct Runs {
    below: Arc<dyn ReadAt>,
    all: Vec<Run>,
    between: Kind,
    len: u64,
}

impl Runs {
    /// `runs` ascending, apart, and inside `below`; `between` them is this.
    pub(crate) fn new(below: Arc<dyn ReadAt>, runs: Vec<Run>, between: Kind) -> Self {
        let len = runs.last().map_or(0, Run::end);
        Self { below, all: runs, between, len }
    }

    fn find(&self, at: u64) -> Result<Run, u64> {
        let next = self.all.partition_point(|run| run.end() <= at);
        match self.all.get(next) {
            Some(run) if run.at <= at => Ok(*run),
            Some(run) => Err(run.at),
            None => Err(self.len),
        }
    }
}

impl ReadAt for Runs {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, mut at: u64, mut into: &mut [u8]) -> Result<(), ReadError> {
        within(self.len, at, into.len() as u64)?;
        while !into.is_empty() {
            let (from, together) = match (self.find(at), &self.between) {
                (Ok(run), _) => run.place(at),
                (Err(next), Kind::Gap(why)) => return Err(ReadError::Gap { at, len: next - at, why: why.clone() }),
                (Err(next), _) => (None, next - at),
            };
            let here = usize::try_from(together).unwrap_or(usize::MAX).min(into.len());
            let (part, rest) = into.split_at_mut(here);
            match from {
                Some(from) => self.below.read_at(from, part)?,
                None => part.fill(0),
            }
            at += here as u64;
            into = rest;
        }
        Ok(())
    }

    fn extent(&self, at: u64) -> Result<Extent, ReadError> {
        within(self.len, at, 1)?;
        Ok(match self.find(at) {
            Err(next) => Extent { at, len: next - at, kind: self.between.clone() },
            Ok(run) => {
                let kind = if run.from.is_some() { Kind::Data } else { Kind::Zero };
                Extent { at, len: run.end() - at, kind }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_copy_wins_and_pages_with_headers_are_one_run() {
        // Pages of 4 bytes, each behind a header of 1.
        let file: Vec<u8> = (0..=255).collect();
        let mut writer = Writer::new(256);
        let page = |page: u64, from: Option<u64>| Run { at: page * 4, len: 4, from, unit: 4, stride: 4 };
        for i in 0..8 {
            writer.put(page(i, Some(1 + i * 5))).unwrap();
        }
        for i in 10..14 {
            writer.put(page(i, None)).unwrap();
        }
        writer.put(page(3, Some(100))).unwrap();
        writer.put(page(11, Some(110))).unwrap();
        writer.put(page(0, None)).unwrap();
        writer.put(page(3, Some(200))).unwrap();
        let runs = writer.finish();
        assert_eq!(runs.len(), 7, "{runs:?}");
        let image = Runs::new(Arc::new(InMemory(file)), runs, Kind::Zero);
        let mut all = vec![9; 56];
        image.read_at(0, &mut all).unwrap();
        assert_eq!(all[..4], [0; 4]);
        assert_eq!(all[4..12], [6, 7, 8, 9, 11, 12, 13, 14]);
        assert_eq!(all[12..20], [200, 201, 202, 203, 21, 22, 23, 24]);
        assert_eq!(all[28..32], [36, 37, 38, 39]);
        assert_eq!(all[32..44], [0; 12]);
        assert_eq!(all[44..48], [110, 111, 112, 113]);
        let mut two = [0; 2];
        image.read_at(7, &mut two).unwrap();
        assert_eq!(two, [9, 11]);
    }

    use crate::image::InMemory;

    #[test]
    fn a_file_cut_into_dust_is_refused() {
        let mut writer = Writer::new(1 << 20);
        let refused = (0..200_000_u64).find_map(|i| writer.put(Run::plain(i * 3, 1, None)).err());
        assert!(matches!(refused, Some(ReadError::Unsupported { .. })));
    }
}
