//! Footer and header (Virtual Hard Disk Image Format Specification, "Hard Disk Footer Format", "Dynamic Disk Header
//! Format"). Big-endian; each carries the complement of the sum of its bytes.

use std::fmt;

use crate::image::fields::{Fields, read_structure};
use crate::image::{Layer, ReadAt, ReadError};

use super::super::shared::chain;

pub(super) const FOOTER: u64 = 512;
const WHAT: &str = "VHD footer";
const COPY: &str = "VHD footer copy";
const HEADER: &str = "VHD header";
/// Length of the header of a dynamic disk.
const HEADER_LEN: usize = 1024;
/// Seconds from 1970 to 2000, where the times of the format begin.
const EPOCH: i64 = 946_684_800;

/// What kind of disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Fixed,
    Dynamic,
    Differencing,
}

/// The footer, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Footer {
    pub(super) kind: Type,
    pub(super) size: u64,
    pub(super) header_at: u64,
    seconds: u32,
    creator: String,
    uuid: [u8; 16],
    saved: bool,
}

/// The header of a dynamic or differencing disk, checked.
pub(super) struct Header {
    pub(super) table_at: u64,
    pub(super) entries: u32,
    pub(super) block: u64,
    pub(super) parent_uuid: [u8; 16],
    pub(super) parent_name: Vec<u8>,
    /// Platform code, byte offset, length in bytes.
    pub(super) locators: Vec<([u8; 4], u64, u32)>,
}

/// The footer at the end; else its copy at the beginning, and what is wrong then.
pub(super) fn read(file: &dyn ReadAt, odd: &mut Vec<String>) -> Result<Footer, ReadError> {
    let at = file.len().saturating_sub(FOOTER);
    let last = one(file, WHAT, at);
    let copy = if at == 0 { None } else { Some(one(file, COPY, 0)) };
    match (last, copy) {
        (Ok(last), Some(Ok(copy))) if last.kind != Type::Fixed && last != copy => {
            odd.push("the footer at the end and its copy at the beginning differ: that at the end was used".to_owned());
            Ok(last)
        }
        (Ok(last), Some(Err(error))) if last.kind != Type::Fixed => {
            odd.push(format!("the copy of the footer is damaged: {error}"));
            Ok(last)
        }
        (Ok(last), _) => Ok(last),
        (Err(error), Some(Ok(copy))) if copy.kind != Type::Fixed => {
            odd.push(format!("the copy of the footer was used, since the last is damaged: {error}"));
            Ok(copy)
        }
        (Err(error), _) => Err(error),
    }
}

fn one(file: &dyn ReadAt, what: &'static str, at: u64) -> Result<Footer, ReadError> {
    let bytes = read_structure(file, what, at, 512)?;
    let fields = Fields::new(what, at, &bytes);
    if fields.slice(0, 8)? != b"conectix" {
        let found = String::from_utf8_lossy(fields.slice(0, 8)?).into_owned();
        return Err(fields.corrupt(0, "conectix", format_args!("{found:?}")));
    }
    checksum(&fields, 64)?;
    if fields.be32(12)? >> 16 != 1 {
        return Err(fields.corrupt(12, "version 1", format_args!("{:#x}", fields.be32(12)?)));
    }
    let kind = match fields.be32(60)? {
        2 => Type::Fixed,
        3 => Type::Dynamic,
        4 => Type::Differencing,
        other => return Err(fields.corrupt(60, "disk type 2, 3 or 4", other)),
    };
    Ok(Footer {
        kind,
        size: fields.be64(48)?,
        header_at: fields.be64(16)?,
        seconds: fields.be32(24)?,
        creator: fields.text(28, 4)?,
        uuid: fields.array(68)?,
        saved: fields.u8(84)? != 0,
    })
}

/// The complement of the sum of all bytes but those of the checksum.
fn checksum(fields: &Fields<'_>, at: usize) -> Result<(), ReadError> {
    let sum = |bytes: &[u8]| bytes.iter().fold(0_u32, |sum, &byte| sum.wrapping_add(byte.into()));
    let wanted = !sum(fields.bytes()).wrapping_sub(sum(fields.slice(at, 4)?));
    let found = fields.be32(at)?;
    if wanted == found {
        return Ok(());
    }
    Err(fields.corrupt(at, format_args!("the checksum {wanted:#010x}"), format_args!("{found:#010x}")))
}

impl Footer {
    pub(super) fn tell(&self, layer: &mut Layer) {
        layer.fact("type", self.kind).fact("virtual size", self.size).fact("creator", self.creator.trim());
        if let Ok(time) = jiff::Timestamp::from_second(EPOCH.saturating_add(self.seconds.into())) {
            layer.fact("created", time);
        }
        layer.fact("uuid", chain::uuid(self.uuid));
        if self.saved {
            layer.odd("it is marked as being in a saved state");
        }
    }

    pub(super) fn header(&self, file: &dyn ReadAt) -> Result<Header, ReadError> {
        let bytes = read_structure(file, HEADER, self.header_at, HEADER_LEN)?;
        let fields = Fields::new(HEADER, self.header_at, &bytes);
        if fields.slice(0, 8)? != b"cxsparse" {
            let found = String::from_utf8_lossy(fields.slice(0, 8)?).into_owned();
            return Err(fields.corrupt(0, "cxsparse", format_args!("{found:?}")));
        }
        checksum(&fields, 36)?;
        let (entries, block) = (fields.be32(28)?, u64::from(fields.be32(32)?));
        if !block.is_power_of_two() || block < 512 {
            return Err(fields.corrupt(32, "a block size of 512, 1024 … bytes", block));
        }
        let mut locators = Vec::new();
        for field in (576..768).step_by(24) {
            locators.push((fields.array(field)?, fields.be64(field + 16)?, fields.be32(field + 8)?));
        }
        Ok(Header {
            table_at: fields.be64(16)?,
            entries,
            block,
            parent_uuid: fields.array(40)?,
            parent_name: fields.slice(64, 512)?.to_vec(),
            locators,
        })
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fixed => "fixed",
            Self::Dynamic => "dynamic",
            Self::Differencing => "differencing",
        })
    }
}
