//! Version 1: sections follow each other, each with a descriptor of 76 bytes before its data.

use super::chunks::{Layout, Table};
use super::segments::Segment;
use super::{Found, Geometry, MOST_HEADER, headers};
use crate::image::fields::{Fields, read_structure};
use crate::image::{ReadAt, ReadError, read_vec};

/// Length of a section descriptor in bytes.
const DESCRIPTOR: u64 = 76;
/// The most sections of one segment.
const SECTIONS: u32 = 1_000_000;
/// The most entries of an error section.
const ERRORS: u64 = 1 << 20;

/// One section.
struct Section {
    kind: String,
    /// Offset of its data.
    at: u64,
    /// Length of its data in bytes.
    len: u64,
    next: u64,
}

/// Reads the sections of one segment.
pub(super) fn read(segment: &Segment, found: &mut Found) -> Result<(), ReadError> {
    let file = segment.bytes.as_ref();
    let mut at = 13;
    let mut sectors_end = None;
    for _ in 0..SECTIONS {
        let section = section(file, at)?;
        match section.kind.as_str() {
            "done" => found.done = true,
            "next" => {}
            "sectors" => sectors_end = Some(section.at + section.len),
            "table" => table(segment, &section, sectors_end.take(), found)?,
            _ => facts(file, &section, found)?,
        }
        if matches!(section.kind.as_str(), "done" | "next") {
            return Ok(());
        }
        if section.next <= at {
            let found = format_args!("{:#x}", section.next);
            return Err(ReadError::corrupt(
                "EWF section descriptor",
                at + 16,
                format_args!("a next section behind {at:#x}"),
                found,
            ));
        }
        at = section.next;
        if at == file.len() {
            found.odd.push(format!("segment {} ends without saying so: the acquisition was cut off", segment.number));
            return Ok(());
        }
    }
    Err(ReadError::corrupt("EWF section descriptor", at, format_args!("at most {SECTIONS} sections"), "more"))
}

/// The descriptor at `at`.
fn section(file: &dyn ReadAt, at: u64) -> Result<Section, ReadError> {
    const WHAT: &str = "EWF section descriptor";
    let bytes = read_structure(file, WHAT, at, 76)?;
    let fields = Fields::new(WHAT, at, &bytes);
    checksum(&fields, 72)?;
    let kind = fields.text(0, 16)?;
    let (next, mut size) = (fields.u64(16)?, fields.u64(24)?);
    // The last section points at itself, and some writers give it no size.
    if matches!(kind.as_str(), "done" | "next") {
        size = size.max(DESCRIPTOR);
    }
    // SMART's own sections have a size of 0 now and then: the next one tells.
    if size == 0 && next > at {
        size = next - at;
    }
    let end = at.checked_add(size).filter(|end| *end <= file.len() && size >= DESCRIPTOR);
    if end.is_none() {
        let expected =
            format_args!("a section of {DESCRIPTOR} bytes or more, inside the {} bytes of the file", file.len());
        return Err(fields.corrupt(24, expected, size));
    }
    Ok(Section { kind, at: at + DESCRIPTOR, len: size - DESCRIPTOR, next })
}

/// Compares the Adler-32 in the four bytes at `at` with that of what is before.
pub(super) fn checksum(fields: &Fields<'_>, at: usize) -> Result<(), ReadError> {
    let (told, computed) = (fields.u32(at)?, simd_adler32::adler32(&fields.slice(0, at)?));
    if told != computed {
        return Err(fields.corrupt(at, format_args!("Adler-32 {computed:#010x}"), format_args!("{told:#010x}")));
    }
    Ok(())
}

/// A table of chunks. Its entries are read when they are needed.
fn table(segment: &Segment, section: &Section, sectors_end: Option<u64>, found: &mut Found) -> Result<(), ReadError> {
    const WHAT: &str = "EWF table section";
    let head = read_structure(segment.bytes.as_ref(), WHAT, section.at, 24)?;
    let fields = Fields::new(WHAT, section.at, &head);
    checksum(&fields, 20)?;
    let (count, base) = (u64::from(fields.u32(0)?), fields.u64(8)?);
    if count * 4 > section.len.saturating_sub(24) {
        return Err(fields.corrupt(0, format_args!("entries inside the {} bytes of the section", section.len), count));
    }
    let first = found.tables.last().map_or(0, |table| table.first + table.count);
    // The entries have a checksum of their own, except in SMART's form, where the chunks follow in this section.
    let rest = section.len - 24 - count * 4;
    let layout = Layout::E01 { base, end: sectors_end.unwrap_or(section.at + section.len), checked: rest == 4 };
    let file = usize::try_from(segment.number.saturating_sub(1)).unwrap_or(usize::MAX);
    if count > 0 {
        found.tables.push(Table { first, count, file, entries: section.at + 24, layout });
    }
    Ok(())
}

/// Everything that is not where the chunks are.
fn facts(file: &dyn ReadAt, section: &Section, found: &mut Found) -> Result<(), ReadError> {
    match section.kind.as_str() {
        "volume" | "disk" | "data" if section.len > 0 => volume(file, section, found),
        "header" | "header2" => header(file, section, found),
        "hash" => digests(file, section, &[("md5", 0, 16)], 32, found),
        "digest" => digests(file, section, &[("md5", 0, 16), ("sha1", 16, 20)], 76, found),
        "error2" => errors(file, section, found),
        _ => Ok(()),
    }
}

fn volume(file: &dyn ReadAt, section: &Section, found: &mut Found) -> Result<(), ReadError> {
    const WHAT: &str = "EWF volume section";
    let smart = section.len < 1052;
    let len = if smart { 94 } else { 1052 };
    let bytes = read_structure(file, WHAT, section.at, len)?;
    let fields = Fields::new(WHAT, section.at, &bytes);
    checksum(&fields, len - 4)?;
    let sectors = if smart { fields.u32(16)?.into() } else { fields.u64(16)? };
    let (chunk, sector) = (fields.u32(8)?.into(), fields.u32(12)?.into());
    found.geometry(Geometry { at: section.at, sectors, sector, chunk })?;
    if !smart {
        let medium = match fields.u8(0)? {
            0 => "removable",
            1 => "fixed",
            3 => "optical",
            0x0e => "logical files",
            0x10 => "memory",
            _ => "unknown",
        };
        found.fact("medium", medium);
        found.fact("error granularity", fields.u32(56)?);
        let guid = fields.slice(64, 16)?;
        if guid.iter().any(|&byte| byte != 0) {
            found.fact("set", crate::image::hex(guid));
        }
    }
    Ok(())
}

fn header(file: &dyn ReadAt, section: &Section, found: &mut Found) -> Result<(), ReadError> {
    let packed = usize::try_from(section.len).ok().filter(|len| *len <= MOST_HEADER);
    let Some(packed) = packed else {
        return Err(ReadError::corrupt(
            "EWF header section",
            section.at,
            format_args!("at most {MOST_HEADER} bytes"),
            section.len,
        ));
    };
    let text = headers::inflate(&read_vec(file, section.at, packed)?, section.at)?;
    headers::facts(&text, found);
    Ok(())
}

fn digests(
    file: &dyn ReadAt,
    section: &Section,
    which: &[(&'static str, usize, usize)],
    checked: usize,
    found: &mut Found,
) -> Result<(), ReadError> {
    const WHAT: &str = "EWF digest section";
    let bytes = read_structure(file, WHAT, section.at, checked + 4)?;
    let fields = Fields::new(WHAT, section.at, &bytes);
    checksum(&fields, checked)?;
    for (algorithm, at, len) in which {
        found.digest(algorithm, fields.slice(*at, *len)?);
    }
    Ok(())
}

/// Ranges of sectors that could not be read: a header of 520 bytes, then pairs of first sector and count.
fn errors(file: &dyn ReadAt, section: &Section, found: &mut Found) -> Result<(), ReadError> {
    const WHAT: &str = "EWF error section";
    let head = read_structure(file, WHAT, section.at, 4)?;
    let fields = Fields::new(WHAT, section.at, &head);
    let count = u64::from(fields.u32(0)?);
    if count > ERRORS || count * 8 > section.len.saturating_sub(520) {
        return Err(fields.corrupt(0, format_args!("entries inside the {} bytes of the section", section.len), count));
    }
    let bytes = read_structure(file, WHAT, section.at + 520, usize::try_from(count * 8).unwrap_or(0))?;
    let fields = Fields::new(WHAT, section.at + 520, &bytes);
    for i in 0..usize::try_from(count).unwrap_or(0) {
        let (first, sectors) = (u64::from(fields.u32(i * 8)?), u64::from(fields.u32(i * 8 + 4)?));
        found.unread.push((first, sectors));
    }
    Ok(())
}
