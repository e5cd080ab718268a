//! The two headers, of which the newer sound one counts, and the two copies of the region table.

use std::ops::Range;

use super::super::shared::chain::guid;
use super::guids::{BAT, METADATA};
use crate::image::fields::{Fields, read_structure};
use crate::image::{Layer, ReadAt, ReadError};

/// Where the copies of the header are.
const HEADERS: [u64; 2] = [64 << 10, 128 << 10];
/// Where the copies of the region table are.
const REGIONS: [u64; 2] = [192 << 10, 256 << 10];
/// The most entries of a region table.
const MOST_REGIONS: u32 = 2047;

/// What of the header matters to a reader.
pub(super) struct Header {
    sequence: u64,
    pub(super) data_write: [u8; 16],
    /// GUID of the log; zero if there is nothing to play back.
    pub(super) log: [u8; 16],
    pub(super) log_range: Range<u64>,
}

impl Header {
    pub(super) fn read(file: &dyn ReadAt, layer: &mut Layer) -> Result<Self, ReadError> {
        let both = HEADERS.map(|at| Self::at(file, at));
        match both {
            [Ok(a), Ok(b)] => Ok(if a.sequence >= b.sequence { a } else { b }),
            [Ok(sound), Err(error)] | [Err(error), Ok(sound)] => {
                // One is damaged whenever a write was cut off; which of them is not told by that.
                layer.odd(format!("one of its two headers is not sound: {error}"));
                Ok(sound)
            }
            [Err(error), Err(_)] => Err(error),
        }
    }

    fn at(file: &dyn ReadAt, at: u64) -> Result<Self, ReadError> {
        const WHAT: &str = "VHDX header";
        let bytes = read_structure(file, WHAT, at, 4096)?;
        let fields = Fields::new(WHAT, at, &bytes);
        signed(&fields, *b"head")?;
        let version = fields.u16(66)?;
        if version != 1 {
            return Err(ReadError::unsupported(format!("VHDX version {version}"), "only version 1 is known"));
        }
        let (len, from) = (u64::from(fields.u32(68)?), fields.u64(72)?);
        let log = fields.array(48)?;
        let end = from.checked_add(len).filter(|end| *end <= file.len() && from % (1 << 20) == 0);
        if log != [0; 16] && end.is_none() {
            let expected = format_args!("a log inside the {:#x} bytes of the file", file.len());
            return Err(fields.corrupt(68, expected, format_args!("{len:#x} bytes at {from:#x}")));
        }
        Ok(Self { sequence: fields.u64(8)?, data_write: fields.array(32)?, log, log_range: from..end.unwrap_or(from) })
    }
}

/// Signature and CRC-32C of a structure whose checksum is in bytes 4 to 8.
pub(super) fn signed(fields: &Fields<'_>, signature: [u8; 4]) -> Result<(), ReadError> {
    let found = fields.array::<4>(0)?;
    if found != signature {
        let expected = String::from_utf8_lossy(&signature).into_owned();
        return Err(fields.corrupt(0, expected, crate::image::hex(&found)));
    }
    let told = fields.u32(4)?;
    let crc = crc32c::crc32c(fields.slice(0, 4)?);
    let crc = crc32c::crc32c_append(crc, &[0; 4]);
    let computed = crc32c::crc32c_append(crc, fields.bytes().get(8..).unwrap_or_default());
    if told != computed {
        return Err(fields.corrupt(4, format_args!("CRC-32C {computed:#010x}"), format_args!("{told:#010x}")));
    }
    Ok(())
}

/// The regions that a reader needs.
pub(super) struct Regions {
    pub(super) bat: Range<u64>,
    pub(super) metadata: Range<u64>,
}

/// The region table, from its first sound copy.
pub(super) fn regions(file: &dyn ReadAt, layer: &mut Layer) -> Result<Regions, ReadError> {
    match REGIONS.map(|at| regions_at(file, at)) {
        [Ok(first), Ok(_)] => Ok(first),
        [Ok(sound), Err(error)] | [Err(error), Ok(sound)] => {
            layer.odd(format!("one of its two region tables is not sound: {error}"));
            Ok(sound)
        }
        [Err(error), Err(_)] => Err(error),
    }
}

fn regions_at(file: &dyn ReadAt, at: u64) -> Result<Regions, ReadError> {
    const WHAT: &str = "VHDX region table";
    let bytes = read_structure(file, WHAT, at, 64 << 10)?;
    let fields = Fields::new(WHAT, at, &bytes);
    signed(&fields, *b"regi")?;
    let count = fields.u32(8)?;
    if count > MOST_REGIONS {
        return Err(fields.corrupt(8, format_args!("at most {MOST_REGIONS} entries"), count));
    }
    let (mut bat, mut metadata) = (None, None);
    for i in 0..usize::try_from(count).unwrap_or(0) {
        let entry = 16 + i * 32;
        let (id, from, len) = (fields.array::<16>(entry)?, fields.u64(entry + 16)?, u64::from(fields.u32(entry + 24)?));
        let end = from.checked_add(len).filter(|end| *end <= file.len() && from >= 1 << 20);
        let Some(end) = end else {
            let expected =
                format_args!("a region behind the first MiB and inside the {:#x} bytes of the file", file.len());
            return Err(fields.corrupt(entry + 16, expected, format_args!("{len:#x} bytes at {from:#x}")));
        };
        match id {
            BAT => bat = Some(from..end),
            METADATA => metadata = Some(from..end),
            _ if fields.u32(entry + 28)? & 1 == 1 => {
                let id = guid(id);
                return Err(ReadError::unsupported(
                    "this VHDX",
                    format!("it requires the region {id}, which is not known"),
                ));
            }
            _ => {}
        }
    }
    match (bat, metadata) {
        (Some(bat), Some(metadata)) => Ok(Regions { bat, metadata }),
        _ => Err(fields.corrupt(16, "a block allocation table and a metadata region", format_args!("{count} others"))),
    }
}
