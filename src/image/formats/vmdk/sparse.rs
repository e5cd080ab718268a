//! The headers of the three kinds of sparse extents, as one [`Layout`]: hosted (`KDMV`, Virtual Disk Format 1.1, "Hosted
//! Sparse Extents", "Stream-Optimized Compressed Sparse Extents"), COWD ("ESX Server Sparse Extents"), and seSparse, which
//! VMware has not described: the fields are those that QEMU's reader found.

use crate::image::fields::{Fields, read_structure};
use crate::image::{Below, ReadAt, ReadError};

pub(super) const SECTOR: u64 = 512;
/// `KDMV`, `COWD`.
const HOSTED: u32 = 0x564d_444b;
const COWD: u32 = 0x4457_4f43;
const SESPARSE: u64 = 0xcafe_babe;
const SESPARSE_VOLATILE: u64 = 0xcafe_cafe;
/// The only version of seSparse: 2.1.
const SESPARSE_VERSION: u64 = 0x2_0000_0001;
/// The grain directory is at the end.
const AT_END: u64 = u64::MAX;
/// Largest grain in sectors: it may have to be decoded in memory.
const GRAIN_MOST: u64 = 1 << 16;

/// Which of the three.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    Hosted,
    Cowd,
    SeSparse,
}

impl Sort {
    /// By the first bytes of the file.
    pub(super) fn of(head: [u8; 8]) -> Option<Self> {
        let word = u64::from_le_bytes(head);
        match u32::try_from(word & 0xffff_ffff) {
            Ok(HOSTED) => Some(Self::Hosted),
            Ok(COWD) => Some(Self::Cowd),
            _ => (word == SESPARSE).then_some(Self::SeSparse),
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Hosted => "VMDK sparse extent",
            Self::Cowd => "VMDK COWD extent",
            Self::SeSparse => "VMDK seSparse extent",
        }
    }
}

/// Where everything is. Offsets and lengths in bytes.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub(super) sort: Sort,
    pub(super) len: u64,
    pub(super) grain: u64,
    /// Entries of a grain table.
    pub(super) per_table: u64,
    pub(super) directory_at: u64,
    /// Entries of the grain directory.
    pub(super) directory_len: u64,
    pub(super) spare_at: Option<u64>,
    pub(super) compressed: bool,
    pub(super) markers: bool,
    pub(super) zero_grains: bool,
    /// seSparse: where tables and grains begin.
    pub(super) tables_at: u64,
    pub(super) grains_at: u64,
    pub(super) descriptor: Option<(u64, u64)>,
    pub(super) version: u64,
    pub(super) odd: Vec<String>,
}

impl Layout {
    pub(super) fn read(file: &dyn ReadAt, sort: Sort, below: &Below) -> Result<Self, ReadError> {
        let bytes = read_structure(file, sort.name(), 0, 512)?;
        let fields = Fields::new(sort.name(), 0, &bytes);
        let layout = match sort {
            Sort::Hosted if fields.u64(56)? == AT_END => {
                let (at, footer) = footer(file)?;
                let mut layout = Self::hosted(&Fields::new("VMDK footer", at, &footer))?;
                // The descriptor stands at the beginning, whatever the footer says.
                layout.descriptor = place(&fields)?;
                layout
            }
            Sort::Hosted => Self::hosted(&fields)?,
            Sort::Cowd => Self::cowd(&fields)?,
            Sort::SeSparse => Self::sesparse(file, &fields)?,
        };
        below.allow(sort.name(), layout.len)?;
        Ok(layout)
    }

    /// Length of an entry of either table.
    pub(super) fn width(&self) -> u64 {
        if self.sort == Sort::SeSparse { 8 } else { 4 }
    }

    fn hosted(fields: &Fields<'_>) -> Result<Self, ReadError> {
        let (version, flags, compression) = (fields.u32(4)?, fields.u32(8)?, fields.u16(77)?);
        if fields.u32(0)? != HOSTED {
            return Err(fields.corrupt(0, "KDMV", format_args!("{:#010x}", fields.u32(0)?)));
        }
        if !(1..=3).contains(&version) {
            return Err(fields.corrupt(4, "version 1 to 3", version));
        }
        if flags & 1 != 0 && fields.slice(73, 4)? != b"\n \r\n" {
            let found = format_args!("{:02x?}", fields.slice(73, 4)?);
            return Err(fields.corrupt(73, "line ends as they were written (not copied as text)", found));
        }
        if compression > 1 {
            return Err(fields.corrupt(77, "compression 0 or 1", compression));
        }
        let (grain, per_table) = (grain(fields, 20)?, u64::from(fields.u32(44)?));
        if !(1..=4096).contains(&per_table) {
            return Err(fields.corrupt(44, "1 to 4096 entries of a grain table", per_table));
        }
        let len = bytes(fields, 12)?;
        let spare_at = if flags & 2 != 0 && fields.u64(48)? != 0 { Some(bytes(fields, 48)?) } else { None };
        let mut odd = Vec::new();
        if fields.u8(72)? != 0 {
            odd.push("it was not closed (unclean shutdown)".to_owned());
        }
        Ok(Self {
            sort: Sort::Hosted,
            len,
            grain,
            per_table,
            directory_at: bytes(fields, 56)?,
            directory_len: len.div_ceil(grain * per_table),
            spare_at,
            compressed: flags & 0x1_0000 != 0 || compression == 1,
            markers: flags & 0x2_0000 != 0,
            zero_grains: flags & 4 != 0,
            tables_at: 0,
            grains_at: 0,
            descriptor: place(fields)?,
            version: version.into(),
            odd,
        })
    }

    fn cowd(fields: &Fields<'_>) -> Result<Self, ReadError> {
        const PER_TABLE: u64 = 4096;
        let version = fields.u32(4)?;
        if version != 1 {
            return Err(fields.corrupt(4, "version 1", version));
        }
        let grain = u64::from(fields.u32(16)?);
        if !grain.is_power_of_two() || grain > GRAIN_MOST {
            return Err(fields.corrupt(16, format_args!("a grain of 1, 2, 4 … {GRAIN_MOST} sectors"), grain));
        }
        let (len, grain) = (u64::from(fields.u32(12)?) * SECTOR, grain * SECTOR);
        let (needed, there) = (len.div_ceil(grain * PER_TABLE), u64::from(fields.u32(24)?));
        if there < needed {
            return Err(fields.corrupt(24, format_args!("a grain directory of {needed} entries or more"), there));
        }
        Ok(Self {
            sort: Sort::Cowd,
            len,
            grain,
            per_table: PER_TABLE,
            directory_at: u64::from(fields.u32(20)?) * SECTOR,
            directory_len: needed,
            spare_at: None,
            compressed: false,
            markers: false,
            zero_grains: false,
            tables_at: 0,
            grains_at: 0,
            descriptor: None,
            version: version.into(),
            odd: Vec::new(),
        })
    }

    fn sesparse(file: &dyn ReadAt, fields: &Fields<'_>) -> Result<Self, ReadError> {
        let version = fields.u64(8)?;
        if version != SESPARSE_VERSION {
            return Err(fields.corrupt(8, format_args!("version {SESPARSE_VERSION:#x}"), format_args!("{version:#x}")));
        }
        for (field, name, wanted) in [(24, "grain", 8), (32, "grain table", 64)] {
            let found = fields.u64(field)?;
            if found != wanted {
                return Err(fields.corrupt(field, format_args!("a {name} of {wanted} sectors"), found));
            }
        }
        if fields.u64(40)? != 0 {
            let why = format!("it has flags that are not known here ({:#x})", fields.u64(40)?);
            return Err(ReadError::unsupported("this seSparse extent", why));
        }
        let volatile_at = bytes(fields, 80)?;
        let volatile = read_structure(file, "seSparse volatile header", volatile_at, 32)?;
        let volatile = Fields::new("seSparse volatile header", volatile_at, &volatile);
        if volatile.u64(0)? != SESPARSE_VOLATILE {
            let found = format_args!("{:#x}", volatile.u64(0)?);
            return Err(volatile.corrupt(0, format_args!("{SESPARSE_VOLATILE:#x}"), found));
        }
        if volatile.u64(24)? != 0 {
            let why = "its journal must be replayed first, and nobody has described how: open and close it on a host";
            return Err(ReadError::unsupported("this seSparse extent", why));
        }
        let (len, grain, per_table) = (bytes(fields, 16)?, 8 * SECTOR, 4096);
        let (needed, there) = (len.div_ceil(grain * per_table), bytes(fields, 136)? / 8);
        if there < needed {
            return Err(fields.corrupt(136, format_args!("a grain directory of {needed} entries or more"), there));
        }
        Ok(Self {
            sort: Sort::SeSparse,
            len,
            grain,
            per_table,
            directory_at: bytes(fields, 128)?,
            directory_len: needed,
            spare_at: None,
            compressed: false,
            markers: false,
            zero_grains: true,
            tables_at: bytes(fields, 144)?,
            grains_at: bytes(fields, 192)?,
            descriptor: None,
            version,
            odd: Vec::new(),
        })
    }
}

/// A number of sectors, in bytes.
fn bytes(fields: &Fields<'_>, field: usize) -> Result<u64, ReadError> {
    let sectors = fields.u64(field)?;
    let fits = sectors.checked_mul(SECTOR).filter(|&bytes| bytes < 1 << 62);
    fits.ok_or_else(|| fields.corrupt(field, "a number of sectors", format_args!("{sectors:#x}")))
}

fn grain(fields: &Fields<'_>, field: usize) -> Result<u64, ReadError> {
    let sectors = fields.u64(field)?;
    if sectors.is_power_of_two() && sectors <= GRAIN_MOST {
        return Ok(sectors * SECTOR);
    }
    Err(fields.corrupt(field, format_args!("a grain of 1, 2, 4 … {GRAIN_MOST} sectors"), sectors))
}

/// Where the embedded descriptor is, if there is one.
fn place(fields: &Fields<'_>) -> Result<Option<(u64, u64)>, ReadError> {
    let (at, len) = (bytes(fields, 28)?, bytes(fields, 36)?);
    Ok((at != 0).then_some((at, len)))
}

/// The header at the end of a stream-optimized extent, between its markers.
fn footer(file: &dyn ReadAt) -> Result<(u64, Vec<u8>), ReadError> {
    const WHAT: &str = "VMDK footer";
    let short = || ReadError::corrupt(WHAT, 0, "a header, grains and a footer", format_args!("{} bytes", file.len()));
    let at = file.len().checked_sub(3 * SECTOR).filter(|&at| at > 0).ok_or_else(short)?;
    let all = read_structure(file, WHAT, at, 3 * 512)?;
    let fields = Fields::new(WHAT, at, &all);
    if fields.u32(12)? != 3 || fields.u32(8)? != 0 {
        return Err(fields.corrupt(8, "the marker of a footer (the file may be cut)", "something else"));
    }
    if fields.u32(1024 + 8)? != 0 || fields.u32(1024 + 12)? != 0 {
        return Err(fields.corrupt(1024, "the marker of the end of the stream", "something else"));
    }
    Ok((at + SECTOR, fields.slice(512, 512)?.to_vec()))
}
