//! The change journal, $Extend\$UsnJrnl:$J (Microsoft, USN_RECORD_V2, V3, V4).
//!
//! It is a file that only grows, whose front is given back: the hole there costs nothing. Records do not go over a border
//! of 4 KiB; the rest up to it is zero. What makes no sense is told as an entry `damaged`, and the next page is tried.

use super::info;
use super::record::Reference;
use super::text;
use crate::disk::fs::Change;
use crate::disk::us;
use crate::image::fields::Fields;
use crate::image::{Kind, ReadAt, ReadError, map};

/// Border that no record goes over.
const PAGE: u64 = 4096;
/// Bytes that are read at a time.
const CHUNK: u64 = 1 << 20;

const REASONS: &[(u32, &str)] = &[
    (0x1, "data-overwrite"),
    (0x2, "data-extend"),
    (0x4, "data-truncation"),
    (0x10, "stream-overwrite"),
    (0x20, "stream-extend"),
    (0x40, "stream-truncation"),
    (0x100, "file-create"),
    (0x200, "file-delete"),
    (0x400, "ea-change"),
    (0x800, "security-change"),
    (0x1000, "rename-old-name"),
    (0x2000, "rename-new-name"),
    (0x4000, "indexable-change"),
    (0x8000, "basic-info-change"),
    (0x1_0000, "hard-link-change"),
    (0x2_0000, "compression-change"),
    (0x4_0000, "encryption-change"),
    (0x8_0000, "object-id-change"),
    (0x10_0000, "reparse-point-change"),
    (0x20_0000, "stream-change"),
    (0x40_0000, "transacted-change"),
    (0x80_0000, "integrity-change"),
    (0x100_0000, "desired-storage-class-change"),
    (0x8000_0000, "close"),
];

fn reasons(set: u32) -> String {
    let names: Vec<_> = REASONS.iter().filter(|(bit, _)| set & bit != 0).map(|(_, name)| *name).collect();
    if names.is_empty() { format!("{set:#x}") } else { names.join(" ") }
}

/// Hands every entry of `journal` to `each`, in its order. What cannot be read is told as an entry, too.
pub(super) fn all(
    journal: &dyn ReadAt,
    each: &mut dyn FnMut(Change) -> Result<(), ReadError>,
) -> Result<(), ReadError> {
    let mut buffer = Vec::new();
    for extent in map::walk(journal, 0..journal.len()) {
        let extent = extent?;
        match &extent.kind {
            Kind::Zero => continue,
            Kind::Gap(why) => {
                each(damaged(extent.at, format!("{} bytes: {}", extent.len, crate::image::reason(why))))?;
                continue;
            }
            Kind::Data => {}
        }
        let mut at = extent.at;
        while at < extent.end() {
            // Chunks end at borders of pages.
            let end = (at / CHUNK + 1) * CHUNK;
            let len = us(end.min(extent.end()) - at);
            buffer.resize(len, 0);
            match journal.read_at(at, &mut buffer) {
                Ok(()) => chunk(at, &buffer, each)?,
                Err(error) => each(damaged(at, format!("{len} bytes: {error}")))?,
            }
            at += len as u64;
        }
    }
    Ok(())
}

fn damaged(at: u64, note: String) -> Change {
    Change { at, sequence: at, time: None, kind: "damaged".to_owned(), inode: None, name: None, block: None, note }
}

/// The records of some pages.
fn chunk(at: u64, bytes: &[u8], each: &mut dyn FnMut(Change) -> Result<(), ReadError>) -> Result<(), ReadError> {
    let mut here = 0;
    while here < bytes.len() {
        let place = at + here as u64;
        let to_border = us(PAGE - place % PAGE).min(bytes.len() - here);
        let rest = bytes.get(here..here + to_border).unwrap_or_default();
        let len = Fields::new("USN record", place, rest).u32(0).map_or(0, |len| usize::try_from(len).unwrap_or(0));
        if len == 0 {
            if rest.iter().any(|byte| *byte != 0) {
                each(damaged(place, format!("no record, up to {:#x}", place + to_border as u64)))?;
            }
            here += to_border;
            continue;
        }
        match record(place, rest.get(..len).unwrap_or_default()) {
            Ok(change) => {
                each(change)?;
                here += len;
            }
            Err(error) => {
                each(damaged(place, error.to_string()))?;
                here += to_border;
            }
        }
    }
    Ok(())
}

/// One record: of version 2, 3 (numbers of 128 bits), or 4 (ranges that changed; no time, no name).
fn record(at: u64, bytes: &[u8]) -> Result<Change, ReadError> {
    let fields = Fields::new("USN record", at, bytes);
    let major = fields.u16(4)?;
    let wide = match major {
        2 => 8,
        3 | 4 => 16,
        other => return Err(fields.corrupt(4, "version 2 to 4", other)),
    };
    if !bytes.len().is_multiple_of(8) {
        return Err(fields.corrupt(0, "a length of whole 8 bytes", bytes.len()));
    }
    let (file, parent) = (Reference::of(fields.u64(8)?), Reference::of(fields.u64(8 + wide)?));
    let rest = 8 + 2 * wide;
    let sequence = fields.u64(rest)?;
    let mut note = vec![format!("record {file} parent {parent}")];
    if major == 4 {
        note.push(format!("ranges {}", fields.u16(rest + 20)?));
        let note = note.join(" ");
        let kind = reasons(fields.u32(rest + 8)?);
        return Ok(Change { at, sequence, time: None, kind, inode: Some(file.number), name: None, block: None, note });
    }
    let source = fields.u32(rest + 20)?;
    let attributes = fields.u32(rest + 28)?;
    let name = fields.slice(usize::from(fields.u16(rest + 34)?), usize::from(fields.u16(rest + 32)?))?;
    if attributes != 0 {
        note.push(format!("flags {}", info::flags(attributes).replace(' ', ",")));
    }
    if source != 0 {
        note.push(format!("source {source:#x}"));
    }
    Ok(Change {
        at,
        sequence,
        time: info::time(fields.u64(rest + 8)?),
        kind: reasons(fields.u32(rest + 16)?),
        inode: Some(file.number),
        name: Some(text::name(name)),
        block: None,
        note: note.join(" "),
    })
}
