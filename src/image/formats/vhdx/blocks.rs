//! The block allocation table and the blocks it points at.
//!
//! After every `ratio` entries for blocks stands one for a block of sector bitmaps, which differencing disks use: a set bit
//! is a sector of this file, a clear one of its parent.

use std::ops::Range;
use std::sync::Arc;

use super::super::shared::mapped::{Home, Map, Run, joined};
use super::headers::Regions;
use super::metadata::Metadata;
use crate::image::cache::Cache;
use crate::image::fields::{Fields, read_structure};
use crate::image::{ReadAt, ReadError, read_vec};

/// Bytes of the table that are read at once.
const PAGE: u64 = 64 << 10;
/// Bytes of the table that are kept.
const CACHE: usize = 8 << 20;
/// Length of a block of bitmaps in bytes.
const BITMAPS: u64 = 1 << 20;
/// Blocks that are looked at for one run: a table may have millions.
const LOOK: u64 = 4096;

/// The table of a disk.
pub(super) struct Blocks {
    file: Arc<dyn ReadAt>,
    bat: Range<u64>,
    size: u64,
    block: u64,
    sector: u64,
    /// Blocks for each block of bitmaps.
    ratio: u64,
    /// It has a parent.
    differencing: bool,
    pages: Cache,
}

impl Blocks {
    pub(super) fn new(file: Arc<dyn ReadAt>, regions: &Regions, metadata: &Metadata) -> Result<Self, ReadError> {
        let differencing = metadata.parent.is_some();
        let ratio = (metadata.sector << 23) / metadata.block;
        let blocks = metadata.size.div_ceil(metadata.block);
        let entries =
            if differencing { blocks.div_ceil(ratio) * (ratio + 1) } else { blocks + blocks.saturating_sub(1) / ratio };
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
        Ok(Self { file, bat, size, block, sector, ratio, differencing, pages: Cache::new(CACHE) })
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

    /// Where the byte `at` is, and how far the same goes; at most to the end of its block.
    fn piece(&self, at: u64) -> Result<Run, ReadError> {
        let (block, within) = (at / self.block, at % self.block);
        let rest = (self.block - within).min(self.size - at);
        let (place, state, offset) = self.entry(block + block / self.ratio)?;
        let needed = (self.size - block * self.block).min(self.block);
        match state {
            0 if self.differencing => Ok(Run { len: rest, home: Home::Parent }),
            0..=3 => Ok(Run { len: rest, home: Home::Zero }),
            6 => Ok(Run { len: rest, home: Home::Stored(self.inside(place, offset, needed)? + within) }),
            7 if self.differencing => {
                let from = self.inside(place, offset, needed)?;
                let (mine, len) = self.sectors(block, within, rest)?;
                Ok(Run { len, home: if mine { Home::Stored(from + within) } else { Home::Parent } })
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
}

impl Map for Blocks {
    fn len(&self) -> u64 {
        self.size
    }

    fn unit(&self) -> u64 {
        1
    }

    fn run(&self, at: u64, most: u64) -> Result<Run, ReadError> {
        joined(at, most.min(LOOK * self.block), self.size, |at| self.piece(at))
    }

    fn decode(&self, _: u64, _: &mut [u8]) -> Result<(), ReadError> {
        Err(ReadError::caller("decode a block of a VHDX", "none is compressed"))
    }
}
