//! The superblock: geometry, features, checksums. Kernel Documentation/filesystems/ext4, "Super Block".
//!
//! An incompatible feature that is not known here is refused by name: the kernel would not mount it either. Compression
//! (never merged) and a device that is only a journal are refused too. Where the first superblock is damaged, the copies are
//! looked for in the groups where mke2fs puts them.

use crate::disk::fs::words::{flags, uuid};
use crate::disk::us;
use crate::image::fields::{Fields, read_structure};
use crate::image::{ReadAt, ReadError};

/// Names are read before the inode number: entries have a kind.
pub(super) const FILETYPE: u32 = 0x2;
const RECOVER: u32 = 0x4;
const JOURNAL_DEV: u32 = 0x8;
pub(super) const META_BG: u32 = 0x10;
const BIT64: u32 = 0x80;
pub(super) const LARGEDIR: u32 = 0x4000;
const CSUM_SEED: u32 = 0x2000;
/// Compatible.
const HAS_JOURNAL: u32 = 0x4;
const FAST_COMMIT: u32 = 0x400;
/// Read-only compatible.
const BIGALLOC: u32 = 0x200;
const METADATA_CSUM: u32 = 0x400;
const UNINIT_BG: u32 = 0x10;
const SPARSE_SUPER: u32 = 0x1;
const SPARSE_SUPER2: u32 = 0x200;

const COMPAT: &[(u32, &str)] = &[
    (1, "dir_prealloc"),
    (2, "imagic_inodes"),
    (HAS_JOURNAL, "has_journal"),
    (8, "ext_attr"),
    (0x10, "resize_inode"),
    (0x20, "dir_index"),
    (SPARSE_SUPER2, "sparse_super2"),
    (FAST_COMMIT, "fast_commit"),
    (0x800, "stable_inodes"),
    (0x1000, "orphan_file"),
];
const INCOMPAT: &[(u32, &str)] = &[
    (1, "compression"),
    (FILETYPE, "filetype"),
    (RECOVER, "needs_recovery"),
    (JOURNAL_DEV, "journal_dev"),
    (META_BG, "meta_bg"),
    (0x40, "extent"),
    (BIT64, "64bit"),
    (0x100, "mmp"),
    (0x200, "flex_bg"),
    (0x400, "ea_inode"),
    (0x1000, "dirdata"),
    (CSUM_SEED, "metadata_csum_seed"),
    (LARGEDIR, "large_dir"),
    (0x8000, "inline_data"),
    (0x1_0000, "encrypt"),
    (0x2_0000, "casefold"),
];
/// Of these, the ones that cannot be read here.
const REFUSED: u32 = 1 | JOURNAL_DEV | 0x1000;
const RO_COMPAT: &[(u32, &str)] = &[
    (SPARSE_SUPER, "sparse_super"),
    (2, "large_file"),
    (4, "btree_dir"),
    (8, "huge_file"),
    (UNINIT_BG, "uninit_bg"),
    (0x20, "dir_nlink"),
    (0x40, "extra_isize"),
    (0x80, "snapshot"),
    (0x100, "quota"),
    (BIGALLOC, "bigalloc"),
    (METADATA_CSUM, "metadata_csum"),
    (0x800, "replica"),
    (0x1000, "read-only"),
    (0x2000, "project"),
    (0x4000, "shared_blocks"),
    (0x8000, "verity"),
    (0x1_0000, "orphan_present"),
];

/// See the module. Numbers were checked: dividing by them and multiplying them is safe.
#[derive(Debug, Clone)]
pub(super) struct Superblock {
    pub(super) inodes: u32,
    pub(super) blocks: u64,
    pub(super) first_data_block: u32,
    pub(super) block_size: u64,
    pub(super) cluster_blocks: u64,
    pub(super) blocks_per_group: u32,
    pub(super) inodes_per_group: u32,
    pub(super) inode_size: u16,
    pub(super) desc_size: u16,
    pub(super) compat: u32,
    pub(super) incompat: u32,
    pub(super) ro_compat: u32,
    pub(super) first_meta_bg: u32,
    pub(super) reserved_gdt: u16,
    pub(super) uuid: [u8; 16],
    /// Of the journal, if it is on a device of its own.
    pub(super) journal_uuid: Option<String>,
    pub(super) backup_groups: [u32; 2],
    pub(super) journal_inode: u32,
    pub(super) seed: u32,
    /// The group that this copy says it stands in.
    own_group: u32,
    pub(super) facts: Vec<(String, String)>,
    pub(super) odd: Vec<String>,
}

/// CRC-32C as ext4 uses it: seeded, without the last inversion.
pub(super) fn checksum(seed: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!seed, bytes)
}

/// The UUID of a journal that is on a device of its own; none if it is an inode.
fn outside(fields: &Fields<'_>) -> Result<Option<String>, ReadError> {
    let own = fields.slice(0xd0, 16)?;
    Ok((fields.u32(0xe0)? == 0).then(|| uuid(own)))
}

/// Where the first superblock stands, in bytes.
const FIRST: u64 = 1024;
/// Groups that hold a copy whatever `sparse_super` says, as long as there are so many.
const COPIES: &[u32] = &[1, 3, 5, 7, 9, 25, 27, 49];

/// Where copies may stand: byte, and the number of the group. Groups are as large as one block of bitmap can tell: in
/// blocks, or in clusters of 16, unless somebody asked mke2fs for others.
fn copies() -> impl Iterator<Item = (u64, u32)> {
    let sizes = (0..=6).flat_map(|log| [(1024_u64 << log, 1), (1024 << log, 16)]);
    sizes.flat_map(|(size, cluster)| {
        let first = u64::from(size == 1024 && cluster == 1);
        COPIES.iter().map(move |group| ((u64::from(*group) * size * 8 * cluster + first) * size, *group))
    })
}

/// Is there a copy of a superblock, whatever the first one looks like?
pub(crate) fn has_copy(volume: &dyn ReadAt) -> bool {
    copies().any(|(at, group)| Superblock::copy_at(volume, at, group).is_some())
}

impl Superblock {
    /// The first one, or, where that is damaged, the first copy that is sound.
    pub(super) fn read(volume: &dyn ReadAt) -> Result<Self, ReadError> {
        let first = Self::read_at(volume, FIRST);
        let Err(error @ ReadError::Corrupt { .. }) = first else { return first };
        for (at, group) in copies() {
            if let Some(mut copy) = Self::copy_at(volume, at, group) {
                copy.odd.push(format!("{error}; the copy in group {group} is used, which may be out of date"));
                return Ok(copy);
            }
        }
        Err(error)
    }

    /// The copy of `group` at a place, if it says itself that it is one, has the block size that leads there, and is sound.
    fn copy_at(volume: &dyn ReadAt, at: u64, group: u32) -> Option<Self> {
        let mut head = [0; 4];
        volume.read_at(at.checked_add(0x38)?, &mut head).ok()?;
        let found = (head.get(..2)? == [0x53, 0xef]).then(|| Self::read_at(volume, at).ok())??;
        let place = found.group_start(group).checked_mul(found.block_size)?;
        (found.own_group == group && place == at && found.odd.is_empty()).then_some(found)
    }

    fn read_at(volume: &dyn ReadAt, at: u64) -> Result<Self, ReadError> {
        let bytes = read_structure(volume, "ext superblock", at, 1024)?;
        let fields = Fields::new("ext superblock", at, &bytes);
        if fields.u16(0x38)? != 0xef53 {
            return Err(fields.corrupt(0x38, "magic 0xef53", format_args!("{:#x}", fields.u16(0x38)?)));
        }
        let dynamic = fields.u32(0x4c)? >= 1;
        let feature = |at| if dynamic { fields.u32(at) } else { Ok(0) };
        let (compat, incompat, ro_compat) = (feature(0x5c)?, feature(0x60)?, feature(0x64)?);
        let known = INCOMPAT.iter().fold(0, |all, (bit, _)| all | bit) & !REFUSED;
        if incompat & !known != 0 {
            let what = flags(incompat & !known, INCOMPAT).join(", ");
            let what = if incompat & JOURNAL_DEV == 0 {
                format!("it uses the feature {what}")
            } else {
                format!("it is the journal {} of another file system", uuid(fields.slice(0x68, 16)?))
            };
            return Err(ReadError::unsupported("ext file system", what));
        }
        let mut this = Self::geometry(&fields, [compat, incompat, ro_compat], dynamic)?;
        this.check(&fields, volume)?;
        this.tell(&fields)?;
        Ok(this)
    }

    fn geometry(fields: &Fields<'_>, features: [u32; 3], dynamic: bool) -> Result<Self, ReadError> {
        let [compat, incompat, ro_compat] = features;
        let log = fields.u32(0x18)?;
        if log > 6 {
            return Err(fields.corrupt(0x18, "blocks of 1 to 64 KiB", format_args!("a shift of {log}")));
        }
        let block_size = 1024_u64 << log;
        let log_cluster = fields.u32(0x1c)?;
        let bigalloc = ro_compat & BIGALLOC != 0;
        if bigalloc && (log_cluster < log || log_cluster > 20) {
            return Err(fields.corrupt(0x1c, "clusters of a block or more", format_args!("a shift of {log_cluster}")));
        }
        let wide = incompat & BIT64 != 0;
        let uuid = fields.slice(0x68, 16)?;
        let seed = if incompat & CSUM_SEED != 0 { fields.u32(0x270)? } else { checksum(!0, uuid) };
        Ok(Self {
            inodes: fields.u32(0)?,
            blocks: u64::from(fields.u32(4)?) | if wide { u64::from(fields.u32(0x150)?) << 32 } else { 0 },
            first_data_block: fields.u32(0x14)?,
            block_size,
            cluster_blocks: if bigalloc { 1 << (log_cluster - log) } else { 1 },
            blocks_per_group: fields.u32(0x20)?,
            inodes_per_group: fields.u32(0x28)?,
            inode_size: if dynamic { fields.u16(0x58)? } else { 128 },
            desc_size: if wide { fields.u16(0xfe)? } else { 32 },
            compat,
            incompat,
            ro_compat,
            first_meta_bg: fields.u32(0x104)?,
            reserved_gdt: fields.u16(0xce)?,
            uuid: fields.array(0x68)?,
            journal_uuid: if compat & HAS_JOURNAL != 0 { outside(fields)? } else { None },
            own_group: u32::from(fields.u16(0x5a)?),
            backup_groups: [fields.u32(0x24c)?, fields.u32(0x250)?],
            journal_inode: if compat & HAS_JOURNAL != 0 { fields.u32(0xe0)? } else { 0 },
            seed,
            facts: Vec::new(),
            odd: Vec::new(),
        })
    }

    /// Fails where a number makes no sense, and notes what is only odd.
    fn check(&mut self, fields: &Fields<'_>, volume: &dyn ReadAt) -> Result<(), ReadError> {
        let size = u64::from(self.inode_size);
        if size < 128 || size > self.block_size || !size.is_power_of_two() {
            return Err(fields.corrupt(0x58, "inodes of 128 bytes to a block", size));
        }
        if self.desc_size < 32 || u64::from(self.desc_size) > self.block_size || !self.desc_size.is_power_of_two() {
            return Err(fields.corrupt(0xfe, "group descriptors of 32 bytes to a block", self.desc_size));
        }
        let bits = self.block_size * 8;
        if self.blocks_per_group == 0 || u64::from(self.blocks_per_group) > bits * self.cluster_blocks {
            return Err(fields.corrupt(0x20, format_args!("1 to {bits} blocks a group"), self.blocks_per_group));
        }
        if self.inodes_per_group == 0 || u64::from(self.inodes_per_group) > bits {
            return Err(fields.corrupt(0x28, format_args!("1 to {bits} inodes a group"), self.inodes_per_group));
        }
        if u64::from(self.first_data_block) >= self.blocks || self.first_data_block > 1 {
            return Err(fields.corrupt(0x14, "the first data block at 0 or 1", self.first_data_block));
        }
        let most = u64::from(self.groups()) * u64::from(self.inodes_per_group);
        if u64::from(self.inodes) > most || self.inodes < 11 {
            return Err(fields.corrupt(0, format_args!("11 to {most} inodes"), self.inodes));
        }
        if self.blocks.checked_mul(self.block_size).is_none_or(|len| len > volume.len()) {
            self.odd.push(format!(
                "the file system has {} blocks of {}; the volume ends before",
                self.blocks, self.block_size
            ));
        }
        if self.has_csum() {
            let found = checksum(!0, fields.slice(0, 0x3fc)?);
            if found != fields.u32(0x3fc)? {
                self.odd.push(format!(
                    "checksum of the superblock is {found:#010x} and should be {:#010x}",
                    fields.u32(0x3fc)?
                ));
            }
        }
        Ok(())
    }

    fn tell(&mut self, fields: &Fields<'_>) -> Result<(), ReadError> {
        let time = |at| -> Result<String, ReadError> {
            let seconds = fields.u32(at)?;
            let time = jiff::Timestamp::from_second(i64::from(seconds)).map(|time| time.to_string());
            Ok(time.ok().filter(|_| seconds != 0).unwrap_or_else(|| "never".to_owned()))
        };
        let state = fields.u16(0x3a)?;
        let mut states = Vec::new();
        states.push(if state & 1 != 0 { "clean" } else { "not clean" });
        states.extend((state & 2 != 0).then_some("errors"));
        states.extend((state & 4 != 0).then_some("orphans"));
        let mut fact = |name: &str, value: String| self.facts.push((name.to_owned(), value));
        fact("uuid", uuid(fields.slice(0x68, 16)?));
        fact("label", fields.text(0x78, 16)?);
        fact("last mounted on", fields.text(0x88, 64)?);
        fact("state", states.join(", "));
        fact("made", time(0x108)?);
        fact("mounted", time(0x2c)?);
        fact("written", time(0x30)?);
        fact("checked", time(0x40)?);
        fact("mounts", fields.u16(0x34)?.to_string());
        fact("block size", self.block_size.to_string());
        fact("blocks", self.blocks.to_string());
        fact("free blocks", fields.u32(0xc)?.to_string());
        fact("inodes", self.inodes.to_string());
        fact("free inodes", fields.u32(0x10)?.to_string());
        fact("inode size", self.inode_size.to_string());
        let groups = self.blocks.saturating_sub(u64::from(self.first_data_block));
        fact("groups", groups.div_ceil(u64::from(self.blocks_per_group)).to_string());
        fact("first orphan inode", fields.u32(0xe8)?.to_string());
        fact("compatible", flags(self.compat, COMPAT).join(" "));
        fact("incompatible", flags(self.incompat, INCOMPAT).join(" "));
        fact("read-only compatible", flags(self.ro_compat, RO_COMPAT).join(" "));
        Ok(())
    }

    /// Groups of blocks. More than fit 32 bits are cut: the inode numbers have 32.
    pub(super) fn groups(&self) -> u32 {
        let blocks = self.blocks.saturating_sub(u64::from(self.first_data_block));
        u32::try_from(blocks.div_ceil(u64::from(self.blocks_per_group))).unwrap_or(u32::MAX)
    }

    pub(super) fn has_csum(&self) -> bool {
        self.ro_compat & METADATA_CSUM != 0
    }

    /// Groups may say that their bitmaps were never written, and descriptors have a checksum.
    pub(super) fn has_uninit(&self) -> bool {
        self.ro_compat & (METADATA_CSUM | UNINIT_BG) != 0
    }

    pub(super) fn needs_recovery(&self) -> bool {
        self.incompat & RECOVER != 0
    }

    /// ext2, ext3 or ext4, by what tells them apart.
    pub(super) fn name(&self) -> &'static str {
        // extent, 64bit, flex_bg, inline_data and the like; huge_file and what came with it.
        if self.incompat & 0x3_f7c0 != 0 || self.ro_compat & 0x1_fff8 != 0 {
            "ext4"
        } else if self.compat & HAS_JOURNAL != 0 {
            "ext3"
        } else {
            "ext2"
        }
    }

    /// Does this group begin with a copy of the superblock?
    pub(super) fn has_super(&self, group: u32) -> bool {
        if self.compat & SPARSE_SUPER2 != 0 {
            return group == 0 || self.backup_groups.contains(&group);
        }
        if group <= 1 || self.ro_compat & SPARSE_SUPER == 0 {
            return true;
        }
        let power_of = |base: u32| {
            let mut n = base;
            while n < group {
                n = n.saturating_mul(base);
            }
            n == group
        };
        power_of(3) || power_of(5) || power_of(7)
    }

    /// Where the superblock of a group and its descriptors begin. The first kilobyte of the volume is not ext's.
    pub(super) fn front_start(&self, group: u32) -> u64 {
        self.group_start(group).max(u64::from(self.block_size == 1024))
    }

    /// First block of a group.
    pub(super) fn group_start(&self, group: u32) -> u64 {
        u64::from(group) * u64::from(self.blocks_per_group) + u64::from(self.first_data_block)
    }

    /// Group descriptors that a block holds. At least one: both sizes were checked.
    pub(super) fn descriptors_per_block(&self) -> u32 {
        u32::try_from(self.block_size / u64::from(self.desc_size)).unwrap_or(1).max(1)
    }

    pub(super) fn inodes_per_block(&self) -> u64 {
        self.block_size / u64::from(self.inode_size)
    }

    /// Blocks of the inode table of a group.
    pub(super) fn table_blocks(&self) -> u64 {
        u64::from(self.inodes_per_group).div_ceil(self.inodes_per_block())
    }

    /// Are the descriptors of this group kept near it, not in the front of the volume?
    pub(super) fn is_meta(&self, group: u32) -> bool {
        self.incompat & META_BG != 0 && group / self.descriptors_per_block() >= self.first_meta_bg
    }

    /// Blocks in the front of a group that hold the superblock and descriptors, or are kept for those to come.
    pub(super) fn front(&self, group: u32) -> u64 {
        let own = u64::from(self.has_super(group));
        let per_block = self.descriptors_per_block();
        if self.is_meta(group) {
            let inside = group % per_block;
            return own + u64::from(inside <= 1 || inside + 1 == per_block);
        }
        let all = if self.incompat & META_BG != 0 { self.first_meta_bg } else { self.groups().div_ceil(per_block) };
        if own == 0 { 0 } else { 1 + u64::from(all) + u64::from(self.reserved_gdt) }
    }

    /// Groups where copies of the superblock and the descriptors are, without the first; not more than help.
    pub(super) fn copies(&self) -> Vec<u32> {
        let sparse = self.backup_groups.iter().copied().filter(|group| *group > 0);
        let usual = COPIES.iter().copied();
        sparse.chain(usual).filter(|group| *group < self.groups() && self.has_super(*group)).collect()
    }

    /// Length of a block in memory.
    pub(super) fn block_len(&self) -> usize {
        us(self.block_size)
    }
}
