//! From blocks of a file to blocks of the volume: extent trees and indirect blocks. Kernel
//! Documentation/filesystems/ext4, "Extent Tree" and "Direct/Indirect Block Addressing".
//!
//! A tree is at most five levels deep, each level must be lower than the one above, and no block is visited twice: a
//! tree of a hostile image ends. What is damaged is left out and said; the rest is still there.

use std::collections::HashSet;

use super::Ext;
use super::inode::{EXTENTS, Inode};
use super::superblock::checksum;
use crate::disk::fs::Run;
use crate::disk::fs::runs::Map;
use crate::image::ReadError;
use crate::image::fields::{Fields, read_structure};

/// Length from which an extent is one that was never written.
const UNWRITTEN: u16 = 0x8000;

/// The map of an inode.
pub(super) fn of(ext: &Ext, inode: &Inode) -> Map {
    let mut walk = Walk { ext, seed: inode.seed, seen: HashSet::new(), map: Map::default() };
    let done = if inode.has(EXTENTS) {
        walk.extents("ext extents in an inode", 0, &inode.block, None)
    } else {
        walk.direct(&inode.block, inode.node.size.div_ceil(ext.sb.block_size))
    };
    if let Err(error) = done {
        walk.map.odd.push(error.to_string());
    }
    walk.map.finish()
}

struct Walk<'a> {
    ext: &'a Ext,
    seed: u32,
    seen: HashSet<u64>,
    map: Map,
}

impl Walk<'_> {
    /// A block of the map, unless it was there before or lies outside.
    fn block(&mut self, what: &'static str, n: u64) -> Option<(u64, Vec<u8>)> {
        if n >= self.ext.sb.blocks || !self.seen.insert(n) {
            self.map.odd.push(format!("{what} at block {n}: outside of the file system, or visited before"));
            return None;
        }
        self.map.own.push(n);
        let at = n.saturating_mul(self.ext.sb.block_size);
        match read_structure(self.ext.volume.as_ref(), what, at, self.ext.sb.block_len()) {
            Ok(bytes) => Some((at, bytes)),
            Err(error) => {
                self.map.odd.push(error.to_string());
                None
            }
        }
    }

    /// One node of the tree; `above` is the depth of the one that led here.
    fn extents(&mut self, what: &'static str, at: u64, bytes: &[u8], above: Option<u16>) -> Result<(), ReadError> {
        let fields = Fields::new(what, at, bytes);
        let (count, depth) = self.header(&fields, at, above)?;
        for index in 0..usize::from(count) {
            let from = 12 + 12 * index;
            if depth == 0 {
                self.leaf(&fields, from)?;
                continue;
            }
            let below = u64::from(fields.u32(from + 4)?) | u64::from(fields.u16(from + 8)?) << 32;
            if let Some((at, bytes)) = self.block("ext extent block", below)
                && let Err(error) = self.extents("ext extent block", at, &bytes, Some(depth))
            {
                self.map.odd.push(error.to_string());
            }
        }
        Ok(())
    }

    /// Entries of a node and its depth, both checked.
    fn header(&mut self, fields: &Fields<'_>, at: u64, above: Option<u16>) -> Result<(u16, u16), ReadError> {
        let (magic, count, most, depth) = (fields.u16(0)?, fields.u16(2)?, fields.u16(4)?, fields.u16(6)?);
        if magic != 0xf30a {
            return Err(fields.corrupt(0, "magic 0xf30a", format_args!("{magic:#x}")));
        }
        let room = (fields.bytes().len() - 12) / 12;
        if usize::from(count) > room || count > most {
            return Err(fields.corrupt(2, format_args!("at most {} entries", room.min(usize::from(most))), count));
        }
        if depth > 5 || above.is_some_and(|above| depth + 1 != above) {
            return Err(fields.corrupt(6, "a depth one less than above, and at most 5", depth));
        }
        if above.is_some() && self.ext.sb.has_csum() {
            let end = 12 + 12 * usize::from(most);
            let stored = fields.u32(end).unwrap_or(0);
            if stored != checksum(self.seed, fields.bytes().get(..end).unwrap_or_default()) {
                self.map.odd.push(format!("the checksum of the extent block at {at:#x} does not fit"));
            }
        }
        Ok((count, depth))
    }

    fn leaf(&mut self, fields: &Fields<'_>, from: usize) -> Result<(), ReadError> {
        let (logical, len) = (u64::from(fields.u32(from)?), fields.u16(from + 4)?);
        let physical = u64::from(fields.u32(from + 8)?) | u64::from(fields.u16(from + 6)?) << 32;
        let unwritten = len > UNWRITTEN;
        let len = u64::from(if unwritten { len - UNWRITTEN } else { len });
        if len > 0 {
            self.map.push(Run { logical, len, physical, unwritten });
        }
        Ok(())
    }

    /// Twelve blocks, then one block of numbers, one of blocks of numbers, and one more level.
    fn direct(&mut self, block: &[u8; 60], end: u64) -> Result<(), ReadError> {
        let fields = Fields::new("ext block map", 0, block);
        let mut logical = 0;
        for index in 0..12 {
            self.one(logical, u64::from(fields.u32(index * 4)?), end);
            logical += 1;
        }
        let per = self.ext.sb.block_size / 4;
        for (level, span) in [(1_u32, per), (2, per * per), (3, per * per * per)] {
            if logical < end {
                let number = u64::from(fields.u32(44 + 4 * level as usize)?);
                self.indirect(level, number, logical, span / per, end)?;
            }
            logical += span;
        }
        Ok(())
    }

    fn one(&mut self, logical: u64, physical: u64, end: u64) {
        if physical != 0 && logical < end {
            self.map.push(Run { logical, len: 1, physical, unwritten: false });
        }
    }

    fn indirect(&mut self, level: u32, number: u64, logical: u64, each: u64, end: u64) -> Result<(), ReadError> {
        if number == 0 {
            return Ok(());
        }
        let Some((at, bytes)) = self.block("ext indirect block", number) else { return Ok(()) };
        let fields = Fields::new("ext indirect block", at, &bytes);
        for index in 0..bytes.len() / 4 {
            let here = logical + index as u64 * each;
            if here >= end {
                break;
            }
            let below = u64::from(fields.u32(index * 4)?);
            if level == 1 {
                self.one(here, below, end);
            } else {
                self.indirect(level - 1, below, here, each / (bytes.len() as u64 / 4), end)?;
            }
        }
        Ok(())
    }
}
