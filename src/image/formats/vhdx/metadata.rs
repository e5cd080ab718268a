//! The metadata region: sizes, and the names of the parent.

use super::super::shared::chain::guid;
use super::guids::{PAGE83, PARAMETERS, PARENT, PHYSICAL, SECTOR, SIZE};
use super::headers::Regions;
use crate::image::fields::{Fields, read_structure};
use crate::image::{ReadAt, ReadError};

/// The most entries of the table.
const MOST: u16 = 2047;
/// Longest item that is read, in bytes: [MS-VHDX] allows 1 MiB.
const ITEM: u32 = 1 << 20;

/// What the region says.
pub(super) struct Metadata {
    /// Length of the disk in bytes.
    pub(super) size: u64,
    /// Length of a block in bytes.
    pub(super) block: u64,
    /// Length of a logical sector in bytes.
    pub(super) sector: u64,
    /// Blocks stay allocated.
    pub(super) fixed: bool,
    /// Keys and values of the parent locator.
    pub(super) parent: Option<Vec<(String, String)>>,
}

impl Metadata {
    pub(super) fn read(file: &dyn ReadAt, regions: &Regions) -> Result<Self, ReadError> {
        const WHAT: &str = "VHDX metadata table";
        let at = regions.metadata.start;
        let bytes = read_structure(file, WHAT, at, 64 << 10)?;
        let fields = Fields::new(WHAT, at, &bytes);
        if fields.array::<8>(0)? != *b"metadata" {
            return Err(fields.corrupt(0, "`metadata`", crate::image::hex(&fields.array::<8>(0)?)));
        }
        let count = fields.u16(10)?;
        if count > MOST {
            return Err(fields.corrupt(10, format_args!("at most {MOST} entries"), count));
        }
        let (mut parameters, mut size, mut sector, mut parent) = (None, None, None, None);
        for i in 0..usize::from(count) {
            let entry = 32 + i * 32;
            let (from, len) = (fields.u32(entry + 16)?, fields.u32(entry + 20)?);
            let from = at.saturating_add(from.into());
            if len > ITEM || from.saturating_add(len.into()) > regions.metadata.end {
                let expected = format_args!("an item of at most {ITEM} bytes inside the region");
                return Err(fields.corrupt(entry + 16, expected, format_args!("{len} bytes at {from:#x}")));
            }
            let item = || read_structure(file, "VHDX metadata item", from, usize::try_from(len).unwrap_or(0));
            match fields.array::<16>(entry)? {
                PARAMETERS => parameters = Some((from, item()?)),
                SIZE => size = Some((from, item()?)),
                SECTOR => sector = Some((from, item()?)),
                PARENT => parent = Some((from, item()?)),
                PHYSICAL | PAGE83 => {}
                id if fields.u32(entry + 24)? & 4 != 0 => {
                    let why = format!("it requires the item {}, which is not known", guid(id));
                    return Err(ReadError::unsupported("this VHDX", why));
                }
                _ => {}
            }
        }
        let missing = || fields.corrupt(32, "file parameters, disk size and sector size", "not all of them");
        let (Some(parameters), Some(size), Some(sector)) = (parameters, size, sector) else { return Err(missing()) };
        Self::check(&parameters, &size, &sector, parent)
    }

    fn check(
        parameters: &(u64, Vec<u8>),
        size: &(u64, Vec<u8>),
        sector: &(u64, Vec<u8>),
        parent: Option<(u64, Vec<u8>)>,
    ) -> Result<Self, ReadError> {
        let fields = Fields::new("VHDX file parameters", parameters.0, &parameters.1);
        let (block, flags) = (u64::from(fields.u32(0)?), fields.u32(4)?);
        if !block.is_power_of_two() || !(1 << 20..=256 << 20).contains(&block) {
            return Err(fields.corrupt(0, "a block of 1 to 256 MiB, a power of two", block));
        }
        let fields = Fields::new("VHDX logical sector size", sector.0, &sector.1);
        let sector = u64::from(fields.u32(0)?);
        if !matches!(sector, 512 | 4096) {
            return Err(fields.corrupt(0, "512 or 4096", sector));
        }
        let fields = Fields::new("VHDX virtual disk size", size.0, &size.1);
        let size = fields.u64(0)?;
        // The specification's own bound, 64 TiB, keeps the table small.
        if size % sector != 0 || size > 64 << 40 {
            return Err(fields.corrupt(0, format_args!("whole sectors of {sector} bytes, at most 64 TiB"), size));
        }
        let parent = match (flags & 2 != 0, parent) {
            (false, _) => None,
            (true, None) => {
                return Err(ReadError::corrupt("VHDX metadata table", parameters.0, "a parent locator", "none"));
            }
            (true, Some((at, bytes))) => Some(locator(&Fields::new("VHDX parent locator", at, &bytes))?),
        };
        Ok(Self { size, block, sector, fixed: flags & 1 != 0, parent })
    }
}

/// Keys and values of a parent locator, which are UTF-16.
fn locator(fields: &Fields<'_>) -> Result<Vec<(String, String)>, ReadError> {
    let count = usize::from(fields.u16(18)?);
    let text = |at: usize, len: usize| -> Result<String, ReadError> {
        let units =
            fields.slice(at, len)?.chunks_exact(2).map(|pair| u16::from_le_bytes(pair.try_into().unwrap_or_default()));
        Ok(char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect())
    };
    let mut pairs = Vec::with_capacity(count.min(64));
    for i in 0..count {
        let entry = 20 + i * 12;
        let offset = |at: usize| fields.u32(at).map(|offset| usize::try_from(offset).unwrap_or(usize::MAX));
        let key = text(offset(entry)?, fields.u16(entry + 8)?.into())?;
        pairs.push((key, text(offset(entry + 4)?, fields.u16(entry + 10)?.into())?));
    }
    Ok(pairs)
}
