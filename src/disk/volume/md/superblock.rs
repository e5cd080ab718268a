//! Superblocks of Linux software RAID, versions 0.90 and 1.0 to 1.2.
//!
//! Layout: Linux's `include/uapi/linux/raid/md_p.h` (`mdp_super_t`, `struct mdp_superblock_1`). 0.90 is in the byte order of the
//! machine that wrote it; only little-endian ones are read. Places: 0.90 in the last 64 KiB that are aligned to 64 KiB, 1.0 in
//! the last 8 KiB aligned to 4 KiB, 1.1 at the front, 1.2 at 4 KiB.

use crate::disk::us;
use crate::image::fields::{Fields, read_structure};
use crate::image::{ReadAt, ReadError, hex};

const MAGIC: u32 = 0xa92b_4efc;
const SECTOR: u64 = 512;
/// Bytes of a version 1 superblock in front of the roles.
const FIXED: usize = 256;
/// The most devices of an array (`MD_SB_DISKS` is 27; version 1 allows 1920).
const DEVICES: u32 = 1920;
/// Features of version 1: data is being recovered onto this member; the array is changing its shape.
const RECOVERING: u32 = 2;
const RESHAPING: u32 = 4;

/// What a member is to its array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Active(u32),
    Spare,
    Faulty,
    Journal,
}

/// What a superblock tells.
pub(super) struct Superblock {
    /// `0.90`, `1.2`.
    pub(super) version: &'static str,
    /// UUID of the array, as hex.
    pub(super) uuid: String,
    pub(super) name: String,
    /// 1 is RAID 1; -1 is linear.
    pub(super) level: i32,
    /// Devices of the array.
    pub(super) devices: u32,
    /// Bytes of a chunk; 0 where there are none.
    pub(super) chunk: u64,
    pub(super) role: Role,
    /// Counts the changes of the array's state; members that agree are of the same time.
    pub(super) events: u64,
    /// First byte of data.
    pub(super) data_at: u64,
    /// Bytes of data on this member.
    pub(super) data_len: u64,
    /// Bytes of each member that an array of redundancy uses.
    pub(super) size: u64,
    /// All of its data is as new as its events say.
    pub(super) settled: bool,
    /// Minor number, as 0.90 keeps it.
    pub(super) minor: Option<u32>,
    pub(super) odd: Option<String>,
}

impl Superblock {
    pub(super) fn level_name(&self) -> String {
        match self.level {
            -1 => "linear".to_owned(),
            -4 => "multipath".to_owned(),
            -5 => "faulty".to_owned(),
            level => format!("raid{level}"),
        }
    }

    pub(super) fn role_name(&self) -> String {
        match self.role {
            Role::Active(role) => format!("role {role} of {}", self.devices),
            Role::Spare => "spare".to_owned(),
            Role::Faulty => "faulty".to_owned(),
            Role::Journal => "journal".to_owned(),
        }
    }
}

/// Finds the superblock.
pub(super) fn read(member: &dyn ReadAt) -> Result<Superblock, ReadError> {
    let end = member.len();
    let last = (end & !0xfff).checked_sub(0x2000);
    let mut damage = None;
    for (version, at) in [("1.1", Some(0)), ("1.2", Some(4096)), ("1.0", last)] {
        let Some(at) = at.filter(|at| is(member, *at)) else { continue };
        match one(member, version, at) {
            Ok(found) => return Ok(found),
            Err(error) => damage = Some(error),
        }
    }
    let old = (end & !0xffff).checked_sub(0x1_0000).filter(|at| is(member, *at));
    match (old, damage) {
        (Some(at), _) => ninety(member, at),
        (None, Some(damage)) => Err(damage),
        (None, None) => Err(ReadError::corrupt("md superblock", 0, "the magic of md at one of its places", "none")),
    }
}

fn is(member: &dyn ReadAt, at: u64) -> bool {
    let mut magic = [0; 4];
    member.read_at(at, &mut magic).is_ok() && magic == MAGIC.to_le_bytes()
}

/// Version 1 at `at`.
fn one(member: &dyn ReadAt, version: &'static str, at: u64) -> Result<Superblock, ReadError> {
    let fixed = read_structure(member, "md superblock", at, FIXED)?;
    let fields = Fields::new("md superblock", at, &fixed);
    let (major, count) = (fields.u32(4)?, fields.u32(220)?);
    if major != 1 {
        return Err(fields.corrupt(4, "version 1", major));
    }
    if count > DEVICES {
        return Err(fields.corrupt(220, format_args!("at most {DEVICES} devices"), count));
    }
    let bytes = read_structure(member, "md superblock", at, FIXED + us(u64::from(count)) * 2)?;
    let fields = Fields::new("md superblock", at, &bytes);
    let (wanted, found) = (fields.u32(216)?, sum(&bytes, 216));
    let odd = (wanted != found).then(|| format!("the checksum of its superblock is {found:#010x}, not {wanted:#010x}"));
    let own = fields.u64(144)?.saturating_mul(SECTOR);
    if own != at {
        return Err(fields.corrupt(144, format_args!("its own place {at:#x}"), format_args!("{own:#x}")));
    }
    let (features, number) = (fields.u32(8)?, us(u64::from(fields.u32(160)?)));
    let role = if number < us(u64::from(count)) { fields.u16(FIXED + number * 2)? } else { 0xffff };
    Ok(Superblock {
        version,
        uuid: hex(fields.slice(16, 16)?),
        name: fields.text(32, 32)?,
        level: i32::from_le_bytes(fields.array(72)?),
        devices: fields.u32(92)?,
        chunk: u64::from(fields.u32(88)?).saturating_mul(SECTOR),
        role: match role {
            0xffff => Role::Spare,
            0xfffe => Role::Faulty,
            0xfffd => Role::Journal,
            role => Role::Active(u32::from(role)),
        },
        events: fields.u64(200)?,
        data_at: fields.u64(128)?.saturating_mul(SECTOR),
        data_len: fields.u64(136)?.saturating_mul(SECTOR),
        size: fields.u64(80)?.saturating_mul(SECTOR),
        settled: features & (RECOVERING | RESHAPING) == 0,
        minor: None,
        odd,
    })
}

/// The sum of all words, folded once; the word at `own` counts as zero.
fn sum(bytes: &[u8], own: usize) -> u32 {
    let mut all = 0_u64;
    for (at, word) in (0..).step_by(4).zip(bytes.chunks(4)) {
        let value = match word {
            [a, b, c, d] => u32::from_le_bytes([*a, *b, *c, *d]),
            [a, b, ..] => u32::from(u16::from_le_bytes([*a, *b])),
            _ => 0,
        };
        all += if at == own { 0 } else { u64::from(value) };
    }
    let folded = (all & 0xffff_ffff) + (all >> 32);
    u32::try_from(folded & 0xffff_ffff).unwrap_or_default()
}

/// Version 0.90 at `at`: words of 32 bits.
fn ninety(member: &dyn ReadAt, at: u64) -> Result<Superblock, ReadError> {
    let bytes = read_structure(member, "md superblock", at, 4096)?;
    let fields = Fields::new("md superblock", at, &bytes);
    let word = |number: usize| fields.u32(number * 4);
    let (major, minor) = (word(1)?, word(2)?);
    if (major, minor) != (0, 90) && (major, minor) != (0, 91) {
        return Err(fields.corrupt(4, "version 0.90", format_args!("{major}.{minor}")));
    }
    let (wanted, found) = (word(38)?, sum(&bytes, 38 * 4));
    let odd = (wanted != found).then(|| format!("the checksum of its superblock is {found:#010x}, not {wanted:#010x}"));
    // The descriptor of this member: number, major, minor, role, state (bit 0 faulty, bit 2 in sync).
    let (role, state) = (word(995)?, word(996)?);
    let role = match (state & 1, state & 4) {
        (1, _) => Role::Faulty,
        (_, 4) => Role::Active(role),
        _ => Role::Spare,
    };
    let uuid: u128 = [5, 13, 14, 15].iter().try_fold(0, |all, n| word(*n).map(|word| all << 32 | u128::from(word)))?;
    let size = u64::from(word(8)?).saturating_mul(1024);
    Ok(Superblock {
        version: "0.90",
        uuid: format!("{uuid:032x}"),
        name: String::new(),
        level: i32::from_le_bytes(fields.array(7 * 4)?),
        devices: word(10)?,
        chunk: u64::from(word(65)?),
        role,
        events: u64::from(word(40)?) << 32 | u64::from(word(39)?),
        data_at: 0,
        data_len: at,
        size,
        // 0.91 is what 0.90 is called while the array changes its shape.
        settled: minor == 90,
        minor: Some(word(11)?),
        odd,
    })
}
