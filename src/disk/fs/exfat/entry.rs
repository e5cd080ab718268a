//! Sets of directory entries: file, stream extension, names. exFAT specification, sections 6 and 7.
//!
//! Deleting clears one bit of each entry of a set and nothing else, so a deleted set is read like a live one, and its checksum
//! still says whether it is whole.

use jiff::Timestamp;

use crate::disk::fs::clusters::Shape;
use crate::disk::fs::clusters::record::{Reader, Record, Records, attributes, dos_time, utf16};
use crate::disk::fs::{FileKind, Times};
use crate::image::ReadError;
use crate::image::fields::Fields;

/// The bit that says that an entry is in use.
const IN_USE: u8 = 0x80;
pub(super) const FILE: u8 = 0x05;
const STREAM: u8 = 0x40;
const NAME: u8 = 0x41;
const DIRECTORY: u16 = 0x10;
/// The most entries behind the first.
const SECONDARY: u8 = 18;

/// Reads the entries of a directory.
pub(super) struct Entries {
    shape: Shape,
    deleted: bool,
    ended: bool,
    /// The set that is being read: where it stands, its bytes, how many entries it says it has.
    set: Vec<[u8; 32]>,
    at: u64,
    len: usize,
}

impl Entries {
    pub(super) fn new(shape: Shape, deleted: bool) -> Self {
        Self { shape, deleted, ended: false, set: Vec::new(), at: 0, len: 0 }
    }

    /// The record of a set that is complete, or cut.
    fn record(&mut self) -> Result<Option<Record>, ReadError> {
        let set = std::mem::take(&mut self.set);
        let raw = set.as_flattened();
        let fields = Fields::new("exFAT entry set", self.at, raw);
        let live = fields.u8(0)? & IN_USE != 0;
        let mut odd = Vec::new();
        if set.len() < self.len {
            odd.push(format!("its set has {} entries of {}", set.len(), self.len));
        } else if checksum(raw) != fields.u16(2)? {
            odd.push("the checksum of its entry set does not fit".to_owned());
        }
        let has_stream = raw.len() >= 64 && fields.u8(32)? & !IN_USE == STREAM;
        let doubtful = !live || self.ended;
        if has_stream && (odd.is_empty() || !doubtful) {
            return self.parse(&fields, live, odd).map(Some);
        }
        // Deleted sets are overwritten piece by piece: what does not fit together tells nothing.
        if doubtful {
            Ok(None)
        } else {
            Err(fields.corrupt(0, "a set of file, stream and name entries", odd.join(", ")))
        }
    }

    /// Reads a set that has what belongs into one.
    fn parse(&self, fields: &Fields<'_>, live: bool, mut odd: Vec<String>) -> Result<Record, ReadError> {
        let name = name_of(fields, usize::from(fields.u8(35)?))?;
        let bits = fields.u16(4)?;
        let mut facts = vec![("attributes".to_owned(), attributes(bits))];
        let times = times(fields, &mut facts, &mut odd)?;
        let (valid, first, size) = (fields.u64(40)?, fields.u32(52)?, fields.u64(56)?);
        if valid > size {
            odd.push(format!("{valid} bytes of it were written, and it has {size}"));
        } else if valid < size {
            facts.push(("bytes written".to_owned(), valid.to_string()));
        }
        if first != 0 && !self.shape.has(first) {
            odd.push(format!("it begins at cluster {first}, and there are {}", self.shape.clusters));
        }
        Ok(Record {
            at: self.at,
            name,
            kind: if bits & DIRECTORY != 0 { FileKind::Directory } else { FileKind::File },
            live: live && !self.ended,
            source: match (self.ended, live) {
                (true, _) => "behind the end of the directory",
                (false, true) => "directory",
                (false, false) => "deleted entry set",
            },
            first: if size == 0 { 0 } else { first },
            size,
            valid: valid.min(size),
            contiguous: fields.u8(33)? & 2 != 0,
            times,
            facts,
            odd,
        })
    }
}

impl Reader for Entries {
    fn entry(&mut self, at: u64, raw: &[u8; 32], into: &mut Records) -> bool {
        let kind = raw.first().copied().unwrap_or(0);
        let begun = self.set.first().and_then(|first| first.first()).copied();
        // Secondary entries are in use as their file is.
        let same = begun.is_some_and(|begun| begun & IN_USE == kind & IN_USE);
        if same && kind & 0x40 != 0 && self.set.len() < self.len {
            self.set.push(*raw);
            if self.set.len() == self.len {
                self.cut(into);
            }
            return true;
        }
        self.cut(into);
        if kind == 0 {
            self.ended = true;
            return self.deleted;
        }
        let count = raw.get(1).copied().unwrap_or(0);
        let wanted = kind == FILE | IN_USE && (!self.ended || self.deleted) || kind == FILE && self.deleted;
        if wanted && (2..=SECONDARY).contains(&count) {
            (self.at, self.len) = (at, usize::from(count) + 1);
            self.set.push(*raw);
        } else if kind == FILE | IN_USE && !self.ended {
            into.odd.push(format!("the entry at {at:#x} has {count} more; there should be 2 to {SECONDARY}"));
        }
        true
    }

    fn cut(&mut self, into: &mut Records) {
        if self.set.is_empty() {
            return;
        }
        match self.record() {
            Ok(record) => into.list.extend(record),
            Err(error) => into.odd.push(error.to_string()),
        }
    }
}

/// The checksum of a set as it was when it was in use.
fn checksum(raw: &[u8]) -> u16 {
    let bytes = raw.iter().enumerate().filter(|(at, _)| !matches!(at, 2 | 3));
    bytes.fold(0_u16, |sum, (at, byte)| {
        let byte = if at % 32 == 0 { byte | IN_USE } else { *byte };
        sum.rotate_right(1).wrapping_add(u16::from(byte))
    })
}

fn name_of(fields: &Fields<'_>, len: usize) -> Result<Vec<u8>, ReadError> {
    let mut units = Vec::new();
    for at in (64..fields.bytes().len()).step_by(32) {
        if fields.u8(at)? & !IN_USE != NAME {
            continue;
        }
        for unit in 0..15 {
            units.push(fields.u16(at + 2 + unit * 2)?);
        }
    }
    units.truncate(len);
    Ok(utf16(units))
}

fn times(fields: &Fields<'_>, facts: &mut Vec<(String, String)>, odd: &mut Vec<String>) -> Result<Times, ReadError> {
    let mut time = |what: &str, at: usize, hundredths: u8, zone: u8| -> Result<Option<Timestamp>, ReadError> {
        let (clock, date) = (fields.u16(at)?, fields.u16(at + 2)?);
        // Seven bits with a sign, in quarters of an hour; without the eighth it is local time of nobody knows where.
        let quarters = i32::from((zone << 1).cast_signed() >> 1);
        let offset = if zone & 0x80 == 0 { 0 } else { quarters * 15 };
        let found = dos_time(date, clock, hundredths, offset);
        if found.is_none() && date != 0 {
            odd.push(format!("{what} is no date: {date:#06x} {clock:#06x}"));
        }
        if found.is_some() && zone & 0x80 == 0 {
            facts.push((format!("zone of {what}"), "not told; given as if UTC".to_owned()));
        }
        Ok(found)
    };
    Ok(Times {
        born: time("the time of its making", 8, fields.u8(20)?, fields.u8(22)?)?,
        modified: time("the time of its last change", 12, fields.u8(21)?, fields.u8(23)?)?,
        accessed: time("the time of its last access", 16, 0, fields.u8(24)?)?,
        ..Times::default()
    })
}

/// Does a cluster begin with a whole set, as a directory does? That it goes on with one looks the same.
pub(super) fn begins(_shape: crate::disk::fs::clusters::Shape, _cluster: u32, head: &[u8], _first: bool) -> bool {
    let Some([kind, count, low, high]) = head.first_chunk::<4>() else { return false };
    let set = head.get(..(usize::from(*count) + 1) * 32).unwrap_or_default();
    kind & !IN_USE == FILE
        && (2..=SECONDARY).contains(count)
        && head.get(32).is_some_and(|kind| kind & !IN_USE == STREAM)
        && checksum(set) == u16::from_le_bytes([*low, *high])
}
