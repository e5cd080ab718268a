//! Which blocks are in use, and what the file system keeps in blocks of its own.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use super::Ext;
use super::groups::{bit, own_parts};
use crate::image::ReadError;

/// What a group keeps in a block of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Superblock,
    Descriptors,
    BlockBitmap(u32),
    InodeBitmap(u32),
    /// And the first inode that stands in the block.
    InodeTable(u32, u64),
}

impl Ext {
    /// What of the file system itself stands in a block. With `flex_bg` the bitmaps and tables of a group lie in another.
    pub(super) fn part(&self, block: u64) -> Option<Part> {
        let sb = &self.sb;
        let inside = block.checked_sub(u64::from(sb.first_data_block))?;
        let number = u32::try_from(inside / u64::from(sb.blocks_per_group)).ok()?;
        let first = sb.front_start(number);
        if block < first.saturating_add(sb.front(number)) {
            let is_super = block == first && sb.has_super(number);
            return Some(if is_super { Part::Superblock } else { Part::Descriptors });
        }
        let tables = self.tables();
        if let Some((number, part)) = tables.bitmaps.get(&block) {
            return Some(if *part { Part::BlockBitmap(*number) } else { Part::InodeBitmap(*number) });
        }
        let (table, group) = tables.inodes.range(..=block).next_back()?;
        let index = block - table;
        let first = u64::from(*group) * u64::from(sb.inodes_per_group) + index * sb.inodes_per_block() + 1;
        (index < sb.table_blocks()).then_some(Part::InodeTable(*group, first))
    }

    /// The bitmaps and inode tables of all groups, once somebody asks.
    pub(super) fn tables(&self) -> &Tables {
        self.tables.get_or_init(|| {
            let mut tables = Tables::default();
            for number in 0..self.sb.groups() {
                // Descriptors follow each other: behind the first that is not there, none is.
                let Ok(group) = self.groups.get(&self.volume, &self.sb, number) else { break };
                tables.bitmaps.insert(group.block_bitmap, (number, true));
                tables.bitmaps.insert(group.inode_bitmap, (number, false));
                tables.inodes.insert(group.inode_table, number);
            }
            tables
        })
    }

    /// See [`crate::disk::fs::Filesystem::allocation`]. One bitmap after the other, and of each the bytes that are all one kind at
    /// once.
    pub(super) fn books(
        &self,
        each: &mut dyn FnMut(Range<u64>, bool) -> Result<(), ReadError>,
    ) -> Result<(), ReadError> {
        let sb = &self.sb;
        let first = u64::from(sb.first_data_block);
        if first > 0 {
            each(0..first, true)?;
        }
        for number in 0..sb.groups() {
            let start = sb.group_start(number);
            let end = start.saturating_add(u64::from(sb.blocks_per_group)).min(sb.blocks);
            let group = self.groups.get(&self.volume, sb, number)?;
            if group.is_unwritten(sb) {
                unwritten(start..end, own_parts(sb, number, &group), each)?;
                continue;
            }
            let bitmap = self.groups.block(&self.volume, sb, "ext block bitmap", group.block_bitmap)?;
            let mut at = start;
            while at < end {
                let (len, used) = alike(&bitmap, (at - start) / sb.cluster_blocks);
                let to = at.saturating_add(len.saturating_mul(sb.cluster_blocks)).min(end);
                each(at..to, used)?;
                at = to;
            }
        }
        Ok(())
    }
}

/// The books of a group whose bitmap was never written.
fn unwritten(
    group: Range<u64>,
    mut parts: [Range<u64>; 4],
    each: &mut dyn FnMut(Range<u64>, bool) -> Result<(), ReadError>,
) -> Result<(), ReadError> {
    parts.sort_unstable_by_key(|part| part.start);
    let mut at = group.start;
    for part in parts {
        let (from, to) = (part.start.max(at), part.end.min(group.end));
        if from < to {
            if at < from {
                each(at..from, false)?;
            }
            each(from..to, true)?;
            at = to;
        }
    }
    if at < group.end { each(at..group.end, false) } else { Ok(()) }
}

/// How many bits from `index` on are alike, at least 1, and whether they are set. What is behind the end is in use.
fn alike(bitmap: &[u8], index: u64) -> (u64, bool) {
    let used = bit(bitmap, u32::try_from(index).unwrap_or(u32::MAX));
    let mut end = index + 1;
    while !end.is_multiple_of(8) && bit(bitmap, u32::try_from(end).unwrap_or(u32::MAX)) == used {
        end += 1;
    }
    if end.is_multiple_of(8) {
        let rest = bitmap.get(crate::disk::us(end / 8)..).unwrap_or_default();
        let whole = if used { 0xff } else { 0 };
        end += 8 * rest.iter().take_while(|byte| **byte == whole).count() as u64;
    }
    (end - index, used)
}

/// See [`Ext::tables`].
#[derive(Default)]
pub(super) struct Tables {
    /// By block: the group, and whether it is the bitmap of blocks.
    pub(super) bitmaps: HashMap<u64, (u32, bool)>,
    /// By first block.
    pub(super) inodes: BTreeMap<u64, u32>,
}
