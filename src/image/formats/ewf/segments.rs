//! The files of one image: `.E01` … `.E99`, `.EAA` … `.EZZ`, `.FAA` …; `.Ex01` … `.Ex99`, `.ExAA` …. In that order, each
//! numbered in its header.

use std::sync::Arc;

use super::{E01, EX01};
use crate::image::fields::{Fields, read_structure};
use crate::image::{Below, ReadAt, ReadError};

/// The most segments: three letters, and the two digits before them.
const MOST: u32 = 14_971;

/// One file.
pub(super) struct Segment {
    pub(super) name: String,
    pub(super) bytes: Arc<dyn ReadAt>,
    /// Its place in the order, from 1 on.
    pub(super) number: u32,
}

/// Goes through the segments.
pub(super) struct Segments<'a> {
    below: &'a Below,
    next: u32,
}

impl<'a> Segments<'a> {
    pub(super) fn new(below: &'a Below) -> Self {
        Self { below, next: 1 }
    }

    /// The next one; `None` after the last. `done` is what the segment before said: without it a segment must follow.
    pub(super) fn next_segment(&mut self, done: bool) -> Result<Option<Segment>, ReadError> {
        let number = self.next;
        if done || number > MOST {
            return Ok(None);
        }
        self.next += 1;
        let segment = if number == 1 {
            let name = self
                .below
                .place
                .as_ref()
                .map_or_else(|| "segment 1".to_owned(), |place| place.name().display().to_string());
            Segment { name, bytes: Arc::clone(&self.below.bytes), number }
        } else {
            let place = self.below.place()?;
            let first = place.name().to_string_lossy().into_owned();
            let ending = first.rsplit_once('.').and_then(|(stem, ending)| Some((stem, ending_of(ending, number)?)));
            let Some((stem, ending)) = ending else { return Ok(None) };
            let name = format!("{stem}.{ending}");
            let missing = || {
                let why = format!("segment {number} ({name}) is not in the folder of the image");
                ReadError::caller(format!("open all segments of {first}"), why)
            };
            let found = place.beside(name.as_ref())?.ok_or_else(missing)?;
            Segment { name, bytes: found.bytes, number }
        };
        segment.check()?;
        Ok(Some(segment))
    }
}

impl Segment {
    /// Signature and number of the file header.
    fn check(&self) -> Result<(), ReadError> {
        const WHAT: &str = "EWF segment header";
        let head = read_structure(self.bytes.as_ref(), WHAT, 0, 13)?;
        let fields = Fields::new(WHAT, 0, &head);
        let second = head.starts_with(&EX01);
        if !second && !head.starts_with(&E01) {
            return Err(fields.corrupt(0, "EVF or EVF2", crate::image::hex(fields.slice(0, 8)?)));
        }
        let number = if second {
            let head = read_structure(self.bytes.as_ref(), WHAT, 12, 4)?;
            Fields::new(WHAT, 12, &head).u32(0)?
        } else {
            u32::from(fields.u16(9)?)
        };
        if number != self.number {
            return Err(fields.corrupt(9, format_args!("segment number {}", self.number), number));
        }
        Ok(())
    }
}

/// The ending of segment `number`, in the letters of the first one's.
fn ending_of(first: &str, number: u32) -> Option<String> {
    let digits = first.trim_end_matches(|c: char| c.is_ascii_digit());
    let (letter, rest) = (digits.chars().next()?, digits.get(1..)?);
    if !digits.is_ascii() || first.len() != digits.len() + 2 {
        return None;
    }
    if number <= 99 {
        return Some(format!("{digits}{number:02}"));
    }
    let index = number - 100;
    let at = |base: char, n: u32| char::from_u32(u32::from(base) + n);
    // `Ex01`: the letter x stays and the two digits become letters; `E01`: the first letter counts on.
    let a = if letter.is_ascii_lowercase() { 'a' } else { 'A' };
    let (high, low) = (at(a, index / 26 % 26)?, at(a, index % 26)?);
    let first = at(letter, index / 676)
        .filter(|c| c.is_ascii_alphabetic() && c.is_ascii_lowercase() == letter.is_ascii_lowercase())?;
    Some(format!("{first}{rest}{high}{low}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_count_as_the_format_says() {
        let ending = |first, number| ending_of(first, number).unwrap_or_default();
        assert_eq!(ending("E01", 2), "E02");
        assert_eq!(ending("E01", 99), "E99");
        assert_eq!(ending("E01", 100), "EAA");
        assert_eq!(ending("E01", 100 + 676), "FAA");
        assert_eq!(ending("e01", 101), "eab");
        assert_eq!(ending("s01", 3), "s03");
        assert_eq!(ending("Ex01", 100), "ExAA");
        assert_eq!(ending("E01", MOST), "ZZZ");
        assert_eq!(ending("E01", MOST + 1), "");
        assert_eq!(ending("raw", 2), "");
        assert_eq!(ending("é01", 2), "");
    }
}
