//! A file as a directory of FAT or exFAT tells of it, and what both share in telling it.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::Offset;

use crate::disk::fs::{FileKind, Times};

/// Bytes of an entry.
pub(in crate::disk::fs) const ENTRY: u64 = 32;

/// One entry, or one set of them.
#[derive(Debug, Clone)]
pub(in crate::disk::fs) struct Record {
    /// Where its first entry stands on the volume; 0 if only a name is left.
    pub(in crate::disk::fs) at: u64,
    pub(in crate::disk::fs) name: Vec<u8>,
    pub(in crate::disk::fs) kind: FileKind,
    /// The entry says that the file is there.
    pub(in crate::disk::fs) live: bool,
    pub(in crate::disk::fs) source: &'static str,
    /// First cluster; 0 for none.
    pub(in crate::disk::fs) first: u32,
    /// Length in bytes. Directories of FAT have none of their own.
    pub(in crate::disk::fs) size: u64,
    /// Of these, ever written.
    pub(in crate::disk::fs) valid: u64,
    /// Its clusters follow each other, whatever the table says.
    pub(in crate::disk::fs) contiguous: bool,
    pub(in crate::disk::fs) times: Times,
    pub(in crate::disk::fs) facts: Vec<(String, String)>,
    pub(in crate::disk::fs) odd: Vec<String>,
}

/// What a reader of a directory has found.
#[derive(Debug, Default)]
pub(in crate::disk::fs) struct Records {
    pub(in crate::disk::fs) list: Vec<Record>,
    pub(in crate::disk::fs) odd: Vec<String>,
}

/// Reads a directory, one entry after the other.
pub(in crate::disk::fs) trait Reader {
    /// The next entry, which stands at `at`. False: no more of them are wanted.
    fn entry(&mut self, at: u64, raw: &[u8; 32], into: &mut Records) -> bool;
    /// The next entry does not follow the last one, or there is none.
    fn cut(&mut self, into: &mut Records);
}

/// UTF-16 as UTF-8. What is no text (half a surrogate pair) keeps its number in the same three-byte form, so nothing is
/// lost and the name is no valid UTF-8.
pub(in crate::disk::fs) fn utf16(units: impl IntoIterator<Item = u16>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for unit in char::decode_utf16(units) {
        match unit {
            Ok(c) => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            Err(half) => {
                let [high, low] = half.unpaired_surrogate().to_be_bytes();
                bytes.extend([0xe0 | high >> 4, 0x80 | (high & 0xf) << 2 | low >> 6, 0x80 | low & 0x3f]);
            }
        }
    }
    bytes
}

/// A date and a time as DOS keeps them, with hundredths of a second (up to 199) and minutes to the east of UTC. None if
/// there is no such date.
pub(in crate::disk::fs) fn dos_time(date: u16, time: u16, hundredths: u8, offset: i32) -> Option<Timestamp> {
    let bits = |value: u16, from: u16, len: u16| i8::try_from(value >> from & ((1 << len) - 1)).ok();
    let year = i16::try_from(1980 + (date >> 9)).ok()?;
    let (second, more) = (bits(time, 0, 5)?.checked_mul(2)?, i8::try_from(hundredths / 100).ok()?);
    let nanos = i32::from(hundredths % 100) * 10_000_000;
    let (month, day, hour, minute) = (bits(date, 5, 4)?, bits(date, 0, 5)?, bits(time, 11, 5)?, bits(time, 5, 6)?);
    let civil = DateTime::new(year, month, day, hour, minute, second.checked_add(more)?, nanos).ok()?;
    Offset::from_seconds(offset.checked_mul(60)?).ok()?.to_timestamp(civil).ok()
}

/// The attributes that are set, in words.
pub(in crate::disk::fs) fn attributes(bits: u16) -> String {
    let known = [(1, "read-only"), (2, "hidden"), (4, "system"), (8, "volume-label"), (0x10, "directory")];
    let known = known.into_iter().chain([(0x20, "archive")]);
    let set: Vec<_> = known.filter(|(bit, _)| bits & bit != 0).map(|(_, name)| name).collect();
    set.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_pair_is_kept_and_a_date_that_is_none_is_absent() {
        assert_eq!(utf16("Grüße 😀".encode_utf16()), "Grüße 😀".as_bytes());
        assert_eq!(utf16([0x61, 0xd83d, 0x62]), b"a\xed\xa0\xbdb");
        let date = (2026 - 1980) * 512 + 11 * 32 + 24;
        let time = 19 * 2048 + 50 * 32 + 15;
        assert_eq!(dos_time(date, time, 150, 0).unwrap().to_string(), "2026-11-24T19:50:31.5Z");
        assert_eq!(dos_time(date, time, 0, -150).unwrap().to_string(), "2026-11-24T22:20:30Z");
        for (date, time, more) in
            [(0, 0, 0), (date & !0x1e0, 0, 0), (date, 24 << 11, 0), (date, 31, 0), (date, 29, 250)]
        {
            assert_eq!(dos_time(date, time, more, 0), None, "{date} {time} {more}");
        }
    }
}
