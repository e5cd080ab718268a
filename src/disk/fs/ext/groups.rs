//! Group descriptors and the two bitmaps. Kernel Documentation/filesystems/ext4, "Block Group Descriptors".
//!
//! The older crc16 of `uninit_bg` is not checked.

use std::sync::Arc;

use super::superblock::{META_BG, Superblock, checksum};
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

/// Descriptors and bitmaps, read when they are needed.
pub(super) struct Groups {
    cache: Cache,
}

impl Groups {
    pub(super) fn new() -> Self {
        Self { cache: Cache::new(8 << 20) }
    }

    /// A block, kept for a while.
    fn block(
        &self,
        volume: &Arc<dyn ReadAt>,
        sb: &Superblock,
        what: &'static str,
        n: u64,
    ) -> Result<Arc<Vec<u8>>, ReadError> {
        self.cache.get(n, || read_structure(volume.as_ref(), what, n.saturating_mul(sb.block_size), sb.block_len()))
    }

    /// The descriptor of a group, and what is odd about it.
    pub(super) fn get(
        &self,
        volume: &Arc<dyn ReadAt>,
        sb: &Superblock,
        group: u32,
    ) -> Result<(Group, bool), ReadError> {
        if group >= sb.groups() {
            return Err(ReadError::caller(format!("read group {group}"), format!("there are {}", sb.groups())));
        }
        let size = u64::from(sb.desc_size);
        let per_block = u32::try_from(sb.block_size / size).unwrap_or(1).max(1);
        let index = group / per_block;
        let block = if sb.incompat & META_BG != 0 && index >= sb.first_meta_bg {
            let first = index * per_block;
            sb.group_start(first) + u64::from(sb.has_super(first))
        } else {
            u64::from(sb.first_data_block) + 1 + u64::from(index)
        };
        let bytes = self.block(volume, sb, "ext group descriptors", block)?;
        let from = u64::from(group % per_block) * size;
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
        Ok((found, sb.has_csum() && !sound(sb, group, own)))
    }

    /// Is this inode in use?
    pub(super) fn inode_in_use(
        &self,
        volume: &Arc<dyn ReadAt>,
        sb: &Superblock,
        inode: u32,
    ) -> Result<bool, ReadError> {
        let index = inode.saturating_sub(1);
        let (group, _) = self.get(volume, sb, index / sb.inodes_per_group)?;
        if group.flags & INODE_UNINIT != 0 && sb.ro_compat & 0x410 != 0 {
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
        let (group, _) = self.get(volume, sb, number)?;
        if group.flags & BLOCK_UNINIT != 0 && sb.ro_compat & 0x410 != 0 {
            return Ok(is_metadata(sb, number, &group, block));
        }
        let bitmap = self.block(volume, sb, "ext block bitmap", group.block_bitmap)?;
        let index = u32::try_from(inside % per_group / sb.cluster_blocks).unwrap_or(u32::MAX);
        Ok(bit(&bitmap, index))
    }
}

/// Whether a group that has no bitmap yet keeps its own things there.
fn is_metadata(sb: &Superblock, number: u32, group: &Group, block: u64) -> bool {
    let table = u64::from(sb.inodes_per_group) * u64::from(sb.inode_size) / sb.block_size;
    block == group.block_bitmap
        || block == group.inode_bitmap
        || (group.inode_table..group.inode_table.saturating_add(table)).contains(&block)
        || (sb.has_super(number) && block == sb.group_start(number))
}

fn bit(bitmap: &[u8], index: u32) -> bool {
    bitmap.get((index / 8) as usize).is_none_or(|byte| byte & (1 << (index % 8)) != 0)
}

fn sound(sb: &Superblock, group: u32, own: &[u8]) -> bool {
    let (Some(head), Some(stored)) = (own.get(..30), own.get(30..32)) else { return false };
    let crc = checksum(sb.seed, &group.to_le_bytes());
    let crc = checksum(checksum(crc, head), &[0, 0]);
    let crc = checksum(crc, own.get(32..).unwrap_or_default());
    crc.to_le_bytes().get(..2) == Some(stored)
}
