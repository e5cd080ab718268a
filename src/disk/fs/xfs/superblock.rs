//! The superblock: geometry, features, and its copies in the other allocation groups. XFS Algorithms & Data Structures,
//! "Superblocks".
//!
//! An incompatible feature that is not known here is refused by name, as the kernel does. Where the first superblock is
//! damaged, a copy is used and that is said. All that multiplies or shifts later is checked here.

use std::sync::Arc;

use crate::disk::us;
use crate::image::fields::{Fields, read_structure};
use crate::image::{Kind, ReadAt, ReadError, read_vec};

/// What is read of it: more than all versions have.
const LEN: usize = 512;
/// How far a copy is looked for where nothing tells the size of the groups.
const SEARCHED: u64 = 1 << 30;
/// Bits of `sb_versionnum`.
const VERSION: &[(u32, &str)] = &[
    (0x10, "attr"),
    (0x20, "nlink"),
    (0x40, "quota"),
    (0x80, "align"),
    (0x100, "dalign"),
    (0x200, "shared"),
    (0x400, "logv2"),
    (0x800, "sector"),
    (0x1000, "extflg"),
    (DIRV2, "dirv2"),
    (0x4000, "ascii-ci"),
    (0x8000, "more"),
];
const DIRV2: u32 = 0x2000;
const FEATURES2: &[(u32, &str)] =
    &[(2, "lazysbcount"), (8, "attr2"), (0x10, "parent"), (0x80, "projid32"), (0x100, "crc"), (FTYPE2, "ftype")];
const FTYPE2: u32 = 0x200;
const RO_COMPAT: &[(u32, &str)] = &[(1, "finobt"), (2, "rmapbt"), (4, "reflink"), (8, "inobtcount")];
const INCOMPAT: &[(u32, &str)] = &[
    (FTYPE, "ftype"),
    (2, "sparse-inodes"),
    (META_UUID, "meta-uuid"),
    (8, "bigtime"),
    (NEEDS_REPAIR, "needs-repair"),
    (0x20, "nrext64"),
    (0x40, "exchange-range"),
    (0x80, "parent"),
    (0x100, "metadir"),
    (0x200, "zoned"),
    (0x400, "zone-gaps"),
];
const FTYPE: u32 = 1;
const META_UUID: u32 = 4;
const NEEDS_REPAIR: u32 = 0x10;
/// All files of a zoned one are in a realtime section, which is not read here.
const REFUSED: u32 = 0x600;

/// What is needed of the superblock.
#[derive(Debug, Clone)]
pub(super) struct Superblock {
    /// Version 5: everything has a checksum and says what it is.
    pub(super) v5: bool,
    pub(super) block_size: u64,
    pub(super) blocks: u64,
    pub(super) ag_blocks: u32,
    pub(super) ag_count: u32,
    pub(super) ag_log: u8,
    pub(super) inode_size: usize,
    /// Binary logarithm of the inodes in a block.
    pub(super) inode_log: u8,
    /// Bytes of a block of a directory.
    pub(super) dir_block: usize,
    pub(super) sector_size: u64,
    pub(super) root: u64,
    pub(super) log_start: u64,
    pub(super) log_blocks: u32,
    /// What the file system keeps for itself: bitmap and summary of the realtime section, quotas of users, groups and
    /// projects.
    pub(super) own_inodes: Vec<u64>,
    /// As metadata carries it.
    pub(super) uuid: [u8; 16],
    /// Directories tell what a name is.
    pub(super) ftype: bool,
    pub(super) facts: Vec<(String, String)>,
    pub(super) odd: Vec<String>,
    /// Its checksum fits, if it has one.
    sound: bool,
}

/// Names of the bits that are set; unknown ones as numbers.
fn names(set: u32, known: &[(u32, &str)]) -> String {
    let mut names: Vec<_> =
        known.iter().filter(|(bit, _)| set & bit != 0).map(|(_, name)| (*name).to_owned()).collect();
    let rest = known.iter().fold(set, |rest, (bit, _)| rest & !bit);
    if rest != 0 {
        names.push(format!("{rest:#x}"));
    }
    names.join(" ")
}

/// The checksum of metadata that has it at `field`, little-endian, itself counted as zero.
pub(super) fn checksum_fits(bytes: &[u8], field: usize) -> bool {
    let (Some(front), Some(sum), Some(rest)) =
        (bytes.get(..field), bytes.get(field..field + 4), bytes.get(field + 4..))
    else {
        return false;
    };
    let crc = crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(front), &[0; 4]), rest);
    crc.to_le_bytes() == *sum
}

/// Bytes of a block, a sector and an inode, and the logarithm of the inodes in a block.
fn sizes(fields: &Fields<'_>) -> Result<(u64, u64, u64, u8), ReadError> {
    let block_log = fields.u8(120)?;
    let block_size = u64::from(fields.be32(4)?);
    if !(9..=16).contains(&block_log) || block_size != 1 << block_log {
        return Err(fields.corrupt(4, "blocks of 512 bytes to 64 KiB", block_size));
    }
    let sector_size = u64::from(fields.be16(102)?);
    if !(512..=32768).contains(&sector_size) || !sector_size.is_power_of_two() {
        return Err(fields.corrupt(102, "sectors of 512 bytes to 32 KiB", sector_size));
    }
    let inode_size = u64::from(fields.be16(104)?);
    if !(256..=2048).contains(&inode_size) || !inode_size.is_power_of_two() || inode_size > block_size {
        return Err(fields.corrupt(104, "inodes of 256 to 2048 bytes", inode_size));
    }
    let inode_log = fields.u8(123)?;
    if inode_log > 8 || block_size / inode_size != 1 << inode_log {
        return Err(fields.corrupt(123, format_args!("{} inodes a block", block_size / inode_size), inode_log));
    }
    Ok((block_size, sector_size, inode_size, inode_log))
}

/// Blocks, blocks of a group, groups, and the bits of a block's number in its group.
fn groups(fields: &Fields<'_>) -> Result<(u64, u32, u32, u8), ReadError> {
    let (blocks, ag_blocks, ag_count, ag_log) = (fields.be64(8)?, fields.be32(84)?, fields.be32(88)?, fields.u8(124)?);
    if ag_blocks < 64 || u64::from(ag_blocks) > 1 << (ag_log & 31) || ag_log > 31 {
        return Err(fields.corrupt(84, "groups whose size fits its logarithm", ag_blocks));
    }
    if blocks.div_ceil(u64::from(ag_blocks)) != u64::from(ag_count) {
        return Err(fields.corrupt(88, format_args!("groups for {blocks} blocks"), ag_count));
    }
    Ok((blocks, ag_blocks, ag_count, ag_log))
}

impl Superblock {
    /// The first superblock, or the copy that is taken for it.
    pub(super) fn read(volume: &Arc<dyn ReadAt>) -> Result<Self, ReadError> {
        let first = Self::at(volume.as_ref(), 0);
        let why = match &first {
            Ok(sb) if sb.sound => return first,
            Ok(sb) => sb.odd.first().cloned().unwrap_or_default(),
            Err(ReadError::Corrupt { .. }) => first.as_ref().err().map(ToString::to_string).unwrap_or_default(),
            Err(_) => return first,
        };
        if let Some((group, mut sb)) = Self::copy(volume.as_ref()) {
            sb.odd.push(format!("the superblock is damaged, the copy in allocation group {group} is used ({why})"));
            return Ok(sb);
        }
        first
    }

    /// A sound copy, and the group that it was in.
    fn copy(volume: &dyn ReadAt) -> Option<(u64, Self)> {
        let claimed = read_vec(volume, 0, LEN).ok().and_then(|bytes| {
            let fields = Fields::new("xfs superblock", 0, &bytes);
            Some((u64::from(fields.be32(4).ok()?), u64::from(fields.be32(84).ok()?)))
        });
        let (block, blocks) = claimed.unwrap_or_default();
        // What mkfs makes of a volume of this size: four groups.
        let guesses = [
            block.saturating_mul(blocks),
            volume.len().div_ceil(4).next_multiple_of(4096),
            volume.len() / 16384 * 4096,
        ];
        for size in guesses.into_iter().filter(|size| *size > 0) {
            if let Some(found) = (1..16).find_map(|group| Self::sound_at(volume, size.saturating_mul(group))) {
                return Some(found);
            }
        }
        Self::search(volume)
    }

    fn sound_at(volume: &dyn ReadAt, at: u64) -> Option<(u64, Self)> {
        let sb = Self::at(volume, at).ok().filter(|sb| sb.sound)?;
        let size = u64::from(sb.ag_blocks).saturating_mul(sb.block_size);
        let group = at / size;
        (at.is_multiple_of(size) && group < u64::from(sb.ag_count)).then_some((group, sb))
    }

    fn search(volume: &dyn ReadAt) -> Option<(u64, Self)> {
        const PART: u64 = 1 << 20;
        let end = volume.len().min(SEARCHED);
        let mut at = 512;
        while at < end {
            let extent = volume.extent(at).ok()?;
            if extent.kind != Kind::Data {
                at = extent.end().next_multiple_of(512);
                continue;
            }
            let part = read_vec(volume, at, us(PART.min(end - at).min(extent.len.max(512)))).ok()?;
            let places = part.chunks(512).enumerate().filter(|(_, sector)| sector.starts_with(b"XFSB"));
            let found = places.map(|(n, _)| at + n as u64 * 512).find_map(|place| Self::sound_at(volume, place));
            if found.is_some() {
                return found;
            }
            at = at.saturating_add(part.len() as u64).next_multiple_of(512);
        }
        None
    }

    fn at(volume: &dyn ReadAt, at: u64) -> Result<Self, ReadError> {
        let bytes = read_structure(volume, "xfs superblock", at, LEN)?;
        let fields = Fields::new("xfs superblock", at, &bytes);
        if fields.slice(0, 4)? != b"XFSB" {
            return Err(fields.corrupt(0, "magic XFSB", crate::image::hex(fields.slice(0, 4)?)));
        }
        let version = u32::from(fields.be16(100)?);
        let v5 = version & 15 == 5;
        if !v5 && (version & 15 != 4 || version & DIRV2 == 0) {
            return Err(if version & 15 == 4 || (1..=3).contains(&(version & 15)) {
                ReadError::unsupported("an xfs file system", "its directories are of version 1, before 2001")
            } else {
                fields.corrupt(100, "version 4 or 5", version & 15)
            });
        }
        let sector = usize::from(fields.be16(102)?);
        let sound = !v5 || read_vec(volume, at, sector.clamp(LEN, 1 << 15)).is_ok_and(|all| checksum_fits(&all, 224));
        let incompat = if v5 { fields.be32(216)? } else { 0 };
        let known = INCOMPAT.iter().fold(0, |all, (bit, _)| all | bit) & !REFUSED;
        if incompat & !known != 0 && sound {
            let what = names(incompat & !known, INCOMPAT);
            return Err(ReadError::unsupported("an xfs file system", format!("it uses the feature {what}")));
        }
        let mut this = Self::geometry(&fields, v5, version)?;
        this.sound = sound;
        if !sound {
            this.odd.push("the checksum of the superblock does not fit".to_owned());
        }
        if incompat & NEEDS_REPAIR != 0 {
            this.odd.push("xfs_repair was begun and not ended: the file system says that it needs repair".to_owned());
        }
        if this.blocks.checked_mul(this.block_size).is_none_or(|len| len > volume.len()) {
            let (blocks, size) = (this.blocks, this.block_size);
            this.odd.push(format!("the file system has {blocks} blocks of {size}; the volume ends before"));
        }
        this.tell(&fields, version)?;
        Ok(this)
    }

    fn geometry(fields: &Fields<'_>, v5: bool, version: u32) -> Result<Self, ReadError> {
        let (block_size, sector_size, inode_size, inode_log) = sizes(fields)?;
        let (incompat, features2) = (if v5 { fields.be32(216)? } else { 0 }, fields.be32(200)?);
        let ftype = if v5 { incompat & FTYPE != 0 } else { version & 0x8000 != 0 && features2 & FTYPE2 != 0 };
        let (blocks, ag_blocks, ag_count, ag_log) = groups(fields)?;
        let dir_log = fields.u8(192)?;
        if dir_log > 7 || block_size << dir_log > 1 << 16 {
            return Err(fields.corrupt(192, "directory blocks of at most 64 KiB", dir_log));
        }
        let this = Self {
            v5,
            block_size,
            blocks,
            ag_blocks,
            ag_count,
            ag_log,
            inode_size: us(inode_size),
            inode_log,
            dir_block: us(block_size << dir_log),
            sector_size,
            root: fields.be64(56)?,
            log_start: fields.be64(48)?,
            log_blocks: fields.be32(96)?,
            own_inodes: [64, 72, 160, 168, 232].map(|at| fields.be64(at)).into_iter().collect::<Result<_, _>>()?,
            uuid: fields.array(if incompat & META_UUID != 0 { 248 } else { 32 })?,
            ftype,
            facts: Vec::new(),
            odd: Vec::new(),
            sound: true,
        };
        if this.place_of(this.root).is_none() {
            return Err(fields.corrupt(56, "the number of the root directory", this.root));
        }
        Ok(this)
    }

    fn tell(&mut self, fields: &Fields<'_>, version: u32) -> Result<(), ReadError> {
        let uuid = crate::image::hex(fields.slice(32, 16)?);
        let part = |from: usize, to: usize| uuid.get(from..to).unwrap_or_default().to_owned();
        let uuid = [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-");
        let mut fact = |name: &str, value: String| self.facts.push((name.to_owned(), value));
        fact("uuid", uuid);
        fact("label", fields.text(108, 12)?);
        fact("version", (version & 15).to_string());
        fact("block size", self.block_size.to_string());
        fact("blocks", self.blocks.to_string());
        fact("free blocks", fields.be64(144)?.to_string());
        fact("allocation groups", format!("{} of {} blocks", self.ag_count, self.ag_blocks));
        fact("inode size", self.inode_size.to_string());
        fact("inodes", fields.be64(128)?.to_string());
        fact("free inodes", fields.be64(136)?.to_string());
        fact("directory block size", self.dir_block.to_string());
        fact("sector size", self.sector_size.to_string());
        let place = if self.log_start == 0 { "on another device" } else { "inside" };
        fact("log", format!("{} blocks, {place}", self.log_blocks));
        fact("realtime blocks", fields.be64(16)?.to_string());
        fact("stripe unit, width", format!("{}, {}", fields.be32(184)?, fields.be32(188)?));
        fact("version bits", names(version & !15, VERSION));
        fact("features2", names(fields.be32(200)?, FEATURES2));
        if self.v5 {
            fact("read-only compatible", names(fields.be32(212)?, RO_COMPAT));
            fact("incompatible", names(fields.be32(216)?, INCOMPAT));
            fact("log incompatible", names(fields.be32(220)?, &[(1, "logged-xattrs")]));
        }
        for (name, at) in [("user quota inode", 160), ("group quota inode", 168)] {
            fact(
                name,
                Some(fields.be64(at)?)
                    .filter(|n| ![0, u64::MAX].contains(n))
                    .map_or("none".to_owned(), |n| n.to_string()),
            );
        }
        Ok(())
    }

    /// Blocks of a group: the last may be shorter.
    pub(super) fn ag_len(&self, group: u32) -> u32 {
        let begin = u64::from(group) * u64::from(self.ag_blocks);
        u32::try_from(self.blocks.saturating_sub(begin).min(u64::from(self.ag_blocks))).unwrap_or(0)
    }

    /// Block of the volume of a block in a group.
    pub(super) fn linear(&self, group: u32, block: u32) -> u64 {
        u64::from(group) * u64::from(self.ag_blocks) + u64::from(block)
    }

    /// Block of the volume of a number as extents have it, if all `len` blocks from there are in one group.
    pub(super) fn block_of(&self, number: u64, len: u64) -> Option<u64> {
        let group = u32::try_from(number >> self.ag_log).ok().filter(|group| *group < self.ag_count)?;
        let inside = u32::try_from(number & ((1 << self.ag_log) - 1)).ok()?;
        let end = u64::from(inside).checked_add(len)?;
        (end <= u64::from(self.ag_len(group))).then(|| self.linear(group, inside))
    }

    /// Group, number in the group, and byte of the volume of an inode.
    pub(super) fn place_of(&self, inode: u64) -> Option<(u32, u32, u64)> {
        let bits = u32::from(self.ag_log) + u32::from(self.inode_log);
        let group = u32::try_from(inode.checked_shr(bits)?).ok()?;
        let inside = u32::try_from(inode & ((1_u64 << bits) - 1)).ok()?;
        let block = self.block_of(inode >> self.inode_log, 1).filter(|_| inside != 0)?;
        let slot = inode & ((1 << self.inode_log) - 1);
        Some((group, inside, block.checked_mul(self.block_size)?.checked_add(slot * self.inode_size as u64)?))
    }

    /// The number of an inode in a group.
    pub(super) fn inode_of(&self, group: u32, inside: u32) -> u64 {
        u64::from(group) << (self.ag_log + self.inode_log) | u64::from(inside)
    }

    /// Bytes of a block.
    pub(super) fn block_len(&self) -> usize {
        us(self.block_size)
    }
}
