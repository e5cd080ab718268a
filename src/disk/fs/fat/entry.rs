//! Directory entries: short ones, and the long names in front of them. FAT specification 1.03, "Directory Structure" and
//! "Long Directory Implementation".
//!
//! A long name stands in up to 20 entries before its file, the last part first, each with a checksum of the short name.
//! Deleting overwrites the first byte of each with 0xe5: the order of the parts is then that of their places, and the
//! checksum, which differs for every first byte, gives that of the short name back. Parts without their file are a name that
//! was.

use jiff::Timestamp;

use crate::disk::fs::clusters::record::{Reader, Record, Records, attributes, dos_time, utf16};
use crate::disk::fs::clusters::{Shape, Volume};
use crate::disk::fs::{FileKind, Times};
use crate::image::ReadError;
use crate::image::fields::Fields;

const VOLUME_LABEL: u8 = 0x08;
const DIRECTORY: u8 = 0x10;
const LONG: u8 = 0x0f;
const GONE: u8 = 0xe5;
/// The most parts of a long name.
const PARTS: usize = 20;

/// A part of a long name.
struct Part {
    order: u8,
    sum: u8,
    units: [u16; 13],
}

impl Part {
    /// Its text, and whether it ends here.
    fn text(&self) -> (&[u16], bool) {
        match self.units.iter().position(|unit| *unit == 0) {
            Some(end) => (self.units.get(..end).unwrap_or_default(), true),
            None => (&self.units, false),
        }
    }

    fn is_last(&self) -> bool {
        self.text().1 || self.order != GONE && self.order & 0x40 != 0
    }
}

/// Reads the entries of a directory.
pub(super) struct Entries {
    shape: Shape,
    deleted: bool,
    /// Behind the entry that says that none follows.
    ended: bool,
    /// Parts of a long name that wait for their file, in the order of their places.
    parts: Vec<Part>,
}

impl Entries {
    pub(super) fn new(shape: Shape, deleted: bool) -> Self {
        Self { shape, deleted, ended: false, parts: Vec::new() }
    }

    fn part(&mut self, raw: &[u8; 32], into: &mut Records) {
        let mut units = [0; 13];
        let places = (1..11).step_by(2).chain((14..26).step_by(2)).chain((28..32).step_by(2));
        for (unit, at) in units.iter_mut().zip(places) {
            *unit = u16::from_le_bytes([byte(raw, at), byte(raw, at + 1)]);
        }
        let part = Part { order: byte(raw, 0), sum: byte(raw, 13), units };
        let begins = part.order != GONE && part.order & 0x40 != 0;
        let other = self.parts.last().is_some_and(|last| last.sum != part.sum);
        if begins || other || self.parts.len() >= PARTS {
            self.cut(into);
        }
        self.parts.push(part);
    }

    /// The long name of a file, if what waits is one; what is left waits on.
    fn long_name(&mut self, sum: u8) -> Option<Vec<u8>> {
        let (mut units, mut taken, mut whole) = (Vec::new(), 0, false);
        for (part, order) in self.parts.iter().rev().zip(1_u8..) {
            if part.sum != sum || part.order != GONE && part.order & 0x3f != order {
                return None;
            }
            units.extend_from_slice(part.text().0);
            taken += 1;
            // A deleted name that fills its last part has no end of its own: whatever fits belongs to it.
            whole = part.is_last() || part.order == GONE;
            if part.is_last() {
                break;
            }
        }
        if !whole {
            return None;
        }
        self.parts.truncate(self.parts.len() - taken);
        Some(utf16(units))
    }

    /// The first byte with which the short name has this checksum.
    fn first_byte(&self, raw: &[u8; 32]) -> Option<u8> {
        let sum = self.parts.last()?.sum;
        let mut name = short(raw);
        (0x20..=u8::MAX).chain([5]).find(|first| {
            name[0] = *first;
            checksum(&name) == sum
        })
    }

    /// The name of the entry at `at`, and what there is to say of it.
    fn name(&mut self, at: u64, raw: &[u8; 32], into: &mut Records) -> (Vec<u8>, Option<(String, String)>) {
        let gone = byte(raw, 0) == GONE;
        let mut name = short(raw);
        if gone {
            name[0] = self.first_byte(raw).unwrap_or(b'_');
        }
        let plain = display(&name, byte(raw, 12));
        let long = self.long_name(checksum(&name));
        if long.is_none() && !self.parts.is_empty() && !gone {
            into.odd.push(format!("the long name before the entry at {at:#x} is not that of its file"));
        }
        self.cut(into);
        let fact = |name: &str, value: String| Some((name.to_owned(), value));
        match long {
            Some(long) => (long, fact("short name", plain.escape_ascii().to_string())),
            None if gone => (plain, fact("first character", "overwritten when it was deleted".to_owned())),
            None => (plain, None),
        }
    }

    fn record(&mut self, at: u64, raw: &[u8; 32], into: &mut Records) -> Result<(), ReadError> {
        let fields = Fields::new("FAT directory entry", at, raw);
        let gone = byte(raw, 0) == GONE;
        let (name, said) = self.name(at, raw, into);
        let attributes = ("attributes".to_owned(), attributes(u16::from(byte(raw, 11))));
        let facts = std::iter::once(attributes).chain(said).collect();
        let mut odd = Vec::new();
        let times = times(&fields, &mut odd)?;
        let kind = if byte(raw, 11) & DIRECTORY != 0 { FileKind::Directory } else { FileKind::File };
        let high = if self.shape.clusters > 0xfff5 { u32::from(fields.u16(20)?) << 16 } else { 0 };
        let (first, length) = (high | u32::from(fields.u16(26)?), u64::from(fields.u32(28)?));
        if gone && self.shape.clusters > 0xfff5 && high == 0 && first != 0 && kind == FileKind::File {
            odd.push("the upper half of its first cluster is 0: some drivers clear it when they delete".to_owned());
        }
        let size = if kind == FileKind::Directory { 0 } else { length };
        let source = match (self.ended, gone) {
            (true, _) => "behind the end of the directory",
            (false, true) => "deleted entry",
            (false, false) => "directory",
        };
        let live = !gone && !self.ended;
        into.list.push(Record {
            at,
            name,
            kind,
            live,
            source,
            first,
            size,
            valid: size,
            contiguous: false,
            times,
            facts,
            odd,
        });
        Ok(())
    }
}

impl Reader for Entries {
    fn entry(&mut self, at: u64, raw: &[u8; 32], into: &mut Records) -> bool {
        let (first, attr) = (byte(raw, 0), byte(raw, 11));
        if first == 0 {
            self.cut(into);
            self.ended = true;
            return self.deleted;
        }
        if !self.deleted && first == GONE {
            self.parts.clear();
            return true;
        }
        if attr & 0x3f == LONG {
            self.part(raw, into);
            return true;
        }
        let dots = raw.starts_with(b".          ") || raw.starts_with(b"..         ");
        let doubtful = first == GONE || self.ended;
        if dots || attr & VOLUME_LABEL != 0 || doubtful && !plausible(self.shape, raw) {
            self.cut(into);
            return true;
        }
        if let Err(error) = self.record(at, raw, into) {
            into.odd.push(error.to_string());
        }
        true
    }

    /// What still waits is a name without its file.
    fn cut(&mut self, into: &mut Records) {
        let parts = std::mem::take(&mut self.parts);
        let units = parts.iter().rev().flat_map(|part| part.text().0).copied();
        if !self.deleted || parts.is_empty() {
            return;
        }
        into.list.push(Record {
            at: 0,
            name: utf16(units),
            kind: FileKind::File,
            live: false,
            source: "long name without its file",
            first: 0,
            size: 0,
            valid: 0,
            contiguous: false,
            times: Times::default(),
            facts: Vec::new(),
            odd: Vec::new(),
        });
    }
}

/// A byte of an entry.
fn byte(raw: &[u8; 32], at: usize) -> u8 {
    raw.get(at).copied().unwrap_or(0)
}

/// The eleven bytes of the short name.
fn short(raw: &[u8; 32]) -> [u8; 11] {
    let mut name = [b' '; 11];
    name.iter_mut().zip(raw).for_each(|(to, from)| *to = *from);
    name
}

/// The checksum of a short name that its long one carries.
fn checksum(name: &[u8; 11]) -> u8 {
    name.iter().fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte))
}

/// A short name with its dot. Windows NT marks a base or an extension that is shown in lower case.
fn display(name: &[u8; 11], case: u8) -> Vec<u8> {
    let (base, extension) = name.split_at(8);
    let part = |bytes: &[u8], lower: bool| {
        let end = bytes.iter().rposition(|byte| *byte != b' ').map_or(0, |last| last + 1);
        let mut bytes = bytes.get(..end).unwrap_or_default().to_vec();
        if lower {
            bytes.make_ascii_lowercase();
        }
        bytes
    };
    let (mut all, extension) = (part(base, case & 8 != 0), part(extension, case & 0x10 != 0));
    // 0xe5 as a first byte means deleted, so a name that begins with it is written with 5.
    if let Some(first) = all.first_mut().filter(|first| **first == 5) {
        *first = GONE;
    }
    if !extension.is_empty() {
        all.push(b'.');
        all.extend(extension);
    }
    all
}

fn times(fields: &Fields<'_>, odd: &mut Vec<String>) -> Result<Times, ReadError> {
    let mut time = |what: &str, date: u16, clock: u16, hundredths: u8| -> Option<Timestamp> {
        let time = dos_time(date, clock, hundredths, 0);
        if time.is_none() && date != 0 {
            odd.push(format!("{what} is no date: {date:#06x} {clock:#06x}"));
        }
        time
    };
    let born = time("the time of its making", fields.u16(16)?, fields.u16(14)?, fields.u8(13)?);
    let modified = time("the time of its last change", fields.u16(24)?, fields.u16(22)?, 0);
    let accessed = time("the day of the last access", fields.u16(18)?, 0, 0);
    Ok(Times { modified, born, accessed, accessed_day: true, ..Times::default() })
}

/// Could be an entry: for places where anything may stand.
fn plausible(shape: Shape, raw: &[u8; 32]) -> bool {
    let (attr, name) = (byte(raw, 11), short(raw));
    let forbidden = |byte: &u8| *byte < 0x20 || b"\"*+,./:;<=>?[\\]|\x7f".contains(byte);
    let high = if shape.clusters > 0xfff5 { byte(raw, 20) } else { 0 };
    let high = u32::from(high) | if shape.clusters > 0xfff5 { u32::from(byte(raw, 21)) << 8 } else { 0 };
    let first = u32::from(u16::from_le_bytes([byte(raw, 26), byte(raw, 27)])) | high << 16;
    let date = u16::from_le_bytes([byte(raw, 24), byte(raw, 25)]);
    attr & 0xc0 == 0
        && !name.iter().skip(1).any(forbidden)
        && name.get(1..).is_some_and(|rest| byte(raw, 0) != b' ' || rest.iter().any(|byte| *byte != b' '))
        && (first == 0 || shape.has(first))
        && (date == 0 || dos_time(date, 0, 0, 0).is_some())
}

/// Does a cluster begin as a directory does, or go on as one? The first has itself and the one above as its first entries.
pub(super) fn begins(shape: Shape, cluster: u32, head: &[u8], first: bool) -> bool {
    let Some((own, above)) = head.first_chunk::<32>().zip(head.get(32..64)) else { return false };
    if !first {
        return byte(own, 0) != 0 && (byte(own, 11) == LONG || plausible(shape, own));
    }
    let low = u32::from(byte(own, 26)) | u32::from(byte(own, 27)) << 8;
    let high = u32::from(byte(own, 20)) | u32::from(byte(own, 21)) << 8;
    let itself = low == cluster & 0xffff && (shape.clusters <= 0xfff5 || high == cluster >> 16);
    let named = own.starts_with(b".          ") && above.starts_with(b"..         ");
    named && byte(own, 11) & DIRECTORY != 0 && itself
}

/// The label that stands in the root directory, and when it was put there.
pub(super) fn label(volume: &Volume) -> Vec<(String, String)> {
    let mut found = Vec::new();
    volume.each_root_entry(&mut |raw| {
        let (first, attr) = (byte(raw, 0), byte(raw, 11));
        if first != GONE && first != 0 && attr & VOLUME_LABEL != 0 && attr & 0x3f != LONG {
            let name = short(raw);
            found.push(("label (root directory)".to_owned(), name.trim_ascii_end().escape_ascii().to_string()));
            let date = u16::from_le_bytes([byte(raw, 24), byte(raw, 25)]);
            let clock = u16::from_le_bytes([byte(raw, 22), byte(raw, 23)]);
            let time = dos_time(date, clock, 0, 0);
            found.extend(time.map(|time| ("label written".to_owned(), time.to_string())));
        }
        first != 0 && found.is_empty()
    });
    found
}
