//! The block allocation table and the blocks it points at.
//!
//! After every `ratio` entries for blocks stands one for a block of sector bitmaps, which differencing disks use: a set bit
//! is a sector of this file, a clear one of its parent.

use std::ops::Range;
use std::sync::Arc;

use super::headers::Regions;
use super::metadata::Metadata;
use crate::image::bytes::within;
use crate::image::cache::Cache;
use crate::image::fields::{Fields, read_structure};
use crate::image::{Extent, Kind, ReadAt, ReadError, read_vec};

/// Bytes of the table that are read at once.
const PAGE: u64 = 64 << 10;
/// Bytes of the table that are kept.
const CACHE: usize = 8 << 20;
/// Length of a block of bitmaps in bytes.
const BITMAPS: u64 = 1 << 20;
/// Blocks whose kind is looked at for one extent.
const LOOK: u64 = 4096;

/// The disk.
pub(super) struct Blocks {
    file: Arc<dyn ReadAt>,
    bat: Range<u64>,
    size: u64,
    block: u64,
    sector: u64,
    /// Blocks for each block of bitmaps.
    ratio: u64,
    parent: Option<Arc<dyn ReadAt>>,
    pages: Cache,
}

/// Where a range inside one block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    File(u64),
    Parent,
    Zero,
}

impl Blocks {
    pub(super) fn new(
        file: Arc<dyn ReadAt>,
        regions: &Regions,
        metadata: &Metadata,
        parent: Option<Arc<dyn ReadAt>>,
    ) -> Result<Self, ReadError> {
        let ratio = (metadata.sector << 23) / metadata.block;
        let blocks = metadata.size.div_ceil(metadata.block);
        let entries = if parent.is_some() {
            blocks.div_ceil(ratio) * (ratio + 1)
        } else {
            blocks + blocks.saturating_sub(1) / ratio
        };
        let bat = regions.bat.clone();
        if entries * 8 > bat.end - bat.start {
            let expected = format!("a table of {entries} entries for {} bytes", metadata.size);
            return Err(ReadError::corrupt(
                "VHDX region table",
                bat.start,
                expected,
                format!("{} bytes", bat.end - bat.start),
            ));
        }
        let (size, block, sector) = (metadata.size, metadata.block, metadata.sector);
        Ok(Self { file, bat, size, block, sector, ratio, parent, pages: Cache::new(CACHE) })
    }

    /// Entry `index` of the table: where it stands, its state, the offset it gives.
    fn entry(&self, index: u64) -> Result<(u64, u64, u64), ReadError> {
        let at = index * 8;
        let page = self.pages.get(at / PAGE, || {
            let from = self.bat.start + at / PAGE * PAGE;
            let len = usize::try_from((self.bat.end - from).min(PAGE)).unwrap_or(0);
            read_structure(self.file.as_ref(), "VHDX block allocation table", from, len)
        })?;
        let fields = Fields::new("VHDX block allocation table", self.bat.start + at / PAGE * PAGE, &page);
        let entry = fields.u64(usize::try_from(at % PAGE).unwrap_or(usize::MAX))?;
        Ok((self.bat.start + at, entry & 7, entry >> 20 << 20))
    }

    fn inside(&self, at: u64, offset: u64, len: u64) -> Result<u64, ReadError> {
        if offset >= 1 << 20 && offset.checked_add(len).is_some_and(|end| end <= self.file.len()) {
            return Ok(offset);
        }
        let expected = format!("{len:#x} bytes inside the {:#x} of the file", self.file.len());
        Err(ReadError::corrupt("VHDX block allocation table", at, expected, format!("offset {offset:#x}")))
    }

    /// Where the byte `at` is, and how many bytes from there on are in the same place; at most to the end of its block.
    fn source(&self, at: u64) -> Result<(Source, u64), ReadError> {
        let (block, within) = (at / self.block, at % self.block);
        let rest = (self.block - within).min(self.size - at);
        let (place, state, offset) = self.entry(block + block / self.ratio)?;
        let needed = (self.size - block * self.block).min(self.block);
        match state {
            0 if self.parent.is_some() => Ok((Source::Parent, rest)),
            0..=3 => Ok((Source::Zero, rest)),
            6 => Ok((Source::File(self.inside(place, offset, needed)? + within), rest)),
            7 if self.parent.is_some() => {
                let from = self.inside(place, offset, needed)?;
                let (mine, len) = self.sectors(block, within, rest)?;
                Ok((if mine { Source::File(from + within) } else { Source::Parent }, len))
            }
            state => Err(ReadError::corrupt(
                "VHDX block allocation table",
                place,
                "a state of 0 to 3, 6, or 7 with a parent",
                state,
            )),
        }
    }

    /// Does the sector at `inside` the block come from this file, and how many bytes on do so as well?
    fn sectors(&self, block: u64, inside: u64, rest: u64) -> Result<(bool, u64), ReadError> {
        let index = (block / self.ratio + 1) * (self.ratio + 1) - 1;
        let (place, state, offset) = self.entry(index)?;
        if state != 6 {
            return Err(ReadError::corrupt("VHDX block allocation table", place, "a block of sector bitmaps", state));
        }
        let offset = self.inside(place, offset, BITMAPS)?;
        let first = (block % self.ratio * self.block + inside) / self.sector;
        let last = (block % self.ratio * self.block + inside + rest - 1) / self.sector;
        let bytes =
            read_vec(self.file.as_ref(), offset + first / 8, usize::try_from(last / 8 - first / 8 + 1).unwrap_or(1))?;
        let bit = |sector: u64| {
            let byte = usize::try_from(sector / 8 - first / 8).unwrap_or(usize::MAX);
            bytes.get(byte).is_some_and(|byte| byte >> (sector % 8) & 1 == 1)
        };
        let mine = bit(first);
        let same = (first..=last).take_while(|sector| bit(*sector) == mine).count() as u64;
        Ok((mine, (same * self.sector - inside % self.sector).min(rest)))
    }

    fn read_parent(&self, at: u64, into: &mut [u8]) -> Result<(), ReadError> {
        let Some(parent) = &self.parent else { return Err(ReadError::caller("read the parent", "there is none")) };
        let there = usize::try_from(parent.len().saturating_sub(at)).unwrap_or(usize::MAX).min(into.len());
        let (now, behind) = into.split_at_mut(there);
        behind.fill(0);
        if now.is_empty() { Ok(()) } else { parent.read_at(at, now) }
    }
}

impl ReadAt for Blocks {
    fn len(&self) -> u64 {
        self.size
    }

    fn read_at(&self, mut at: u64, mut into: &mut [u8]) -> Result<(), ReadError> {
        within(self.size, at, into.len() as u64)?;
        while !into.is_empty() {
            let (source, len) = self.source(at)?;
            let here = usize::try_from(len).unwrap_or(usize::MAX).min(into.len());
            let (part, rest) = into.split_at_mut(here);
            match source {
                Source::File(from) => self.file.read_at(from, part)?,
                Source::Parent => self.read_parent(at, part)?,
                Source::Zero => part.fill(0),
            }
            at += here as u64;
            into = rest;
        }
        Ok(())
    }

    fn extent(&self, at: u64) -> Result<Extent, ReadError> {
        within(self.size, at, 1)?;
        let kind = |source: Source, at: u64, len: u64| match (source, &self.parent) {
            (Source::File(_), _) => Ok((Kind::Data, len)),
            (Source::Parent, Some(parent)) if at < parent.len() => {
                let below = parent.extent(at)?;
                Ok::<_, ReadError>((below.kind, below.len.min(len)))
            }
            _ => Ok((Kind::Zero, len)),
        };
        let (source, len) = self.source(at)?;
        let (first, mut len) = kind(source, at, len)?;
        for _ in 0..LOOK {
            let next = at + len;
            if next >= self.size {
                break;
            }
            let (source, more) = self.source(next)?;
            let (same, more) = kind(source, next, more)?;
            if same != first {
                break;
            }
            len += more;
        }
        Ok(Extent { at, len, kind: first })
    }
}
