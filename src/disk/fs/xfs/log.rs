//! The log as records: where it ends, which of them wait to be replayed. XFS Algorithms & Data Structures, "Journaling
//! Log"; what the kernel does when it mounts (`xlog_find_tail`).
//!
//! Each sector of a record carries the number of the round in which it was written, in place of its first four bytes. The
//! log ends where that number falls. A record counts if all its sectors are of its round and its checksum fits.

use std::sync::Arc;

use super::disk::Disk;
use crate::disk::us;
use crate::image::fields::Fields;
use crate::image::{Part, ReadAt, ReadError, read_vec};

const MAGIC: u32 = 0xfeed_babe;
const SECTOR: u64 = 512;
/// The longest record; Linux writes up to 256 KiB.
const LONGEST: u32 = 1 << 19;
/// Data that one sector of a head describes.
const PER_HEAD: u32 = 32 << 10;
/// What can be under way at once, out of order: eight buffers of 256 KiB.
const WINDOW: u32 = 8 * 512;
/// The only operation of a record is the end of a mount.
const UNMOUNT: u8 = 0x20;

/// See the module.
pub(super) struct Log {
    bytes: Arc<dyn ReadAt>,
    /// Sectors.
    len: u32,
    v5: bool,
}

/// A sound record.
pub(super) struct Record {
    /// Round and sector: greater is later.
    pub(super) lsn: u64,
    /// What is older than this has gone to its place.
    tail: u64,
    /// Sectors, the head among them.
    sectors: u32,
    /// Operations in it.
    pub(super) count: u32,
    /// Numbers are big-endian.
    pub(super) big_endian: bool,
    /// The operations, as they were before the rounds were written over them.
    pub(super) data: Vec<u8>,
}

impl Record {
    /// Place in the log, in bytes.
    pub(super) fn at(&self) -> u64 {
        (self.lsn & 0xffff_ffff) * SECTOR
    }

    fn is_unmount(&self) -> bool {
        self.count == 1 && self.data.get(9).is_some_and(|flags| flags & UNMOUNT != 0)
    }
}

/// How the log was left.
pub(super) enum Left {
    /// Nothing was ever written to it.
    Empty,
    /// Unmounted in order.
    Clean,
    /// These wait to be replayed, oldest first.
    Dirty(Vec<Record>),
    /// So do these, and a later one cannot be reached: whatever they say may be out of date.
    Broken(Vec<Record>),
}

impl Log {
    /// The log inside the volume.
    pub(super) fn open(disk: &Disk) -> Result<Self, ReadError> {
        let sb = &disk.sb;
        if sb.log_start == 0 {
            return Err(ReadError::unsupported("the xfs log", "it is on another device"));
        }
        let place = sb.block_of(sb.log_start, u64::from(sb.log_blocks));
        let place = place.and_then(|block| block.checked_mul(sb.block_size));
        let place = place.ok_or_else(|| {
            ReadError::corrupt("xfs superblock", 48, "a log inside one allocation group", sb.log_start)
        })?;
        let len = u64::from(sb.log_blocks).saturating_mul(sb.block_size);
        let bytes = Part::new(Arc::clone(&disk.volume), place, len)?;
        let len = u32::try_from(len / SECTOR).ok().filter(|len| *len > 8);
        let len = len.ok_or_else(|| ReadError::corrupt("xfs superblock", 96, "a log of up to 2 TiB", sb.log_blocks))?;
        Ok(Self { bytes: Arc::new(bytes), len, v5: sb.v5 })
    }

    /// `count` sectors from `at` on; behind the end comes the beginning.
    fn read(&self, at: u32, count: u32) -> Result<Vec<u8>, ReadError> {
        let here = count.min(self.len - at);
        let mut bytes = read_vec(self.bytes.as_ref(), u64::from(at) * SECTOR, us(u64::from(here) * SECTOR))?;
        if here < count {
            bytes.extend(read_vec(self.bytes.as_ref(), 0, us(u64::from((count - here).min(self.len)) * SECTOR))?);
        }
        Ok(bytes)
    }

    /// The round in which a sector was written.
    fn round(&self, at: u32) -> Result<u32, ReadError> {
        let sector = read_vec(self.bytes.as_ref(), u64::from(at) * SECTOR, 8)?;
        let fields = Fields::new("xfs log", u64::from(at) * SECTOR, &sector);
        fields.be32(if fields.be32(0)? == MAGIC { 4 } else { 0 })
    }

    /// About where the log ends: the first sector of an older round.
    fn end(&self) -> Result<u32, ReadError> {
        let first = self.round(0)?;
        if self.round(self.len - 1)? == first {
            return Ok(0);
        }
        let (mut same, mut other) = (0, self.len - 1);
        while other - same > 1 {
            let middle = same + (other - same) / 2;
            if self.round(middle)? == first { same = middle } else { other = middle }
        }
        Ok(other)
    }

    /// The record at a sector, if it is whole.
    fn record(&self, at: u32) -> Option<Record> {
        let head = self.read(at, 1).ok()?;
        let fields = Fields::new("xfs log record", u64::from(at) * SECTOR, &head);
        let (round, lsn) = (fields.be32(4).ok()?, fields.be64(16).ok()?);
        let (len, size) = (fields.be32(12).ok()?, fields.be32(320).ok()?);
        let second = fields.be32(8).ok()? & 2 != 0;
        if fields.be32(0).ok()? != MAGIC || lsn != u64::from(round) << 32 | u64::from(at) || len > LONGEST {
            return None;
        }
        let heads = if second && size > PER_HEAD { size.min(LONGEST).div_ceil(PER_HEAD) } else { 1 };
        let sectors = heads + len.div_ceil(512);
        let bytes = self.read(at, sectors).ok().filter(|_| sectors < self.len)?;
        let (heads, data) = bytes.split_at_checked(us(u64::from(heads) * SECTOR))?;
        let whole =
            self.is_of_round(at, round, &bytes) && (!self.v5 || checksum_fits(heads, data.get(..us(u64::from(len)))?));
        whole.then_some(())?;
        Some(Record {
            lsn,
            tail: fields.be64(24).ok()?,
            sectors,
            count: fields.be32(40).ok()?,
            big_endian: fields.be32(300).ok()? == 2,
            data: restored(heads, data),
        })
    }

    /// Are all sectors but the first of this round, or behind the end of the log of the next?
    fn is_of_round(&self, at: u32, round: u32, bytes: &[u8]) -> bool {
        bytes.chunks(512).zip(u64::from(at)..).skip(1).all(|(sector, here)| {
            let want = if here < u64::from(self.len) { round } else { round.wrapping_add(1) };
            sector.starts_with(&want.to_be_bytes())
        })
    }

    /// The sector behind, and its round.
    fn behind(&self, record: &Record) -> (u32, u64) {
        let at = (record.lsn & 0xffff_ffff) + u64::from(record.sectors);
        let (round, len) = (record.lsn >> 32, u64::from(self.len));
        let (at, round) = if at >= len { (at - len, round + 1) } else { (at, round) };
        (u32::try_from(at).unwrap_or(0), round << 32 | at)
    }

    /// The last record that is whole.
    fn last(&self) -> Result<Option<Record>, ReadError> {
        let end = self.end()?;
        let window = WINDOW.min(self.len / 4);
        let mut best: Option<Record> = None;
        for step in 0..window * 3 {
            let at = (u64::from(end) + u64::from(self.len) + u64::from(window) - u64::from(step)) % u64::from(self.len);
            let found = self.record(u32::try_from(at).unwrap_or(0));
            if let Some(found) = found.filter(|found| best.as_ref().is_none_or(|best| best.lsn < found.lsn)) {
                best = Some(found);
            }
            // Behind the window nothing is out of order any more.
            if best.is_some() && step > window * 2 {
                break;
            }
        }
        Ok(best)
    }

    /// How it was left, and what waits.
    pub(super) fn left(&self) -> Result<Left, ReadError> {
        let Some(last) = self.last()? else {
            return Ok(if self.round(0)? == 0 { Left::Empty } else { Left::Broken(Vec::new()) });
        };
        if last.is_unmount() {
            return Ok(Left::Clean);
        }
        let (mut at, mut lsn) = (u32::try_from(last.tail & 0xffff_ffff).unwrap_or(0), last.tail);
        let (mut all, mut walked) = (Vec::new(), 0);
        while at < self.len && walked <= self.len && lsn <= last.lsn {
            let Some(record) = self.record(at).filter(|record| record.lsn == lsn) else { break };
            walked += record.sectors;
            (at, lsn) = self.behind(&record);
            all.push(record);
        }
        let reached = all.last().is_some_and(|record| record.lsn == last.lsn);
        Ok(if reached { Left::Dirty(all) } else { Left::Broken(all) })
    }

    /// Every record that is still whole, oldest first.
    pub(super) fn history(&self, each: &mut dyn FnMut(&Record) -> Result<(), ReadError>) -> Result<(), ReadError> {
        let end = self.last()?.map_or(0, |last| self.behind(&last).0);
        let mut step = 0;
        while step < self.len {
            let at = u32::try_from((u64::from(end) + u64::from(step)) % u64::from(self.len)).unwrap_or(0);
            if let Some(record) = self.record(at) {
                each(&record)?;
                step = step.saturating_add(record.sectors);
            } else {
                step += 1;
            }
        }
        Ok(())
    }
}

/// Over the head with its own checksum as zero, heads that follow, and the data. The first head has 328 bytes where it was
/// written by a 64-bit kernel and 324 by a 32-bit one. mkfs writes none: a zero.
fn checksum_fits(heads: &[u8], data: &[u8]) -> bool {
    let stored = heads.get(32..36).unwrap_or_default();
    if stored == [0; 4] {
        return true;
    }
    [328, 324].into_iter().any(|len| {
        let (front, rest) = (heads.get(..32).unwrap_or_default(), heads.get(36..len).unwrap_or_default());
        let mut crc = crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(front), &[0; 4]), rest);
        for more in heads.chunks(512).skip(1) {
            crc = crc32c::crc32c_append(crc, more.get(..260).unwrap_or_default());
        }
        crc32c::crc32c_append(crc, data).to_le_bytes() == *stored
    })
}

/// Puts back the first four bytes of each sector; they stand in the heads.
fn restored(heads: &[u8], data: &[u8]) -> Vec<u8> {
    let mut data = data.to_vec();
    for (index, sector) in data.chunks_mut(512).enumerate() {
        let from = if index < 64 { 44 + index * 4 } else { index / 64 * 512 + 4 + index % 64 * 4 };
        if let (Some(word), Some(place)) = (heads.get(from..from + 4), sector.get_mut(..4)) {
            place.copy_from_slice(word);
        }
    }
    data
}
