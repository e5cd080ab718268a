//! Allocation groups: which inodes are in use, which blocks are free. XFS Algorithms & Data Structures, "AG Free Space
//! Management" and "AG Inode Management".
//!
//! Both are B+trees of short pointers. What was visited is kept, which ends a tree that runs in a circle. A tree that is
//! damaged answers nothing: a block that is perhaps free is not called free.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use super::disk::Disk;
use crate::image::ReadError;
use crate::image::fields::Fields;

/// Inodes of a chunk.
pub(super) const CHUNK: u32 = 64;
/// The most levels of a B+tree here: Linux has 9.
const LEVELS: u16 = 12;

/// 64 inodes that were made together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chunk {
    /// Bit for each inode: not in use.
    pub(super) free: u64,
    /// Bit for each inode: there are no blocks for it.
    pub(super) holes: u64,
}

/// Blocks that are free.
#[derive(Debug, Clone, Copy)]
struct Free {
    first: u32,
    len: u32,
    /// Free blocks in front of these.
    before: u64,
}

/// What is known of a group.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// By the number in the group of the first inode.
    pub(super) chunks: BTreeMap<u32, Chunk>,
    /// Free ranges in order.
    free: Vec<Free>,
    /// Why the chunks are not all of them.
    pub(super) inodes_damaged: Option<String>,
    /// Why the free blocks are not known.
    free_damaged: Option<String>,
    /// What is not as it should be.
    pub(super) odd: Vec<String>,
}

/// Of a tree: the magic without and with checksums, sizes of records and keys.
struct Tree {
    what: &'static str,
    magic: [&'static [u8; 4]; 2],
    record: usize,
    key: usize,
}

const INODES: Tree = Tree { what: "xfs inode tree", magic: [b"IABT", b"IAB3"], record: 16, key: 4 };
const FREE: Tree = Tree { what: "xfs free space tree", magic: [b"ABTB", b"AB3B"], record: 8, key: 8 };

impl Tree {
    /// Of a block that should be of `level`: where its records or keys begin, how many there are, how many could be.
    fn layout(&self, disk: &Disk, fields: &Fields<'_>, level: u16) -> Result<(usize, usize, usize), ReadError> {
        let (head, magic) = if disk.sb.v5 { (56, self.magic[1]) } else { (16, self.magic[0]) };
        if fields.slice(0, 4)? != magic || fields.be16(4)? != level {
            let found = crate::image::hex(fields.slice(0, 6)?);
            return Err(fields.corrupt(0, format_args!("a node of level {level}"), found));
        }
        let size = if level == 0 { self.record } else { self.key + 4 };
        let (count, room) = (usize::from(fields.be16(6)?), (fields.bytes().len() - head) / size);
        if count > room {
            return Err(fields.corrupt(6, format_args!("at most {room} records"), count));
        }
        Ok((head, count, room))
    }
}

impl Group {
    fn read(disk: &Disk, number: u32) -> Self {
        let mut group = Self::default();
        let inodes = group.header(disk, number, 2, *b"XAGI", 312).and_then(|head| {
            let fields = Fields::new("xfs AGI", 0, &head);
            let root = (fields.be32(20)?, fields.be32(24)?);
            let mut chunks = BTreeMap::new();
            let done = walk(disk, number, &INODES, root, &mut group.odd, &mut |fields, at| {
                let (first, chunk) = Chunk::read(disk, fields, at)?;
                chunks.insert(first, chunk);
                Ok(())
            });
            group.chunks = chunks;
            group.part_chunks();
            done
        });
        group.inodes_damaged = inodes.err().map(|error| error.to_string());
        let free = group.header(disk, number, 1, *b"XAGF", 216).and_then(|head| {
            let fields = Fields::new("xfs AGF", 0, &head);
            let root = (fields.be32(16)?, fields.be32(28)?);
            let mut free = BTreeMap::new();
            walk(disk, number, &FREE, root, &mut group.odd, &mut |fields, at| {
                free.insert(fields.be32(at)?, fields.be32(at + 4)?);
                Ok(())
            })?;
            group.order(&free);
            Ok(())
        });
        group.free_damaged = free.err().map(|error| error.to_string());
        let damaged = [&group.inodes_damaged, &group.free_damaged].into_iter().flatten().cloned();
        group.odd.extend(damaged.map(|why| format!("allocation group {number}: {why}")));
        group
    }

    /// A header of a group: sector `sector` of it.
    fn header(
        &mut self,
        disk: &Disk,
        number: u32,
        sector: u64,
        magic: [u8; 4],
        sum: usize,
    ) -> Result<Vec<u8>, ReadError> {
        let what = if sector == 1 { "xfs AGF" } else { "xfs AGI" };
        let at = disk.sb.linear(number, 0).saturating_mul(disk.sb.block_size);
        let at = at.saturating_add(sector * disk.sb.sector_size);
        let bytes = disk.structure(what, at, crate::disk::us(disk.sb.sector_size))?;
        let fields = Fields::new(what, at, &bytes);
        if fields.slice(0, 4)? != magic || fields.be32(8)? != number {
            let found = crate::image::hex(fields.slice(0, 12)?);
            return Err(fields.corrupt(0, format_args!("the header of allocation group {number}"), found));
        }
        if !disk.sound(at, &bytes, sum) {
            self.odd.push(format!("the checksum of the {what} of allocation group {number} does not fit"));
        }
        Ok(bytes)
    }

    /// Is this inode in use? None if nobody knows.
    pub(super) fn inode_in_use(&self, inside: u32) -> Option<bool> {
        let chunk = self.chunks.range(..=inside).next_back().filter(|(first, _)| inside - **first < CHUNK);
        match chunk {
            Some((first, chunk)) => Some((chunk.free | chunk.holes) >> (inside - first) & 1 == 0),
            None if self.inodes_damaged.is_some() => None,
            None => Some(false),
        }
    }

    /// Chunks that overlap the one before are no chunks.
    fn part_chunks(&mut self) {
        let (mut end, before) = (0, self.chunks.len());
        self.chunks.retain(|first, _| {
            let good = u64::from(*first) >= end;
            if good {
                end = u64::from(*first) + u64::from(CHUNK);
            }
            good
        });
        if self.chunks.len() != before {
            self.odd.push("chunks of inodes overlap; the later ones were left out".to_owned());
        }
    }

    fn order(&mut self, free: &BTreeMap<u32, u32>) {
        let (mut end, mut before) = (0, 0);
        for (first, len) in free {
            let (first, len) = (*first, *len);
            if u64::from(first) < end {
                self.odd.push(format!("the free blocks at {first} overlap others; they were left out"));
                continue;
            }
            self.free.push(Free { first, len, before });
            (end, before) = (u64::from(first) + u64::from(len), before + u64::from(len));
        }
    }

    /// Free blocks in front of block `end`.
    fn free_before(&self, end: u64) -> u64 {
        let index = self.free.partition_point(|free| u64::from(free.first) < end);
        let last = index.checked_sub(1).and_then(|index| self.free.get(index));
        last.map_or(0, |free| free.before + (end - u64::from(free.first)).min(u64::from(free.len)))
    }

    /// Blocks that are not in use of `len` from `first` on.
    pub(super) fn free_of(&self, first: u32, len: u32) -> Result<u64, ReadError> {
        if let Some(why) = &self.free_damaged {
            return Err(ReadError::corrupt("the free space of an xfs allocation group", 0, "a sound tree", why));
        }
        let end = u64::from(first) + u64::from(len);
        Ok(self.free_before(end) - self.free_before(u64::from(first)))
    }

    /// Free ranges: first block, number.
    pub(super) fn free_ranges(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.free.iter().map(|free| (free.first, free.len))
    }
}

impl Chunk {
    fn read(disk: &Disk, fields: &Fields<'_>, at: usize) -> Result<(u32, Self), ReadError> {
        let first = fields.be32(at)?;
        let free = fields.be64(at + 8)?;
        // Without sparse inodes this half word is the upper one of a count up to 64.
        let mask = if disk.sb.v5 { fields.be16(at + 4)? } else { 0 };
        let holes = (0..16).filter(|bit| mask >> bit & 1 != 0).fold(0, |holes, bit| holes | 0xf_u64 << (bit * 4));
        Ok((first, Self { free, holes }))
    }
}

type Take<'a> = dyn FnMut(&Fields<'_>, usize) -> Result<(), ReadError> + 'a;

/// All records of a tree, in no order.
fn walk(
    disk: &Disk,
    group: u32,
    tree: &Tree,
    (root, levels): (u32, u32),
    odd: &mut Vec<String>,
    take: &mut Take<'_>,
) -> Result<(), ReadError> {
    let top = u16::try_from(levels).ok().filter(|levels| (1..=LEVELS).contains(levels));
    let Some(top) = top else {
        return Err(ReadError::corrupt(tree.what, 0, format_args!("1 to {LEVELS} levels"), levels));
    };
    let (mut waiting, mut seen) = (vec![(root, top - 1)], HashSet::new());
    while let Some((block, level)) = waiting.pop() {
        if block >= disk.sb.ag_len(group) || !seen.insert(block) {
            let found = format_args!("block {block}, outside or visited before");
            return Err(ReadError::corrupt(tree.what, 0, "a block of the group", found));
        }
        let at = disk.sb.linear(group, block).saturating_mul(disk.sb.block_size);
        let bytes = disk.structure(tree.what, at, disk.sb.block_len())?;
        let fields = Fields::new(tree.what, at, &bytes);
        if !disk.sound(at, &bytes, 52) {
            odd.push(format!("the checksum of the {} block at {at:#x} does not fit", tree.what));
        }
        let (head, count, room) = tree.layout(disk, &fields, level)?;
        for index in 0..count {
            if level == 0 {
                take(&fields, head + index * tree.record)?;
            } else {
                waiting.push((fields.be32(head + room * tree.key + index * 4)?, level - 1));
            }
        }
    }
    Ok(())
}

/// The groups that were looked at.
#[derive(Default)]
pub(super) struct Groups(Mutex<HashMap<u32, Arc<Group>>>);

impl Groups {
    /// A group; it is read once.
    pub(super) fn get(&self, disk: &Disk, number: u32) -> Arc<Group> {
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(group) = lock().get(&number) {
            return Arc::clone(group);
        }
        // Two threads may read the same at once; none waits for the other.
        let group = Arc::new(Group::read(disk, number));
        Arc::clone(lock().entry(number).or_insert(group))
    }
}
