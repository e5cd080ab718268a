//! Version 2: each section's descriptor of 64 bytes stands behind its data, so a segment is read from its end.

use super::chunks::{Layout, Table};
use super::segments::Segment;
use super::{Found, Geometry, MOST_HEADER, e01, headers};
use crate::image::fields::{Fields, read_structure};
use crate::image::{ReadAt, ReadError, read_vec};

/// Length of a section descriptor in bytes.
const DESCRIPTOR: u64 = 64;
/// Length of the file header in bytes.
const HEADER: u64 = 32;
/// The most sections of one segment.
const SECTIONS: usize = 1_000_000;

struct Section {
    kind: u32,
    /// Offset of its data.
    at: u64,
    /// Length of its data in bytes, padding included.
    len: u64,
    padding: u64,
}

/// Reads the sections of one segment.
pub(super) fn read(segment: &Segment, found: &mut Found) -> Result<(), ReadError> {
    let file = segment.bytes.as_ref();
    let head = read_structure(file, "EWF segment header", 0, 32)?;
    let method = Fields::new("EWF segment header", 0, &head).u16(10)?;
    if method > 1 {
        let why = format!("method {method} is not deflate; export it anew with the tool that made it");
        return Err(ReadError::unsupported("an Ex01 image compressed in another way", why));
    }
    let sections = sections(file)?;
    for section in sections.iter().rev() {
        match section.kind {
            0x01 | 0x02 => text(file, section, found)?,
            0x04 => table(segment, section, found)?,
            0x05 => errors(file, section, found)?,
            0x08 => digest(file, section, "md5", 16, found)?,
            0x09 => digest(file, section, "sha1", 20, found)?,
            0x0b => {
                let why = "its keys are not asked for here; decrypt it with the tool that made it";
                return Err(ReadError::unsupported("an encrypted Ex01 image", why));
            }
            0x0f => found.done = true,
            _ => {}
        }
    }
    Ok(())
}

/// The sections, the last one first.
fn sections(file: &dyn ReadAt) -> Result<Vec<Section>, ReadError> {
    const WHAT: &str = "Ex01 section descriptor";
    let mut list = Vec::new();
    let mut at = file.len().saturating_sub(DESCRIPTOR);
    loop {
        let bytes = read_structure(file, WHAT, at, 64)?;
        let fields = Fields::new(WHAT, at, &bytes);
        e01::checksum(&fields, 60)?;
        if fields.u32(4)? & 2 != 0 {
            let why = "its keys are not asked for here; decrypt it with the tool that made it";
            return Err(ReadError::unsupported("an encrypted Ex01 image", why));
        }
        let (previous, len, padding) = (fields.u64(8)?, fields.u64(16)?, u64::from(fields.u32(28)?));
        let begin = at.checked_sub(len).filter(|begin| *begin >= HEADER && padding <= len);
        let Some(begin) = begin else {
            return Err(fields.corrupt(
                16,
                format_args!("data between {HEADER:#x} and {at:#x}"),
                format_args!("{len} bytes"),
            ));
        };
        list.push(Section { kind: fields.u32(0)?, at: begin, len, padding });
        if previous == 0 {
            return Ok(list);
        }
        if previous >= at || list.len() >= SECTIONS {
            return Err(fields.corrupt(8, format_args!("a section before {at:#x}"), format_args!("{previous:#x}")));
        }
        at = previous;
    }
}

fn table(segment: &Segment, section: &Section, found: &mut Found) -> Result<(), ReadError> {
    const WHAT: &str = "Ex01 sector table";
    let head = read_structure(segment.bytes.as_ref(), WHAT, section.at, 32)?;
    let fields = Fields::new(WHAT, section.at, &head);
    e01::checksum(&fields, 16)?;
    let (first, count) = (fields.u64(0)?, u64::from(fields.u32(8)?));
    if count * 16 + 36 > section.len {
        return Err(fields.corrupt(8, format_args!("entries inside the {} bytes of the section", section.len), count));
    }
    let expected = found.tables.last().map_or(0, |table| table.first + table.count);
    if first != expected {
        return Err(fields.corrupt(0, format_args!("first chunk {expected}"), first));
    }
    let file = usize::try_from(segment.number.saturating_sub(1)).unwrap_or(usize::MAX);
    if count > 0 {
        found.tables.push(Table { first, count, file, entries: section.at + 32, layout: Layout::Ex01 });
    }
    Ok(())
}

fn errors(file: &dyn ReadAt, section: &Section, found: &mut Found) -> Result<(), ReadError> {
    const WHAT: &str = "Ex01 error table";
    let head = read_structure(file, WHAT, section.at, 32)?;
    let fields = Fields::new(WHAT, section.at, &head);
    let count = u64::from(fields.u32(0)?);
    if count > 1 << 20 || count * 16 + 36 > section.len {
        return Err(fields.corrupt(0, format_args!("entries inside the {} bytes of the section", section.len), count));
    }
    let bytes = read_structure(file, WHAT, section.at + 32, usize::try_from(count * 16).unwrap_or(0))?;
    let fields = Fields::new(WHAT, section.at + 32, &bytes);
    for i in 0..usize::try_from(count).unwrap_or(0) {
        let (first, sectors) = (fields.u64(i * 16)?, u64::from(fields.u32(i * 16 + 8)?));
        found.unread.push((first, sectors));
    }
    Ok(())
}

fn digest(
    file: &dyn ReadAt,
    section: &Section,
    algorithm: &'static str,
    len: usize,
    found: &mut Found,
) -> Result<(), ReadError> {
    const WHAT: &str = "Ex01 digest section";
    let bytes = read_structure(file, WHAT, section.at, len + 4)?;
    let fields = Fields::new(WHAT, section.at, &bytes);
    e01::checksum(&fields, len)?;
    found.digest(algorithm, fields.slice(0, len)?);
    Ok(())
}

/// Device information (how long the medium is) and case data (who took it).
fn text(file: &dyn ReadAt, section: &Section, found: &mut Found) -> Result<(), ReadError> {
    let len = section.len - section.padding;
    let packed = usize::try_from(len).ok().filter(|len| *len <= MOST_HEADER);
    let Some(packed) = packed else {
        return Err(ReadError::corrupt(
            "Ex01 information",
            section.at,
            format_args!("at most {MOST_HEADER} bytes"),
            len,
        ));
    };
    let text = headers::inflate(&read_vec(file, section.at, packed)?, section.at)?;
    headers::facts(&text, found);
    let mut lines = text.lines().map(|line| line.trim_end_matches('\r')).skip_while(|line| *line != "main").skip(1);
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else { return Ok(()) };
    let value = |name: &str| {
        let found = names.split('\t').zip(values.split('\t')).find(|(known, _)| *known == name);
        found.and_then(|(_, value)| value.parse::<u64>().ok())
    };
    if section.kind == 0x01 {
        // `ts`: sectors of the medium; `bp`: bytes per sector.
        if let (Some(sectors), Some(sector)) = (value("ts"), value("bp")) {
            // Chunks are told by the case data; until then by the default of 64 sectors.
            let chunk = found.per_chunk.unwrap_or(64);
            found.geometry(Geometry { at: section.at, sectors, sector, chunk })?;
        }
    } else if let Some(per_chunk) = value("sb") {
        found.fact("sectors per chunk", per_chunk);
        found.per_chunk = Some(per_chunk);
        if let Some(geometry) = &mut found.geometry {
            geometry.chunk = per_chunk;
            geometry.lengths()?;
        }
    }
    Ok(())
}
