//! The label of a physical volume and the areas that hold the text of its volume group.
//!
//! Layout: LVM2's `lib/format_text/layout.h` (`struct label_header`, `pv_header`, `mda_header`, `raw_locn`); all little-endian.
//! The text stands in a ring: it may go on at the front of its area.

use crate::disk::us;
use crate::image::fields::{Fields, read_structure};
use crate::image::{ReadAt, ReadError};

const SECTOR: usize = 512;
/// The label stands in one of the first four sectors.
const SECTORS: u64 = 4;
/// Entries of a list of areas that are followed; LVM writes at most two.
const AREAS: usize = 16;
const AREA_MAGIC: &[u8; 16] = b" LVM2 x[5A%r0N*>";
/// The longest text that is read, in bytes: about 20 000 logical volumes.
const LONGEST: u64 = 8 << 20;
/// A text with this flag is not to be used.
const IGNORED: u32 = 1;

/// What a label tells.
pub(super) struct Label {
    /// The UUID without its hyphens.
    pub(super) uuid: String,
    /// Length of the device, as LVM saw it.
    pub(super) size: u64,
    /// Where metadata areas are: first byte, length.
    pub(super) areas: Vec<(u64, u64)>,
}

/// CRC-32 as LVM starts it; the result is not inverted.
fn checksum(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(!0xf597_a6cf);
    hasher.update(bytes);
    !hasher.finalize()
}

/// Finds the label.
pub(super) fn read(pv: &dyn ReadAt) -> Result<Label, ReadError> {
    let mut damage = None;
    for sector in 0..SECTORS {
        let at = sector * SECTOR as u64;
        let bytes = read_structure(pv, "LVM label", at, SECTOR)?;
        if !bytes.starts_with(b"LABELONE") {
            continue;
        }
        match label(&Fields::new("LVM label", at, &bytes), sector) {
            Ok(label) => return Ok(label),
            Err(error) => damage = Some(error),
        }
    }
    Err(damage.unwrap_or_else(|| ReadError::corrupt("LVM label", 0, "LABELONE in the first four sectors", "nothing")))
}

fn label(fields: &Fields<'_>, sector: u64) -> Result<Label, ReadError> {
    if fields.slice(24, 8)? != b"LVM2 001" {
        return Err(fields.corrupt(24, "LVM2 001", fields.text(24, 8)?));
    }
    let (own, crc) = (fields.u64(8)?, fields.u32(16)?);
    if own != sector {
        return Err(fields.corrupt(8, format_args!("sector {sector}"), own));
    }
    let found = checksum(fields.bytes().get(20..).unwrap_or_default());
    if found != crc {
        return Err(fields.corrupt(16, format_args!("checksum {crc:#010x}"), format_args!("{found:#010x}")));
    }
    let at = us(u64::from(fields.u32(20)?));
    let uuid = fields.text(at, 32)?;
    let size = fields.u64(at.saturating_add(32))?;
    let (_, next) = areas(fields, at.saturating_add(40))?;
    let (areas, _) = areas(fields, next)?;
    Ok(Label { uuid, size, areas })
}

/// A list of areas, and where the next one begins.
fn areas(fields: &Fields<'_>, mut at: usize) -> Result<(Vec<(u64, u64)>, usize), ReadError> {
    let mut all = Vec::new();
    for _ in 0..AREAS {
        let (from, len) = (fields.u64(at)?, fields.u64(at.saturating_add(8))?);
        at = at.saturating_add(16);
        if from == 0 && len == 0 {
            return Ok((all, at));
        }
        all.push((from, len));
    }
    Err(fields.corrupt(at, format_args!("at most {AREAS} areas"), "more"))
}

/// The text in a metadata area; none if the area is empty or not in use.
pub(super) fn text(pv: &dyn ReadAt, (area, len): (u64, u64)) -> Result<Option<Vec<u8>>, ReadError> {
    let bytes = read_structure(pv, "LVM metadata area", area, SECTOR)?;
    let fields = Fields::new("LVM metadata area", area, &bytes);
    let (crc, found) = (fields.u32(0)?, checksum(fields.bytes().get(4..).unwrap_or_default()));
    if found != crc {
        return Err(fields.corrupt(0, format_args!("checksum {crc:#010x}"), format_args!("{found:#010x}")));
    }
    if fields.array::<16>(4)? != *AREA_MAGIC {
        return Err(fields.corrupt(4, "the magic of a metadata area", "something else"));
    }
    let (version, size) = (fields.u32(20)?, fields.u64(32)?);
    if version != 1 {
        return Err(ReadError::unsupported("an LVM metadata area", format!("it has version {version}, known is 1")));
    }
    let (from, wanted) = (fields.u64(40)?, fields.u64(48)?);
    let (crc, flags) = (fields.u32(56)?, fields.u32(60)?);
    if from == 0 || flags & IGNORED != 0 {
        return Ok(None);
    }
    let size = size.min(len);
    if from < SECTOR as u64 || from >= size || wanted > (size - SECTOR as u64).min(LONGEST) {
        let found = format_args!("{wanted} bytes at {from}");
        return Err(fields.corrupt(40, format_args!("a text inside the {size} bytes of the area"), found));
    }
    let first = wanted.min(size - from);
    let mut text = read_structure(pv, "LVM metadata text", area.saturating_add(from), us(first))?;
    if first < wanted {
        let front = area.saturating_add(SECTOR as u64);
        text.extend(read_structure(pv, "LVM metadata text", front, us(wanted - first))?);
    }
    let found = checksum(&text);
    if found != crc {
        let want = format_args!("checksum {crc:#010x}");
        return Err(ReadError::corrupt(
            "LVM metadata text",
            area.saturating_add(from),
            want,
            format_args!("{found:#010x}"),
        ));
    }
    Ok(Some(text))
}
