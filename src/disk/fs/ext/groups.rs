//! Group descriptors and the two bitmaps. Kernel Documentation/filesystems/ext4, "Block Group Descriptors".

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::superblock::{Superblock, checksum};
use crate::image::cache::Cache;
use crate::image::fields::{Fields, read_structure};
use crate::image::{ReadAt, ReadError};

/// Flag: the block bitmap was never written, all but metadata is free.
const BLOCK_UNINIT: u16 = 2;
/// Flag: the inode bitmap was never written, all are free.
const INODE_UNINIT: u16 = 1;

/// Where a group keeps its things.
#[derive(Debug, Clone, Copy)]
pub(super) struct Group {
    pub(super) block_bitmap: u64,
    pub(super) inode_bitmap: u64,
    pub(super) inode_table: u64,
    flags: u16,
}

impl Group {
    /// The bitmap of blocks was never written.
    pub(super) fn is_unwritten(&self, sb: &Superblock) -> bool {
        self.flags & BLOCK_UNINIT != 0 && sb.has_uninit()
    }
}

/// Descriptors and bitmaps, read when they are needed.
pub(super) struct Groups {
    cache: Cache,
    /// Groups whose descriptor is damaged, and the group that has a sound copy of it.
    copies: HashMap<u32, u32>,
}

impl Groups {
    pub(super) fn new() -> Self {
        Self { cache: Cache::new(8 << 20), copies: HashMap::new() }
    }

    /// A block, kept for a while.
    pub(super) fn block(
        &self,
        volume: &Arc<dyn ReadAt>,
        sb: &Superblock,
        what: &'static str,
        n: u64,
    ) -> Result<Arc<Vec<u8>>, ReadError> {
        self.cache.get(n, || read_structure(volume.as_ref(), what, n.saturating_mul(sb.block_size), sb.block_len()))
    }

    /// Where the descriptor of a group stands, of the copies in another group `copy` if one is given: its block, and the byte
    /// in that.
    fn place(sb: &Superblock, group: u32, copy: Option<u32>) -> (u64, u64) {
        let per_block = sb.descriptors_per_block();
        let (index, from) = (group / per_block, u64::from(group % per_block) * u64::from(sb.desc_size));
        if sb.is_meta(group) {
            let holder = copy.unwrap_or(index.saturating_mul(per_block));
            return (sb.front_start(holder) + u64::from(sb.has_super(holder)), from);
        }
        (sb.front_start(copy.unwrap_or(0)) + 1 + u64::from(index), from)
    }

    /// Looks at all descriptors once, so that damage is said, and finds copies for those that are damaged.
    pub(super) fn check(&mut self, volume: &Arc<dyn ReadAt>, sb: &Superblock) -> Vec<String> {
        let (mut bad, mut first, mut odd) = (0_u32, None, Vec::new());
        for group in 0..sb.groups() {
            let found = self.is_sound(volume, sb, group);
            if found.as_ref().is_ok_and(|sound| *sound) {
                continue;
            }
            let per_block = sb.descriptors_per_block();
            let start = group / per_block * per_block;
            let near = vec![start.saturating_add(1), start.saturating_add(per_block - 1)];
            let copies = if sb.is_meta(group) { near } else { sb.copies() };
            let sound = |copy: &u32| {
                let read = self.look(volume, sb, (group, Some(*copy)), |own, found| sound(sb, group, own, found));
                read.is_ok_and(|(_, sound)| sound)
            };
            match (copies.into_iter().find(sound), found) {
                (Some(copy), _) => drop(self.copies.insert(group, copy)),
                (None, Ok(_)) => {}
                // A volume that is cut short need not be read to its end.
                (None, Err(error)) => {
                    odd.push(error.to_string());
                    break;
                }
            }
            bad += 1;
            first = first.or(Some(group));
        }
        if let Some(first) = first {
            let copies = self.copies.len();
            odd.push(format!(
                "{bad} group descriptors are damaged, the first is {first}; for {copies} of them a copy is used"
            ));
        }
        odd
    }

    /// The descriptor of a group.
    pub(super) fn get(&self, volume: &Arc<dyn ReadAt>, sb: &Superblock, group: u32) -> Result<Group, ReadError> {
        let copy = self.copies.get(&group).copied();
        let (mut found, ()) = self.look(volume, sb, (group, copy), |_, _| ())?;
        // A copy does not follow what is written later: its bitmaps are where it says, and they are in use by now.
        found.flags = if copy.is_some() { 0 } else { found.flags };
        Ok(found)
    }

    /// Is the descriptor in the front of the volume what it should be?
    fn is_sound(&self, volume: &Arc<dyn ReadAt>, sb: &Superblock, group: u32) -> Result<bool, ReadError> {
        self.look(volume, sb, (group, None), |own, found| sound(sb, group, own, found)).map(|(_, sound)| sound)
    }

    /// Reads a descriptor, and hands its bytes to `more` as well.
    fn look<T>(
        &self,
        volume: &Arc<dyn ReadAt>,
        sb: &Superblock,
        (group, copy): (u32, Option<u32>),
        more: impl FnOnce(&[u8], &Group) -> T,
    ) -> Result<(Group, T), ReadError> {
        if group >= sb.groups() {
            return Err(ReadError::caller(format!("read group {group}"), format!("there are {}", sb.groups())));
        }
        let (block, from) = Self::place(sb, group, copy);
        let bytes = self.block(volume, sb, "ext group descriptors", block)?;
        let at = block.saturating_mul(sb.block_size).saturating_add(from);
        let all = Fields::new("ext group descriptors", at, &bytes);
        let own = all.slice(crate::disk::us(from), usize::from(sb.desc_size))?;
        let fields = Fields::new("ext group descriptor", at, own);
        let high = |at: usize| if sb.desc_size >= 64 { fields.u32(at) } else { Ok(0) };
        let join = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let found = Group {
            block_bitmap: join(fields.u32(0)?, high(32)?),
            inode_bitmap: join(fields.u32(4)?, high(36)?),
            inode_table: join(fields.u32(8)?, high(40)?),
            flags: fields.u16(18)?,
        };
        let more = more(own, &found);
        Ok((found, more))
    }

    /// Is this inode in use?
    pub(super) fn inode_in_use(
        &self,
        volume: &Arc<dyn ReadAt>,
        sb: &Superblock,
        inode: u32,
    ) -> Result<bool, ReadError> {
        let index = inode.saturating_sub(1);
        let group = self.get(volume, sb, index / sb.inodes_per_group)?;
        if group.flags & INODE_UNINIT != 0 && sb.has_uninit() {
            return Ok(false);
        }
        let bitmap = self.block(volume, sb, "ext inode bitmap", group.inode_bitmap)?;
        Ok(bit(&bitmap, index % sb.inodes_per_group))
    }

    /// Is this block in use?
    pub(super) fn block_in_use(
        &self,
        volume: &Arc<dyn ReadAt>,
        sb: &Superblock,
        block: u64,
    ) -> Result<bool, ReadError> {
        let Some(inside) = block.checked_sub(u64::from(sb.first_data_block)).filter(|_| block < sb.blocks) else {
            return Ok(true);
        };
        let per_group = u64::from(sb.blocks_per_group);
        let number = u32::try_from(inside / per_group).unwrap_or(u32::MAX);
        let group = self.get(volume, sb, number)?;
        if group.is_unwritten(sb) {
            return Ok(own_parts(sb, number, &group).iter().any(|part| part.contains(&block)));
        }
        let bitmap = self.block(volume, sb, "ext block bitmap", group.block_bitmap)?;
        let index = u32::try_from(inside % per_group / sb.cluster_blocks).unwrap_or(u32::MAX);
        Ok(bit(&bitmap, index))
    }
}

/// Where a group keeps its own things, which is what is in use of it before its bitmap is written.
pub(super) fn own_parts(sb: &Superblock, number: u32, group: &Group) -> [Range<u64>; 4] {
    let range = |from: u64, len: u64| from..from.saturating_add(len);
    [
        range(sb.front_start(number), sb.front(number)),
        range(group.block_bitmap, 1),
        range(group.inode_bitmap, 1),
        range(group.inode_table, sb.table_blocks()),
    ]
}

pub(super) fn bit(bitmap: &[u8], index: u32) -> bool {
    bitmap.get((index / 8) as usize).is_none_or(|byte| byte & (1 << (index % 8)) != 0)
}

/// Does a descriptor lead into the volume, and does its checksum fit? `metadata_csum` has the lower half of a CRC-32C over
/// all of it, `uninit_bg` before it a CRC-16 that leaves its own field out.
fn sound(sb: &Superblock, group: u32, own: &[u8], found: &Group) -> bool {
    let inside = [found.block_bitmap, found.inode_bitmap, found.inode_table];
    if inside.iter().any(|block| *block == 0 || *block >= sb.blocks) {
        return false;
    }
    let (Some(head), Some(stored)) = (own.get(..30), own.get(30..32)) else { return false };
    let rest = own.get(32..).unwrap_or_default();
    let found = if sb.has_csum() {
        let crc = checksum(sb.seed, &group.to_le_bytes());
        let [low, high, ..] = checksum(checksum(checksum(crc, head), &[0, 0]), rest).to_le_bytes();
        [low, high]
    } else if sb.has_uninit() {
        let crc = crc16(crc16(crc16(!0, &sb.uuid), &group.to_le_bytes()), head);
        crc16(crc, rest).to_le_bytes()
    } else {
        return true;
    };
    found == stored
}

/// CRC-16/ARC with a start value: reflected, polynomial 0x8005.
fn crc16(start: u16, bytes: &[u8]) -> u16 {
    bytes.iter().fold(start, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte), |crc, _| if crc & 1 == 0 { crc >> 1 } else { crc >> 1 ^ 0xa001 })
    })
}
