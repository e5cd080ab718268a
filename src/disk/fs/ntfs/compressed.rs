//! A compressed value: clusters are compressed some at a time (16 as a rule), and a unit that takes as many clusters as it
//! would without is stored as it is; one that takes none is zero (linux-ntfs documentation, "Compressed attribute").

use std::sync::Arc;

use super::lznt1;
use crate::disk::fs::Run;
use crate::disk::fs::content::Content;
use crate::disk::us;
use crate::image::cache::Cache;
use crate::image::{Extent, Kind, ReadAt, ReadError, read_vec};

/// Bytes of units that are kept.
const KEPT: usize = 2 << 20;
/// The longest unit: 16 clusters of 64 KiB.
const LONGEST: u64 = 1 << 20;

/// See the module.
pub(super) struct Compressed {
    /// The clusters as they are.
    stored: Content,
    runs: Vec<Run>,
    cluster: u64,
    /// Clusters of a unit.
    unit: u64,
    len: u64,
    damaged: bool,
    decoded: Cache,
}

/// What a unit is.
enum Unit {
    Zero,
    Plain,
    /// In so many clusters.
    Packed(u64),
}

impl Compressed {
    /// `runs` in the order of the file; `unit` in clusters.
    pub(super) fn new(
        volume: Arc<dyn ReadAt>,
        runs: Vec<Run>,
        cluster: u64,
        unit: u64,
        len: u64,
        damaged: Option<String>,
    ) -> Self {
        // A packed unit may reach behind the end of the content.
        let room = len.checked_next_multiple_of(unit * cluster).unwrap_or(len);
        let bad = damaged.is_some();
        let stored = Content::new(volume, runs.clone(), cluster, room, damaged);
        Self { stored, runs, cluster, unit, len, damaged: bad, decoded: Cache::new(KEPT) }
    }

    fn bytes(&self) -> u64 {
        self.unit * self.cluster
    }

    /// Clusters of the file from `from` to `to` that are stored.
    fn clusters(&self, from: u64, to: u64) -> u64 {
        let first = self.runs.partition_point(|run| run.logical + run.len <= from);
        let runs = self.runs.get(first..).unwrap_or_default().iter().take_while(|run| run.logical < to);
        runs.map(|run| (run.logical + run.len).min(to) - run.logical.max(from)).sum()
    }

    fn kind(&self, number: u64) -> Unit {
        match self.clusters(number * self.unit, (number + 1) * self.unit) {
            0 if self.damaged => Unit::Plain,
            0 => Unit::Zero,
            all if all == self.unit => Unit::Plain,
            some => Unit::Packed(some),
        }
    }

    fn decode(&self, number: u64, clusters: u64) -> Result<Vec<u8>, ReadError> {
        let at = number * self.bytes();
        if self.bytes() > LONGEST {
            return Err(ReadError::unsupported("a compressed file", format!("a unit of {} bytes", self.bytes())));
        }
        let first = number * self.unit;
        if self.clusters(first, first + clusters) != clusters {
            return Err(ReadError::corrupt("NTFS compressed unit", at, "its clusters in front", "a hole before them"));
        }
        let packed = read_vec(&self.stored, at, us(clusters * self.cluster))?;
        lznt1::decode(&packed, us(self.bytes())).map_err(|inside| {
            let at = at.saturating_add(inside as u64);
            ReadError::corrupt("NTFS compressed unit", at, "a chunk of LZNT1", "something else")
        })
    }
}

impl ReadAt for Compressed {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, mut at: u64, mut into: &mut [u8]) -> Result<(), ReadError> {
        let want = into.len() as u64;
        if at.checked_add(want).is_none_or(|end| end > self.len) {
            let why = format!("the file ends at {:#x}", self.len);
            return Err(ReadError::caller(format!("read {want} bytes at {at:#x}"), why));
        }
        while !into.is_empty() {
            let (number, inside) = (at / self.bytes(), at % self.bytes());
            let here = us(self.bytes() - inside).min(into.len());
            let (now, rest) = into.split_at_mut(here);
            match self.kind(number) {
                Unit::Zero => now.fill(0),
                Unit::Plain => self.stored.read_at(at, now)?,
                Unit::Packed(clusters) => {
                    let unit = self.decoded.get(number, || self.decode(number, clusters))?;
                    now.copy_from_slice(unit.get(us(inside)..us(inside) + here).unwrap_or_default());
                }
            }
            at += here as u64;
            into = rest;
        }
        Ok(())
    }

    fn extent(&self, at: u64) -> Result<Extent, ReadError> {
        if at >= self.len {
            let why = format!("the file ends at {:#x}", self.len);
            return Err(ReadError::caller(format!("read 1 byte at {at:#x}"), why));
        }
        let number = at / self.bytes();
        let rest = (self.bytes() - at % self.bytes()).min(self.len - at);
        match self.kind(number) {
            Unit::Zero => Ok(Extent { at, len: rest, kind: Kind::Zero }),
            Unit::Packed(_) => Ok(Extent { at, len: rest, kind: Kind::Data }),
            Unit::Plain => {
                let below = self.stored.extent(at)?;
                Ok(Extent { at, len: below.len.min(rest), kind: below.kind })
            }
        }
    }

    fn unit(&self) -> u64 {
        self.bytes()
    }
}
