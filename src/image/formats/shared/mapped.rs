//! What qcow2, VMDK, VDI and VHD have in common: a table tells for every address where its bytes are, and what the table
//! leaves out lies in a parent image. A format brings the table ([`Map`]); reading, merging and falling through is here.

use std::sync::Arc;

use impound_backends::Why;

use crate::image::bytes::within;
use crate::image::cache::Cache;
use crate::image::{Extent, Kind, ReadAt, ReadError};

/// Bytes of decoded units that an image keeps.
const CACHE: usize = 32 << 20;

/// Where bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Home {
    /// Stored as they are, from this offset on.
    Stored(u64),
    /// All zero, and not stored.
    Zero,
    /// Whatever the parent holds at the same address.
    Parent,
    /// In the compressed unit that holds the address.
    Packed,
}

/// `len` bytes of one home.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    /// Length in bytes, at least 1.
    pub(crate) len: u64,
    /// Where they are.
    pub(crate) home: Home,
}

impl Run {
    /// Takes `next` in if it goes on where this ends.
    pub(crate) fn join(&mut self, next: Run) -> bool {
        let goes_on = match (self.home, next.home) {
            (Home::Stored(from), Home::Stored(next)) => from.checked_add(self.len) == Some(next),
            (home, next) => home == next,
        };
        if goes_on {
            self.len = self.len.saturating_add(next.len);
        }
        goes_on
    }
}

/// One table of a second level: where it is, and its bytes.
pub(crate) type Table = (u64, Arc<Vec<u8>>);

/// The table of a format.
pub(crate) trait Map: Send + Sync {
    /// Length of the disk in bytes.
    fn len(&self) -> u64;

    /// Bytes that are decoded together: clusters, grains, blocks.
    fn unit(&self) -> u64;

    /// What lies at `at`, which is inside. May end early; need not look further than `most` bytes.
    fn run(&self, at: u64, most: u64) -> Result<Run, ReadError>;

    /// Fills `into`, which is as long as unit number `unit` or as what of it lies inside the disk.
    fn decode(&self, unit: u64, into: &mut [u8]) -> Result<(), ReadError>;
}

/// Walks one table from `at` on: joins what `piece` says of each place while it is the same, up to `most` bytes and `end`.
pub(crate) fn joined(
    at: u64,
    most: u64,
    end: u64,
    piece: impl Fn(u64) -> Result<Run, ReadError>,
) -> Result<Run, ReadError> {
    let mut run = piece(at)?;
    let mut next = at.saturating_add(run.len);
    while run.len < most && next < end {
        // What is wrong further on is told when it is asked for.
        let Ok(piece) = piece(next) else { break };
        if !run.join(piece) {
            break;
        }
        next = at.saturating_add(run.len);
    }
    run.len = run.len.min(end.saturating_sub(at)).max(1);
    Ok(run)
}

/// What lies under an image.
pub(crate) enum Parent {
    /// Nothing: what was never written is zero.
    Nothing,
    /// Another image, by its name; behind its end are zeros.
    Image(Arc<dyn ReadAt>, String),
    /// One that is not at hand.
    Missing(String),
}

impl Parent {
    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), ReadError> {
        let (bytes, name) = match self {
            Self::Nothing => {
                into.fill(0);
                return Ok(());
            }
            Self::Missing(why) => {
                return Err(ReadError::Gap { at, len: into.len() as u64, why: Why::Unreadable(why.clone()) });
            }
            Self::Image(bytes, name) => (bytes, name),
        };
        let there = usize::try_from(bytes.len().saturating_sub(at)).unwrap_or(usize::MAX).min(into.len());
        let (part, behind) = into.split_at_mut(there);
        behind.fill(0);
        if part.is_empty() {
            return Ok(());
        }
        bytes.read_at(at, part).map_err(|error| match error {
            gap @ ReadError::Gap { .. } => gap,
            other => ReadError::within(name.clone())(other),
        })
    }

    fn extent(&self, at: u64, len: u64) -> Result<Extent, ReadError> {
        match self {
            Self::Image(bytes, name) if at < bytes.len() => {
                let below = bytes.extent(at).map_err(ReadError::within(name.clone()))?;
                Ok(Extent { at, len: below.len.min(len), kind: below.kind })
            }
            Self::Missing(why) => Ok(Extent { at, len, kind: Kind::Gap(Why::Unreadable(why.clone())) }),
            Self::Nothing | Self::Image(..) => Ok(Extent { at, len, kind: Kind::Zero }),
        }
    }

    fn unit(&self) -> u64 {
        match self {
            Self::Image(bytes, _) => bytes.unit(),
            Self::Nothing | Self::Missing(_) => 1,
        }
    }
}

/// A disk by its table.
pub(crate) struct Mapped<M> {
    map: M,
    stored: Arc<dyn ReadAt>,
    parent: Parent,
    units: Cache,
}

impl<M: Map> Mapped<M> {
    /// `stored` holds what the table calls stored.
    pub(crate) fn new(map: M, stored: Arc<dyn ReadAt>, parent: Parent) -> Self {
        Self { map, stored, parent, units: Cache::new(CACHE) }
    }

    /// Reads from the unit that holds `at`; answers how many bytes. A whole unit goes straight to where it is wanted.
    fn unpack(&self, at: u64, into: &mut [u8]) -> Result<usize, ReadError> {
        let unit = self.map.unit().max(1);
        let (number, skip) = (at / unit, at % unit);
        let here = unit.min(self.map.len().saturating_sub(at.saturating_sub(skip)));
        let here = usize::try_from(here).unwrap_or(usize::MAX);
        if skip == 0
            && let Some(whole) = into.get_mut(..here)
        {
            self.map.decode(number, whole)?;
            return Ok(here);
        }
        let bytes = self.units.get(number, || {
            let mut bytes = vec![0; here];
            self.map.decode(number, &mut bytes)?;
            Ok(bytes)
        })?;
        let from = bytes.get(usize::try_from(skip).unwrap_or(usize::MAX)..).unwrap_or_default();
        let len = from.len().min(into.len());
        if let (Some(into), Some(from)) = (into.get_mut(..len), from.get(..len)) {
            into.copy_from_slice(from);
        }
        Ok(len)
    }
}

impl<M: Map> ReadAt for Mapped<M> {
    fn len(&self) -> u64 {
        self.map.len()
    }

    fn unit(&self) -> u64 {
        // All of them are powers of two.
        self.map.unit().max(self.parent.unit())
    }

    fn read_at(&self, mut at: u64, mut into: &mut [u8]) -> Result<(), ReadError> {
        within(self.len(), at, into.len() as u64)?;
        while !into.is_empty() {
            let run = self.map.run(at, into.len() as u64)?;
            let here = usize::try_from(run.len).unwrap_or(usize::MAX).clamp(1, into.len());
            let (part, _) = into.split_at_mut(here);
            let done = match run.home {
                Home::Stored(from) => {
                    self.stored.read_at(from, part).map_err(|error| error.moved(from, at))?;
                    here
                }
                Home::Parent => self.parent.read(at, part).map(|()| here)?,
                Home::Packed => self.unpack(at, part)?,
                Home::Zero => {
                    part.fill(0);
                    here
                }
            };
            at = at.saturating_add(done as u64);
            into = into.get_mut(done.max(1)..).unwrap_or_default();
        }
        Ok(())
    }

    fn extent(&self, at: u64) -> Result<Extent, ReadError> {
        within(self.len(), at, 1)?;
        let run = self.map.run(at, u64::MAX)?;
        let len = run.len.clamp(1, self.len() - at);
        match run.home {
            Home::Stored(_) | Home::Packed => Ok(Extent { at, len, kind: Kind::Data }),
            Home::Zero => Ok(Extent { at, len, kind: Kind::Zero }),
            Home::Parent => self.parent.extent(at, len),
        }
    }
}
