//! Directory records and their times. ECMA-119, section 9.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::Offset;

use super::descriptor::{SECTOR, both32};
use super::susp::Rock;
use super::{Names, Tree};
use crate::disk::fs::clusters::record::utf16;
use crate::disk::fs::{FileKind, Times};
use crate::disk::us;
use crate::image::fields::{Fields, read_structure};
use crate::image::{ReadError, read_vec};

const DIRECTORY: u8 = 2;
const MORE: u8 = 0x80;
/// The most sections of a file: of 4 GiB each, more than there are blocks.
const SECTIONS: usize = 4096;
/// Bytes of a directory that are read at a time.
const PIECE: u64 = 1 << 16;

/// A section of a file: blocks that follow each other, or are interleaved.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub(super) block: u32,
    /// Bytes.
    pub(super) len: u32,
    /// Blocks in front that hold extended attributes.
    pub(super) attributes: u8,
    pub(super) unit: u8,
    pub(super) gap: u8,
}

/// A file as its directory tells of it.
#[derive(Debug, Clone)]
pub(super) struct Record {
    /// Where it stands on the volume.
    pub(super) at: u64,
    pub(super) name: Vec<u8>,
    pub(super) parts: Vec<Part>,
    pub(super) rock: Rock,
    flags: u8,
    time: Option<Timestamp>,
    /// It stands for the directory itself, or for the one above.
    dots: bool,
    pub(super) facts: Vec<(String, String)>,
    pub(super) odd: Vec<String>,
}

impl Record {
    /// The record at `at`, with the sections that follow it.
    pub(super) fn read(tree: &Tree, at: u64) -> Result<Self, ReadError> {
        let left = us(SECTOR - at % SECTOR);
        let len = read_structure(tree.volume.as_ref(), "ISO 9660 directory record", at, 1)?;
        let len = len.first().map_or(0, |len| usize::from(*len));
        // That of the root in a descriptor has its 34 bytes, wherever it stands.
        if len < 34 || len > left {
            let why = "no directory record stands there";
            return Err(ReadError::caller(format!("read inode {at}"), why));
        }
        let raw = read_vec(tree.volume.as_ref(), at, len)?;
        let mut this = Self::parse(tree, at, &raw)?;
        let mut next = at + len as u64;
        while this.flags & MORE != 0 && this.parts.len() < SECTIONS {
            let Some((place, raw)) = following(tree, next) else { break };
            let more = Self::parse(tree, place, &raw)?;
            next = place + raw.len() as u64;
            if !this.join(&more) {
                break;
            }
        }
        Ok(this)
    }

    /// Adds a further section of the same file; false if it is of another.
    fn join(&mut self, more: &Self) -> bool {
        let fits = self.flags & MORE != 0 && more.name == self.name;
        if fits {
            self.flags = more.flags;
            self.parts.extend(&more.parts);
        } else if self.flags & MORE != 0 {
            self.odd.push("its last section is missing".to_owned());
            self.flags &= !MORE;
        }
        fits
    }

    fn parse(tree: &Tree, at: u64, raw: &[u8]) -> Result<Self, ReadError> {
        let fields = Fields::new("ISO 9660 directory record", at, raw);
        let mut odd = Vec::new();
        let part = Part {
            block: both32(&fields, 2, "its block", &mut odd)?,
            len: both32(&fields, 10, "its length", &mut odd)?,
            attributes: fields.u8(1)?,
            unit: fields.u8(26)?,
            gap: fields.u8(27)?,
        };
        let flags = fields.u8(25)?;
        let len = usize::from(fields.u8(32)?);
        let plain = fields.slice(33, len)?;
        let area = raw.get((33 + len).next_multiple_of(2)..).unwrap_or_default();
        let dots = matches!(plain, b"\0" | b"\x01");
        let rock = match tree.names {
            Names::RockRidge(skip) => {
                // The first record of the root says how much is skipped, and skips nothing itself.
                let skip = if area.starts_with(b"SP") { 0 } else { skip };
                Rock::read(tree, area.get(skip..).unwrap_or_default(), &mut odd)
            }
            Names::Joliet | Names::Plain => Rock::default(),
        };
        let name = match &rock.name {
            Some(name) => name.clone(),
            None => shown(tree.names, plain),
        };
        let mut facts = vec![("flags".to_owned(), words(flags))];
        if name != plain && !dots {
            facts.push(("name in the plain tree".to_owned(), plain.escape_ascii().to_string()));
        }
        facts.extend(rock.facts.iter().cloned());
        let time = short_time(fields.slice(18, 7)?);
        Ok(Self { at, name, parts: vec![part], rock, flags, time, dots, facts, odd })
    }

    /// Bytes of the content.
    pub(super) fn size(&self) -> u64 {
        self.parts.iter().map(|part| u64::from(part.len)).sum()
    }

    pub(super) fn kind(&self) -> FileKind {
        let by_mode = self.rock.posix.and_then(|posix| FileKind::of_mode(posix.mode));
        let directory = self.flags & DIRECTORY != 0 || self.rock.child.is_some();
        match by_mode {
            // What the disc calls a directory is read as one, and nothing else is.
            Some(kind) if (kind == FileKind::Directory) == directory => kind,
            _ if directory => FileKind::Directory,
            _ => FileKind::File,
        }
    }

    pub(super) fn times(&self) -> Times {
        let rock = self.rock.times;
        Times { modified: rock.modified.or(self.time), ..rock }
    }
}

/// The record at `at`, or at the next sector if this one holds no more.
fn following(tree: &Tree, at: u64) -> Option<(u64, Vec<u8>)> {
    for place in [at, at.next_multiple_of(SECTOR)] {
        let mut len = [0; 1];
        tree.volume.read_at(place, &mut len).ok()?;
        let [len] = len.map(usize::from);
        if len >= 34 && len <= us(SECTOR - place % SECTOR) {
            return Some((place, read_vec(tree.volume.as_ref(), place, len).ok()?));
        }
    }
    None
}

impl Tree {
    /// The files of a directory, without itself and the one above; what cannot be read goes to `odd`.
    pub(super) fn list(&self, directory: &Record, odd: &mut Vec<String>) -> Vec<Record> {
        let mut all: Vec<Record> = Vec::new();
        let content = match self.content(directory) {
            Ok(content) => content,
            Err(error) => {
                odd.push(error.to_string());
                return all;
            }
        };
        let Some(base) = self.runs(directory).first().map(|run| run.physical.saturating_mul(self.block)) else {
            return all;
        };
        let mut at = 0;
        while at < content.len() {
            let len = us((content.len() - at).min(PIECE));
            match read_vec(content.as_ref(), at, len) {
                Ok(piece) => self.piece(base.saturating_add(at), &piece, &mut all, odd),
                Err(error) => odd.push(error.to_string()),
            }
            at += PIECE;
        }
        all.retain(|one| !one.dots && !one.rock.relocated);
        all
    }

    fn piece(&self, at: u64, piece: &[u8], into: &mut Vec<Record>, odd: &mut Vec<String>) {
        for (sector, start) in piece.chunks(us(SECTOR)).zip((0_u64..).step_by(us(SECTOR))) {
            let mut here = 0;
            while let Some(len) = sector.get(here).map(|len| usize::from(*len)).filter(|len| *len != 0) {
                let place = at.saturating_add(start + here as u64);
                let raw = sector.get(here..here + len).filter(|raw| raw.len() >= 34);
                let record = raw.map(|raw| Record::parse(self, place, raw));
                match record {
                    Some(Ok(record)) => take(record, into),
                    Some(Err(error)) => odd.push(error.to_string()),
                    None => {
                        odd.push(format!("the directory record at {place:#x} does not fit its sector"));
                        break;
                    }
                }
                here += len;
            }
        }
    }
}

fn take(record: Record, into: &mut Vec<Record>) {
    let more = into.last_mut().is_some_and(|last| last.parts.len() < SECTIONS && last.join(&record));
    if !more {
        into.push(record);
    }
}

/// The name without its version, and without the dot of an empty extension.
fn shown(names: Names, plain: &[u8]) -> Vec<u8> {
    let name = if names == Names::Joliet {
        utf16(plain.as_chunks::<2>().0.iter().map(|unit| u16::from_be_bytes(*unit)))
    } else {
        plain.to_vec()
    };
    let digits = name.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let (front, _) = name.split_at(name.len() - digits);
    let front = front.strip_suffix(b";").filter(|_| digits > 0).unwrap_or(&name);
    let dotless = front.strip_suffix(b".").filter(|front| names == Names::Plain && !front.is_empty());
    dotless.unwrap_or(front).to_vec()
}

fn words(flags: u8) -> String {
    let known = [(1, "hidden"), (DIRECTORY, "directory"), (4, "associated"), (8, "record"), (16, "protection")];
    let known = known.into_iter().chain([(MORE, "more-sections")]);
    let set: Vec<_> = known.filter(|(bit, _)| flags & bit != 0).map(|(_, name)| name).collect();
    set.join(" ")
}

fn at_offset(civil: Result<DateTime, jiff::Error>, quarters: u8) -> Option<Timestamp> {
    let offset = Offset::from_seconds(i32::from(quarters.cast_signed()) * 15 * 60).ok()?;
    offset.to_timestamp(civil.ok()?).ok()
}

/// Seven bytes: years since 1900 to seconds, and the zone in quarters of an hour.
pub(super) fn short_time(raw: &[u8]) -> Option<Timestamp> {
    let [year, rest @ .., zone] = raw.first_chunk::<7>()?;
    let [month, day, hour, minute, second] = rest.map(u8::cast_signed);
    at_offset(DateTime::new(1900 + i16::from(*year), month, day, hour, minute, second, 0), *zone)
}

/// Seventeen bytes: digits from the year to hundredths of a second, and the zone.
pub(super) fn long_time(raw: &[u8]) -> Option<Timestamp> {
    let (digits, zone) = (raw.get(..16)?, *raw.get(16)?);
    let text = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    let number = |from: usize, len: usize| text.get(from..from + len)?.parse::<i16>().ok();
    let small = |from: usize| number(from, 2).and_then(|n| i8::try_from(n).ok());
    let nanos = i32::from(small(14)?) * 10_000_000;
    let civil = DateTime::new(number(0, 4)?, small(4)?, small(6)?, small(8)?, small(10)?, small(12)?, nanos);
    at_offset(civil, zone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_their_zone_and_names_lose_their_version() {
        assert_eq!(short_time(&[126, 11, 24, 20, 5, 9, 4]).unwrap().to_string(), "2026-11-24T19:05:09Z");
        assert_eq!(short_time(&[126, 13, 24, 20, 5, 9, 4]), None);
        assert_eq!(long_time(b"2026112420050975\xfc").unwrap().to_string(), "2026-11-24T21:05:09.75Z");
        assert_eq!(long_time(b"0000000000000000\0"), None);
        for (names, plain, want) in [
            (Names::Plain, &b"A.TXT;1"[..], &b"A.TXT"[..]),
            (Names::Plain, b"README.;12", b"README"),
            (Names::Plain, b"DIR", b"DIR"),
            (Names::Plain, b".", b"."),
            (Names::Joliet, b"\0a\0.\0;\x001", b"a."),
            (Names::Joliet, b"\0a\x001", b"a1"),
        ] {
            assert_eq!(shown(names, plain), want, "{}", plain.escape_ascii());
        }
    }
}
