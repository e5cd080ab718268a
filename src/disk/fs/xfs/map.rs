//! From blocks of a fork to blocks of the volume: a list of extents in the inode, or a B+tree of them. XFS Algorithms &
//! Data Structures, "Data Extents".
//!
//! Levels go down, no block is visited twice. What is damaged is left out and said; the rest is still there.

use std::collections::HashSet;

use super::disk::Disk;
use super::inode::{BTREE, EXTENTS, Fork};
use crate::disk::fs::Run;
use crate::disk::fs::runs::Map;
use crate::image::ReadError;
use crate::image::fields::Fields;

/// The most levels of a tree: Linux has 9 at most.
const LEVELS: u16 = 12;
/// Bytes of an extent.
pub(super) const RECORD: usize = 16;

/// An extent as it is packed, none if it is empty or lies outside.
pub(super) fn extent(disk: &Disk, fields: &Fields<'_>, at: usize) -> Result<Option<Run>, ReadError> {
    let (high, low) = (fields.be64(at)?, fields.be64(at + 8)?);
    let (logical, len) = (high << 1 >> 10, low & 0x1f_ffff);
    let number = (high & 0x1ff) << 43 | low >> 21;
    let physical = disk.sb.block_of(number, len).filter(|_| len > 0);
    Ok(physical.map(|physical| Run { logical, len, physical, unwritten: high >> 63 != 0 }))
}

/// The map of a fork.
pub(super) fn of(disk: &Disk, fork: &Fork) -> Map {
    let mut walk = Walk { disk, seen: HashSet::new(), map: Map::default(), count: 0 };
    let done = match fork.format {
        EXTENTS => walk.list(fork),
        BTREE => walk.root(fork),
        _ => return Map::default(),
    };
    match done {
        Err(error) => walk.map.odd.push(error.to_string()),
        Ok(()) if walk.count != fork.extents => {
            walk.map.odd.push(format!("it should have {} extents and has {}", fork.extents, walk.count));
        }
        Ok(()) => {}
    }
    walk.map.finish()
}

struct Walk<'a> {
    disk: &'a Disk,
    seen: HashSet<u64>,
    map: Map,
    count: u64,
}

impl Walk<'_> {
    fn list(&mut self, fork: &Fork) -> Result<(), ReadError> {
        let fields = Fields::new("xfs extents in an inode", 0, &fork.bytes);
        let room = fork.bytes.len() / RECORD;
        let count = usize::try_from(fork.extents).ok().filter(|count| *count <= room);
        let count = count.ok_or_else(|| fields.corrupt(0, format_args!("at most {room} extents"), fork.extents))?;
        self.records(&fields, 0, count)
    }

    fn records(&mut self, fields: &Fields<'_>, from: usize, count: usize) -> Result<(), ReadError> {
        for index in 0..count {
            self.count += 1;
            match extent(self.disk, fields, from + index * RECORD)? {
                Some(run) => self.map.push(run),
                None => self.map.odd.push(format!("extent {} lies outside of the file system", self.count - 1)),
            }
        }
        Ok(())
    }

    /// The root in the inode has a short head and the same keys and pointers.
    fn root(&mut self, fork: &Fork) -> Result<(), ReadError> {
        let fields = Fields::new("xfs extent tree in an inode", 0, &fork.bytes);
        let (level, count) = (fields.be16(0)?, usize::from(fields.be16(2)?));
        let room = fork.bytes.len().saturating_sub(4) / 16;
        if !(1..LEVELS).contains(&level) || count > room {
            return Err(fields.corrupt(
                0,
                format_args!("at most {room} pointers"),
                format_args!("{count}, level {level}"),
            ));
        }
        let mut waiting = pointers(&fields, 4 + room * 8, count, level)?;
        while let Some((number, level)) = waiting.pop() {
            match self.node(number, level) {
                Ok(more) => waiting.extend(more),
                Err(error) => self.map.odd.push(error.to_string()),
            }
        }
        Ok(())
    }

    fn node(&mut self, number: u64, level: u16) -> Result<Vec<(u64, u16)>, ReadError> {
        let what = "xfs extent tree";
        let block = self.disk.sb.block_of(number, 1).filter(|block| self.seen.insert(*block));
        let Some(block) = block else {
            let found = format_args!("block {number}, outside or visited before");
            return Err(ReadError::corrupt(what, 0, "a block of the file system", found));
        };
        let at = block.saturating_mul(self.disk.sb.block_size);
        let bytes = self.disk.structure(what, at, self.disk.sb.block_len())?;
        let fields = Fields::new(what, at, &bytes);
        let (head, magic) = if self.disk.sb.v5 { (72, b"BMA3") } else { (24, b"BMAP") };
        if fields.slice(0, 4)? != magic || fields.be16(4)? != level {
            let found = crate::image::hex(fields.slice(0, 6)?);
            return Err(fields.corrupt(0, format_args!("a node of level {level}"), found));
        }
        if !self.disk.sound(at, &bytes, 64) {
            self.map.odd.push(format!("the checksum of the extent block at {at:#x} does not fit"));
        }
        let (count, room) = (usize::from(fields.be16(6)?), (bytes.len() - head) / 16);
        if count > room {
            return Err(fields.corrupt(6, format_args!("at most {room} entries"), count));
        }
        if level == 0 {
            self.records(&fields, head, count)?;
            return Ok(Vec::new());
        }
        pointers(&fields, head + room * 8, count, level)
    }
}

/// Pointers to the level below, the last one first.
fn pointers(fields: &Fields<'_>, from: usize, count: usize, level: u16) -> Result<Vec<(u64, u16)>, ReadError> {
    (0..count).rev().map(|index| Ok((fields.be64(from + index * 8)?, level - 1))).collect()
}
