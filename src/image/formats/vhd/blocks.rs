//! The block allocation table, and the bitmap in front of each block (Virtual Hard Disk Image Format Specification, "Block
//! Allocation Table and Data Blocks").

use std::sync::Arc;

use crate::image::cache::Cache;
use crate::image::fields::read_structure;
use crate::image::{ReadAt, ReadError};

use super::super::shared::mapped::{Home, Map, Run, joined};
use super::footer::{FOOTER, Header};

const TABLE: &str = "VHD block allocation table";
const BITMAP: &str = "VHD sector bitmap";
const SECTOR: u64 = 512;
const FREE: u32 = 0xffff_ffff;
/// Longest table in bytes: 32 TiB in blocks of 2 MiB, more than the format allows.
const TABLE_MOST: u64 = 64 << 20;
/// Bytes of bitmaps that are kept.
const CACHE: usize = 4 << 20;

pub(super) struct Blocks {
    file: Arc<dyn ReadAt>,
    table_at: u64,
    table: Vec<u32>,
    /// The blocks that are in use, ascending.
    sorted: Vec<u32>,
    block: u64,
    /// Length of the bitmap in front of a block.
    bitmap: u64,
    len: u64,
    /// What a block leaves out is the parent's.
    differencing: bool,
    bitmaps: Cache,
}

impl Blocks {
    pub(super) fn new(file: Arc<dyn ReadAt>, header: &Header, len: u64, differencing: bool) -> Result<Self, ReadError> {
        let needed = len.div_ceil(header.block);
        let table_at = header.table_at;
        if needed > u64::from(header.entries) || needed * 4 > TABLE_MOST || table_at < FOOTER {
            let expected = format_args!("{needed} entries for {len} bytes, behind the footer's copy");
            return Err(ReadError::corrupt(TABLE, table_at, expected, header.entries));
        }
        let bytes = read_structure(file.as_ref(), TABLE, table_at, usize::try_from(needed * 4).unwrap_or(usize::MAX))?;
        let table: Vec<u32> = bytes.as_chunks::<4>().0.iter().map(|entry| u32::from_be_bytes(*entry)).collect();
        let mut sorted: Vec<u32> = table.iter().copied().filter(|&entry| entry != FREE).collect();
        sorted.sort_unstable();
        let bitmap = header.block.div_ceil(SECTOR * 8).next_multiple_of(SECTOR);
        let (block, bitmaps) = (header.block, Cache::new(CACHE));
        Ok(Self { file, table_at, table, sorted, block, bitmap, len, differencing, bitmaps })
    }

    /// Blocks in use.
    pub(super) fn used(&self) -> usize {
        self.sorted.len()
    }

    /// Where the block is, its bitmap first; `None` if it is not stored.
    fn place(&self, index: u64) -> Result<Option<u64>, ReadError> {
        let entry = usize::try_from(index).ok().and_then(|index| self.table.get(index)).copied().unwrap_or(FREE);
        if entry == FREE {
            return Ok(None);
        }
        let at = u64::from(entry) * SECTOR;
        let used = self.block.min(self.len - index * self.block);
        let end = at + self.bitmap + used;
        let table_end = self.table_at + self.table.len() as u64 * 4;
        let first = self.sorted.partition_point(|&other| other < entry);
        let expected = if at < SECTOR || end > self.file.len() {
            format!("a block behind the footer's copy and inside the {:#x} bytes of the file", self.file.len())
        } else if at < table_end && self.table_at < end {
            "a block outside the table".to_owned()
        } else if self.sorted.get(first + 1) == Some(&entry) {
            "a block of its own, not that of another entry too".to_owned()
        } else {
            return Ok(Some(at));
        };
        Err(ReadError::corrupt(TABLE, self.table_at + index * 4, expected, format_args!("sector {entry:#x}")))
    }

    fn piece(&self, at: u64) -> Result<Run, ReadError> {
        let (index, skip) = (at / self.block, at % self.block);
        let Some(place) = self.place(index)? else {
            return Ok(Run { len: self.block - skip, home: Home::Parent });
        };
        let from = place + self.bitmap + skip;
        if !self.differencing {
            // The bitmap of a dynamic disk is not asked: a sector without its bit was never written and is zero anyhow.
            return Ok(Run { len: self.block - skip, home: Home::Stored(from) });
        }
        let len = usize::try_from(self.bitmap).unwrap_or(usize::MAX);
        let bitmap = self.bitmaps.get(index, || read_structure(self.file.as_ref(), BITMAP, place, len))?;
        let sector = skip / SECTOR;
        let byte = usize::try_from(sector / 8).ok().and_then(|byte| bitmap.get(byte)).copied().unwrap_or(0);
        let here = byte << (sector % 8) & 0x80 != 0;
        Ok(Run { len: SECTOR - skip % SECTOR, home: if here { Home::Stored(from) } else { Home::Parent } })
    }
}

impl Map for Blocks {
    fn len(&self) -> u64 {
        self.len
    }

    fn unit(&self) -> u64 {
        1
    }

    fn run(&self, at: u64, most: u64) -> Result<Run, ReadError> {
        joined(at, most, self.len, |at| self.piece(at))
    }

    fn decode(&self, _: u64, _: &mut [u8]) -> Result<(), ReadError> {
        Err(ReadError::caller("decode a block of a VHD", "none is compressed"))
    }
}
