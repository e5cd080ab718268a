//! The metadata of a `.vmsn` or `.vmss` file: groups of tags.
//!
//! Twelve bytes of header (magic, version, number of groups), 80 bytes a group (name, position, size), then in each group
//! tags: a word of lengths, the name, indexes, the value. Blocks carry their lengths in eight bytes each and are padded. There
//! is no public specification; this is what Volatility, crash and VMware's own vmss2core agree on.

use crate::image::fields::{Fields, read_structure};
use crate::image::{ReadAt, ReadError, read_vec};

/// Most tags of a group that are looked at.
const TAGS: usize = 1 << 20;
/// Most groups.
const GROUPS: u32 = 4096;
/// Longest value that is read; longer ones are skipped.
const VALUE: u64 = 64;

/// The magic numbers, and what each says.
pub(super) const MAGICS: [(u32, &str); 6] = [
    (0xbed0_bed0, "old, 32-bit"),
    (0xbed1_bed1, "version 1"),
    (0xbed2_bed2, "whole"),
    (0xbed3_bed3, "partial: memory in a file of its own"),
    (0xbad1_bad1, "restored"),
    (0xbad2_bad2, "not restored"),
];

/// A group of tags.
#[derive(Debug, Clone)]
pub(super) struct Group {
    pub(super) name: String,
    at: u64,
    /// Lengths of blocks take four bytes in the oldest files.
    narrow: bool,
}

/// What a tag carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// A number or a few bytes.
    Bytes(Vec<u8>),
    /// A block: where it is, how long, and if it is compressed.
    Block { at: u64, len: u64, compressed: bool },
}

impl Value {
    /// The number, little-endian.
    pub(super) fn number(&self) -> Option<u64> {
        match self {
            Self::Bytes(bytes) if bytes.len() <= 8 => {
                Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
            }
            _ => None,
        }
    }
}

/// One tag.
#[derive(Debug, Clone)]
pub(super) struct Tag {
    pub(super) name: String,
    pub(super) index: Vec<u32>,
    pub(super) value: Value,
}

/// Is this one of the magic numbers?
pub(super) fn known(magic: u32) -> Option<&'static str> {
    MAGICS.iter().find(|(known, _)| *known == magic).map(|(_, about)| *about)
}

/// The groups of a file.
pub(super) fn groups(file: &dyn ReadAt) -> Result<Vec<Group>, ReadError> {
    const WHAT: &str = "vmsn header";
    let head = read_structure(file, WHAT, 0, 12)?;
    let fields = Fields::new(WHAT, 0, &head);
    let (magic, count) = (fields.u32(0)?, fields.u32(8)?);
    if known(magic).is_none() {
        return Err(fields.corrupt(0, "a magic number of a .vmsn file", format_args!("{magic:#010x}")));
    }
    if count == 0 || count > GROUPS {
        return Err(fields.corrupt(8, format_args!("1 to {GROUPS} groups"), count));
    }
    let bytes = read_structure(file, "vmsn group table", 12, usize::try_from(count).unwrap_or(0) * 80)?;
    let mut groups = Vec::new();
    for (index, part) in bytes.chunks_exact(80).enumerate() {
        let fields = Fields::new("vmsn group", 12 + index as u64 * 80, part);
        let at = fields.u64(64)?;
        if at >= file.len() {
            let expected = format_args!("a position inside the {:#x} bytes of the file", file.len());
            return Err(fields.corrupt(64, expected, format_args!("{at:#x}")));
        }
        groups.push(Group { name: fields.text(0, 64)?, at, narrow: magic == 0xbed0_bed0 });
    }
    Ok(groups)
}

/// Walks the tags of a group.
pub(super) fn walk(file: &dyn ReadAt, group: &Group, mut take: impl FnMut(Tag)) -> Result<(), ReadError> {
    const WHAT: &str = "vmsn tag";
    let mut at = group.at;
    for _ in 0..TAGS {
        let word = read_structure(file, WHAT, at, 2)?;
        let word = Fields::new(WHAT, at, &word).u16(0)?;
        if word == 0 {
            return Ok(());
        }
        let (name_len, indexes) = (usize::from(word >> 8), usize::from(word >> 6 & 3));
        let head = read_structure(file, WHAT, at + 2, name_len + indexes * 4)?;
        let fields = Fields::new(WHAT, at + 2, &head);
        let name = fields.text(0, name_len)?;
        let index = (0..indexes).map(|i| fields.u32(name_len + i * 4)).collect::<Result<_, _>>()?;
        let value_at = at + 2 + head.len() as u64;
        let (value, next) = value(file, value_at, word & 63, group.narrow)?;
        at = next;
        take(Tag { name, index, value });
    }
    Err(ReadError::corrupt(WHAT, at, format_args!("at most {TAGS} tags in the group {}", group.name), "more"))
}

/// The value at `at`, and where the next tag is.
fn value(file: &dyn ReadAt, at: u64, size: u16, narrow: bool) -> Result<(Value, u64), ReadError> {
    const WHAT: &str = "vmsn block";
    if size < 62 {
        let bytes = read_structure(file, WHAT, at, usize::from(size))?;
        return Ok((Value::Bytes(bytes), at + u64::from(size)));
    }
    let word = if narrow { 4 } else { 8 };
    let head = read_structure(file, WHAT, at, word * 2 + 2)?;
    let fields = Fields::new(WHAT, at, &head);
    let len = if narrow { fields.u32(0)?.into() } else { fields.u64(0)? };
    let begin = at + head.len() as u64 + u64::from(fields.u16(word * 2)?);
    let Some(end) = begin.checked_add(len).filter(|end| *end <= file.len()) else {
        let expected = format_args!("a block that ends before the file does, at {:#x}", file.len());
        return Err(fields.corrupt(0, expected, format_args!("{len:#x} bytes at {begin:#x}")));
    };
    let compressed = size == 62;
    let value = if !compressed && len <= VALUE {
        Value::Bytes(read_vec(file, begin, usize::try_from(len).unwrap_or(0))?)
    } else {
        Value::Block { at: begin, len, compressed }
    };
    Ok((value, end))
}
