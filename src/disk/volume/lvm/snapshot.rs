//! A snapshot of a logical volume: what was there before is in its store, the rest is still in the origin.
//!
//! Layout: Linux's `drivers/md/dm-snap-persistent.c` (`struct disk_header`, `disk_exception`). The store begins with a header of
//! one chunk; then areas follow: a chunk of exceptions (old chunk, new chunk), then the chunks that they lead to.

use std::sync::Arc;

use crate::disk::us;
use crate::image::fields::{Fields, read_structure};
use crate::image::{Extent, Kind, ReadAt, ReadError, inside};

const MAGIC: u32 = 0x7041_6e53;
const SECTOR: u64 = 512;
/// The longest chunk that LVM makes, in bytes.
const LONGEST: u64 = 512 << 10;

/// The origin as it was when the snapshot was taken.
pub(super) struct View {
    origin: Arc<dyn ReadAt>,
    store: Arc<dyn ReadAt>,
    /// Bytes of a chunk.
    chunk: u64,
    /// Chunk of the origin, chunk of the store; ascending.
    moved: Vec<(u64, u64)>,
}

impl View {
    /// `most`: chunks that a store can have. Stores that lie over each other must not add up to more than the disk has.
    pub(super) fn new(origin: Arc<dyn ReadAt>, store: Arc<dyn ReadAt>, most: usize) -> Result<Self, ReadError> {
        let bytes = read_structure(store.as_ref(), "snapshot store", 0, us(SECTOR))?;
        let fields = Fields::new("snapshot store", 0, &bytes);
        if fields.u32(0)? != MAGIC {
            return Err(fields.corrupt(0, "SnAp", "something else (a snapshot that was never active has no header)"));
        }
        if fields.u32(4)? == 0 {
            let why = "it says itself that it is invalid: its store ran full, or an error came in between";
            return Err(ReadError::unsupported("a snapshot", why));
        }
        let (version, chunk) = (fields.u32(8)?, u64::from(fields.u32(12)?).saturating_mul(SECTOR));
        if version != 1 {
            return Err(ReadError::unsupported("a snapshot", format!("its store has version {version}, known is 1")));
        }
        if !chunk.is_power_of_two() || !(SECTOR..=LONGEST).contains(&chunk) {
            return Err(fields.corrupt(12, "a chunk of 1 to 1024 sectors, a power of two", chunk / SECTOR));
        }
        let moved = exceptions(store.as_ref(), chunk, most)?;
        Ok(Self { origin, store, chunk, moved })
    }

    /// Chunks of the origin that were written to since.
    pub(super) fn moved(&self) -> usize {
        self.moved.len()
    }

    /// Where the bytes at `at` are, and how far that goes.
    fn place(&self, at: u64) -> (&Arc<dyn ReadAt>, u64, u64) {
        let (chunk, inside) = (at / self.chunk, at % self.chunk);
        let end = self.origin.len();
        let next = self.moved.partition_point(|(old, _)| *old < chunk);
        match self.moved.get(next) {
            Some((old, new)) if *old == chunk => {
                let len = (self.chunk - inside).min(end.saturating_sub(at));
                (&self.store, new.saturating_mul(self.chunk).saturating_add(inside), len)
            }
            Some((old, _)) => (&self.origin, at, old.saturating_mul(self.chunk).min(end).saturating_sub(at)),
            None => (&self.origin, at, end.saturating_sub(at)),
        }
    }
}

/// All exceptions of a store. Their number is bounded: each has a chunk of its own.
fn exceptions(store: &dyn ReadAt, chunk: u64, most: usize) -> Result<Vec<(u64, u64)>, ReadError> {
    let chunks = store.len() / chunk;
    let (mut all, mut area) = (Vec::new(), 1);
    'areas: while area < chunks {
        let bytes = read_structure(store, "snapshot exceptions", area.saturating_mul(chunk), us(chunk))?;
        let fields = Fields::new("snapshot exceptions", area.saturating_mul(chunk), &bytes);
        for at in (0..bytes.len()).step_by(16) {
            let (old, new) = (fields.u64(at)?, fields.u64(at + 8)?);
            // Nothing can be kept where the header is: the list ends here.
            if new == 0 {
                break 'areas;
            }
            if all.len() >= most {
                return Err(fields.corrupt(at, format_args!("at most {most} exceptions"), "more"));
            }
            if new >= chunks {
                return Err(fields.corrupt(at + 8, format_args!("one of {chunks} chunks"), new));
            }
            all.push((old, new));
        }
        area = area.saturating_add(chunk / 16 + 1);
    }
    all.sort_unstable();
    if let Some((old, _)) =
        all.windows(2).find_map(|two| two.first().filter(|one| two.last().is_some_and(|last| last.0 == one.0)))
    {
        return Err(ReadError::corrupt(
            "snapshot exceptions",
            chunk,
            "each chunk once",
            format_args!("chunk {old} twice"),
        ));
    }
    Ok(all)
}

impl ReadAt for View {
    fn len(&self) -> u64 {
        self.origin.len()
    }

    fn read_at(&self, mut at: u64, mut into: &mut [u8]) -> Result<(), ReadError> {
        inside("snapshot", self.origin.len(), at, into.len() as u64)?;
        while !into.is_empty() {
            let (bytes, from, len) = self.place(at);
            let (now, rest) = into.split_at_mut(us(len).clamp(1, into.len()));
            bytes.read_at(from, now).map_err(|error| error.moved(from, at))?;
            at = at.saturating_add(now.len() as u64);
            into = rest;
        }
        Ok(())
    }

    fn extent(&self, at: u64) -> Result<Extent, ReadError> {
        inside("snapshot", self.origin.len(), at, 1)?;
        let (bytes, from, len) = self.place(at);
        // A store that lacks a chunk is said to lack it by the read.
        let below = bytes.extent(from).unwrap_or(Extent { at: from, len, kind: Kind::Data });
        Ok(Extent { at, len: below.len.min(len).max(1), kind: below.kind })
    }

    fn unit(&self) -> u64 {
        self.origin.unit().max(self.store.unit())
    }
}
