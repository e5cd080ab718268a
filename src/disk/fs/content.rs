//! The content of a file as bytes: blocks of a volume, holes and parts never written as zeros.

use std::sync::Arc;

use super::Run;
use crate::image::{Extent, Kind, ReadAt, ReadError, inside};
use impound_backends::Why;

/// See the module.
pub(crate) struct Content {
    volume: Arc<dyn ReadAt>,
    runs: Vec<Run>,
    block: u64,
    len: u64,
    /// Why content may be missing that should be there.
    damaged: Option<String>,
}

impl Content {
    /// `runs` in the order of the file and not overlapping. With `damaged`, what no run covers does not read as zeros.
    pub(crate) fn new(volume: Arc<dyn ReadAt>, runs: Vec<Run>, block: u64, len: u64, damaged: Option<String>) -> Self {
        Self { volume, runs, block, len, damaged }
    }

    /// What is at `at`, how far it goes, and where it is on the volume.
    fn piece(&self, at: u64) -> (Extent, u64) {
        let here = at / self.block;
        let index = self.runs.partition_point(|run| run.logical <= here);
        let run = index.checked_sub(1).and_then(|index| self.runs.get(index));
        let hole = || self.damaged.as_ref().map_or(Kind::Zero, |why| Kind::Gap(Why::Unreadable(why.clone())));
        if let Some(run) = run.filter(|run| here - run.logical < run.len) {
            let inside = at - run.logical * self.block;
            let end = run.len.saturating_mul(self.block).min(self.len.saturating_sub(run.logical * self.block));
            let from = run.physical.saturating_mul(self.block).saturating_add(inside);
            let len = end.saturating_sub(inside).max(1);
            if run.unwritten {
                return (Extent { at, len, kind: Kind::Zero }, 0);
            }
            let there = self.volume.len().saturating_sub(from).min(len);
            if there == 0 {
                let why = Why::Unreadable(format!("its block {} is behind the end of the volume", run.physical));
                return (Extent { at, len, kind: Kind::Gap(why) }, 0);
            }
            return (Extent { at, len: there, kind: Kind::Data }, from);
        }
        let next = self.runs.get(index).map_or(self.len, |run| run.logical.saturating_mul(self.block).min(self.len));
        (Extent { at, len: next.saturating_sub(at).max(1), kind: hole() }, 0)
    }
}

impl ReadAt for Content {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, mut at: u64, mut into: &mut [u8]) -> Result<(), ReadError> {
        inside("file", self.len, at, into.len() as u64)?;
        while !into.is_empty() {
            let (extent, from) = self.piece(at);
            let here = crate::disk::us(extent.len).min(into.len());
            let (now, rest) = into.split_at_mut(here);
            match extent.kind {
                Kind::Zero => now.fill(0),
                Kind::Data => self.volume.read_at(from, now).map_err(|error| error.moved(from, at))?,
                Kind::Gap(why) => return Err(ReadError::Gap { at: extent.at, len: extent.len, why }),
            }
            at += here as u64;
            into = rest;
        }
        Ok(())
    }

    fn extent(&self, at: u64) -> Result<Extent, ReadError> {
        inside("file", self.len, at, 1)?;
        let (extent, from) = self.piece(at);
        if extent.kind != Kind::Data {
            return Ok(extent);
        }
        // A hole of the image below is one here as well.
        let below = self.volume.extent(from)?;
        Ok(Extent { at, len: below.len.min(extent.len), kind: below.kind })
    }
}
