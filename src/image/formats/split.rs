//! A file cut into parts: `.001`, `.002` … (or from `.000` on, with any number of digits from three on) and `.aa`, `.ab` …
//! as dcfldd, dd and `split` write. The user names the first part. A part that is missing between two others is named: its
//! length is unknown, so nothing behind it could be placed.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;

use crate::image::joined::Joined;
use crate::image::{Below, Content, Layer, Opened, Opening, Place, ReadError, Wrapping};

/// See the module.
pub(super) static SPLIT: Wrapping = Wrapping {
    name: "split",
    about: "file in parts: .001, .002 … or .aa, .ab …",
    tested_against: "split of coreutils",
    probe,
    open,
};

/// The most parts.
const PARTS: u64 = 100_000;

/// How the parts are numbered: digits or letters, that many.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Numbering {
    /// Name up to and with the dot.
    stem: Vec<u8>,
    /// Length of the ending.
    width: usize,
    letters: bool,
    /// Number of the part that was named.
    first: u64,
}

impl Numbering {
    /// From the name of a first part; `None` if it is none.
    fn of(name: &OsStr) -> Option<Self> {
        let name = name.as_bytes();
        let dot = name.iter().rposition(|&b| b == b'.')?;
        let (stem, ending) = name.split_at_checked(dot + 1)?;
        let letters = ending.len() >= 2 && ending.iter().all(|&b| b == b'a');
        let digits = ending.len() >= 3 && ending.iter().all(u8::is_ascii_digit);
        let first = if letters { Some(0) } else { std::str::from_utf8(ending).ok()?.parse::<u64>().ok() };
        let first = first.filter(|first| (letters || digits) && *first <= 1 && ending.len() <= 16)?;
        Some(Self { stem: stem.to_vec(), width: ending.len(), letters, first })
    }

    /// Name of part `number`, if the ending can say it.
    fn name(&self, number: u64) -> Option<OsString> {
        let mut name = self.stem.clone();
        if self.letters {
            let (mut rest, mut ending) = (number, Vec::new());
            for _ in 0..self.width {
                ending.push(b'a' + u8::try_from(rest % 26).ok()?);
                rest /= 26;
            }
            if rest > 0 {
                return None;
            }
            name.extend(ending.iter().rev());
        } else {
            let ending = format!("{number:0width$}", width = self.width);
            if ending.len() > self.width {
                return None;
            }
            name.extend_from_slice(ending.as_bytes());
        }
        Some(OsString::from_vec(name))
    }

    /// Number of the part with this name.
    fn number(&self, name: &OsStr) -> Option<u64> {
        let ending = name.as_bytes().strip_prefix(self.stem.as_slice()).filter(|ending| ending.len() == self.width)?;
        if self.letters {
            let digit =
                |sum: u64, &b: &u8| b.is_ascii_lowercase().then(|| sum.checked_mul(26)?.checked_add((b - b'a').into()));
            return ending.iter().try_fold(0, |sum, b| digit(sum, b).flatten());
        }
        std::str::from_utf8(ending).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()
    }
}

fn probe(below: &Below) -> bool {
    // A name that says `part 1` speaks of the file, not of what the parts hold together.
    let Some(place) = below.place.as_ref().filter(|_| below.is_file) else { return false };
    let second = Numbering::of(place.name()).and_then(|numbering| numbering.name(numbering.first + 1));
    second.is_some_and(|second| place.beside(&second).is_ok_and(|found| found.is_some()))
}

fn open(below: &Below) -> Opening {
    let place = below.place()?;
    let not_one = || {
        let why = "name the first part: it ends in .001, .000 or .aa";
        ReadError::caller(format!("open {} as a split image", place.name().display()), why)
    };
    let numbering = Numbering::of(place.name()).ok_or_else(not_one)?;
    let mut layer = Layer::new("split", Content::Carrier);
    let mut parts = vec![Arc::clone(&below.bytes)];
    for number in numbering.first + 1..numbering.first + PARTS {
        let Some(name) = numbering.name(number) else { break };
        let Some(found) = place.beside(&name)? else { break };
        layer.files.push(("part", name.display().to_string()));
        parts.push(found.bytes);
    }
    nothing_missing(place, &numbering, parts.len() as u64)?;
    layer.fact("parts", parts.len());
    let length = below.bytes.len();
    if parts.iter().rev().skip(1).any(|part| part.len() != length) {
        layer.odd("parts before the last differ in length");
    }
    Ok(Opened::new(Arc::new(Joined::new(parts)?), layer))
}

/// Fails if a part follows behind the first that is missing.
fn nothing_missing(place: &Place, numbering: &Numbering, count: u64) -> Result<(), ReadError> {
    let next = numbering.first + count;
    let later = place.list(1_000_000)?.iter().filter_map(|name| numbering.number(name)).filter(|n| *n > next).min();
    let (Some(later), Some(missing)) = (later.and_then(|n| numbering.name(n)), numbering.name(next)) else {
        return Ok(());
    };
    Err(ReadError::corrupt(
        "split image",
        0,
        format_args!("part {}", missing.display()),
        format_args!("{} without it", later.display()),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_numbered_as_their_first_one_says() {
        let numbering = |name: &str| Numbering::of(OsStr::new(name));
        let name = |first: &str, number| numbering(first).unwrap().name(number).map(|name| name.into_string().unwrap());
        assert_eq!(name("disk.dd.001", 12).unwrap(), "disk.dd.012");
        assert_eq!(name("disk.000", 1000), None);
        assert_eq!(name("disk.aa", 27).unwrap(), "disk.bb");
        assert_eq!(name("disk.aaa", 26 * 26).unwrap(), "disk.baa");
        assert_eq!(name("disk.aa", 26 * 26), None);
        for no in ["disk", "disk.1", "disk.01", "disk.002", "disk.ab", "disk.a", "disk.00x", "disk."] {
            assert_eq!(numbering(no), None, "{no}");
        }
        assert_eq!(numbering("d.aa").unwrap().number(OsStr::new("d.bc")), Some(28));
        assert_eq!(numbering("d.001").unwrap().number(OsStr::new("d.0x1")), None);
    }
}
