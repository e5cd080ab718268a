//! Inodes: times with nanoseconds, flags, checksum. Kernel Documentation/filesystems/ext4, "Index Nodes".

use jiff::Timestamp;

use super::superblock::{LARGEDIR, Superblock, checksum};
use crate::disk::fs::{FileKind, Node, Times};
use crate::image::ReadError;
use crate::image::fields::Fields;

pub(super) const ENCRYPT: u32 = 0x800;
pub(super) const INDEX: u32 = 0x1000;
pub(super) const EXTENTS: u32 = 0x8_0000;
pub(super) const INLINE_DATA: u32 = 0x1000_0000;
const HUGE_FILE: u32 = 0x4_0000;

const FLAGS: &[(u32, &str)] = &[
    (0x10, "immutable"),
    (0x20, "append-only"),
    (ENCRYPT, "encrypted"),
    (INDEX, "indexed"),
    (HUGE_FILE, "huge-file"),
    (EXTENTS, "extents"),
    (0x10_0000, "verity"),
    (0x20_0000, "ea-inode"),
    (INLINE_DATA, "inline-data"),
    (0x4000_0000, "casefold"),
];

/// An inode as it stands on the disk, with what else is needed of it.
#[derive(Debug, Clone)]
pub(super) struct Inode {
    pub(super) node: Node,
    pub(super) flags: u32,
    /// `i_block`: the map, the inline content, or the short link.
    pub(super) block: [u8; 60],
    /// Block with extended attributes, 0 for none.
    pub(super) acl: u64,
    /// Blocks of 512 bytes it says it has, or of a whole block each.
    pub(super) sectors: u64,
    /// Where the space behind the fixed fields begins that may hold extended attributes.
    pub(super) extra: usize,
    /// All bytes.
    pub(super) raw: Vec<u8>,
    /// Seed of the checksums of its blocks.
    pub(super) seed: u32,
}

/// A time from its signed seconds, and from the extra field with two more bits and nanoseconds.
fn time(seconds: u32, extra: Option<u32>) -> Option<Timestamp> {
    let extra = extra.unwrap_or(0);
    let seconds = i64::from(seconds.cast_signed()) + (i64::from(extra & 3) << 32);
    let nanos = i32::try_from((extra >> 2).min(999_999_999)).ok()?;
    Timestamp::new(seconds, nanos).ok()
}

/// The four fixed times; those behind byte 128 and the upper bits only as far as `reach`.
fn times(fields: &Fields<'_>, reach: usize) -> Result<Times, ReadError> {
    let extra = |at: usize| if at + 4 <= reach { fields.u32(at).map(Some) } else { Ok(None) };
    let born = extra(0x90)?.filter(|seconds| *seconds != 0);
    let dtime = Some(fields.u32(0x14)?).filter(|dtime| *dtime != 0);
    Ok(Times {
        accessed: time(fields.u32(8)?, extra(0x8c)?),
        changed: time(fields.u32(0xc)?, extra(0x84)?),
        modified: time(fields.u32(0x10)?, extra(0x88)?),
        born: born.map(|seconds| Ok::<_, ReadError>(time(seconds, extra(0x94)?))).transpose()?.flatten(),
        deleted: dtime.and_then(|dtime| time(dtime, None)),
        accessed_day: false,
    })
}

impl Inode {
    /// Reads the bytes of inode `number`, found at `at`.
    pub(super) fn parse(sb: &Superblock, number: u32, at: u64, raw: Vec<u8>) -> Result<Self, ReadError> {
        let fields = Fields::new("ext inode", at, &raw);
        let extra_size = if raw.len() > 128 { fields.u16(0x80)? } else { 0 };
        let mut odd = Vec::new();
        let reach = 128 + usize::from(extra_size);
        if reach > raw.len() || extra_size % 4 != 0 {
            odd.push(format!("its extra fields should have {extra_size} bytes"));
        }
        let reach = if odd.is_empty() { reach } else { 128 };
        let (mode, flags, generation) = (u32::from(fields.u16(0)?), fields.u32(0x20)?, fields.u32(0x64)?);
        let kind = FileKind::of_mode(mode);
        let seed = checksum(checksum(sb.seed, &number.to_le_bytes()), &generation.to_le_bytes());
        if kind.is_none() && mode != 0 {
            odd.push(format!("mode {mode:#o} is of no kind"));
        }
        if sb.has_csum() && mode != 0 && !sound(seed, &raw, extra_size) {
            odd.push("the checksum of the inode does not fit".to_owned());
        }
        let tall = kind == Some(FileKind::File) || sb.incompat & LARGEDIR != 0;
        let node = Node {
            inode: u64::from(number),
            generation,
            kind,
            mode,
            uid: u32::from(fields.u16(2)?) | u32::from(fields.u16(0x78)?) << 16,
            gid: u32::from(fields.u16(0x18)?) | u32::from(fields.u16(0x7a)?) << 16,
            size: u64::from(fields.u32(4)?) | if tall { u64::from(fields.u32(0x6c)?) << 32 } else { 0 },
            links: if mode == 0 { 0 } else { u32::from(fields.u16(0x1a)?) },
            times: times(&fields, reach)?,
            allocated: false,
            facts: Vec::new(),
            odd,
        };
        let sectors = u64::from(fields.u32(0x1c)?) | u64::from(fields.u16(0x74)?) << 32;
        let sectors = if flags & HUGE_FILE != 0 { sectors.saturating_mul(sb.block_size / 512) } else { sectors };
        let acl = u64::from(fields.u32(0x68)?) | u64::from(fields.u16(0x76)?) << 32;
        Ok(Self { node, flags, block: fields.array(0x28)?, acl, sectors, extra: reach, seed, raw })
    }

    /// What else the inode itself tells: only those who ask for one file want to know.
    pub(super) fn facts(&self) -> Vec<(String, String)> {
        let set = FLAGS.iter().filter(|(bit, _)| self.has(*bit)).map(|(_, name)| *name).collect::<Vec<_>>();
        let generation = self.node.generation.to_string();
        vec![("flags".to_owned(), set.join(" ")), ("generation".to_owned(), generation)]
    }

    pub(super) fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    /// A link short enough to stand in the inode itself.
    pub(super) fn fast_link(&self, cluster_sectors: u64) -> bool {
        let own = if self.acl == 0 { 0 } else { cluster_sectors };
        self.node.kind == Some(FileKind::Link)
            && self.node.size < 60
            && !self.has(INLINE_DATA)
            && self.sectors.saturating_sub(own) == 0
    }
}

/// The checksum over all of it, its own two halves counted as zero.
fn sound(seed: u32, raw: &[u8], extra_size: u16) -> bool {
    let part = |from: usize, to: usize| raw.get(from..to).unwrap_or_default();
    let half = |at: usize| part(at, at + 2).iter().rev().fold(0_u32, |value, byte| value << 8 | u32::from(*byte));
    let wide = extra_size >= 4 && raw.len() > 128;
    let front = checksum(checksum(seed, part(0, 0x7c)), &[0, 0]);
    if !wide {
        return checksum(front, part(0x7e, raw.len())) & 0xffff == half(0x7c);
    }
    let front = checksum(checksum(front, part(0x7e, 0x82)), &[0, 0]);
    checksum(front, part(0x84, raw.len())) == half(0x7c) | half(0x82) << 16
}
