//! A part of a file over HTTP: what is asked for, and what the server says that it gives (RFC 9110, 14.1.2 and 14.4).

use std::fmt;

/// A part that is asked for. Never empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// First byte.
    first: u64,
    /// Last byte, which belongs to it.
    last: u64,
}

impl Part {
    /// `len` bytes from `first` on; none if there is no such part.
    pub fn new(first: u64, len: u64) -> Option<Self> {
        Some(Self { first, last: first.checked_add(len.checked_sub(1)?)? })
    }

    /// Bytes in it.
    pub fn bytes(self) -> u64 {
        (self.last - self.first).saturating_add(1)
    }

    /// Sees that an answer is this part of something of at least `least` bytes; else says what was found instead.
    pub fn check(self, content_range: Option<&str>, body: u64, least: u64) -> Result<(), String> {
        let given = content_range.ok_or("no Content-Range")?;
        let Some((part, total)) = content(given) else {
            return Err(format!("the Content-Range {given:?}"));
        };
        if part != self {
            return Err(format!("{part} in place of {self}"));
        }
        if let Some(total) = total.filter(|total| *total < least) {
            return Err(format!("a file of only {total} bytes: it shrank while it was read"));
        }
        if body != self.bytes() {
            return Err(format!("{body} bytes in place of {}", self.bytes()));
        }
        Ok(())
    }
}

impl fmt::Display for Part {
    /// As the header `Range` has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bytes={}-{}", self.first, self.last)
    }
}

/// Reads a `Content-Range`: the part, and the length of the whole unless that is `*`.
fn content(text: &str) -> Option<(Part, Option<u64>)> {
    let number = |text: &str| text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
    let (unit, rest) = text.trim().split_once(' ')?;
    let (part, total) = rest.trim().split_once('/')?;
    let (first, last) = part.split_once('-')?;
    let (first, last): (u64, u64) = (number(first)?, number(last)?);
    let total = if total == "*" { None } else { Some(number(total)?) };
    let fits = unit.eq_ignore_ascii_case("bytes") && first <= last && total.is_none_or(|total| last < total);
    fits.then_some((Part { first, last }, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_must_be_the_part_that_was_asked_for() {
        let part = Part::new(4096, 100).unwrap();
        assert_eq!((part.to_string().as_str(), part.bytes()), ("bytes=4096-4195", 100));
        let check = |given: &str| part.check(Some(given), 100, 5000);
        for good in ["bytes 4096-4195/5000", "Bytes 4096-4195/*", " bytes  4096-4195/6000 "] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "bytes",
            "bytes 4096-4195",
            "bytes 4096-4195/",
            "bytes 4096-4195/4999",
            "bytes 0-4195/5000",
            "bytes 4096-4194/5000",
            "bytes 4195-4096/5000",
            "bytes +4096-4195/5000",
            "bytes */5000",
            "bytes 4096-18446744073709551616/*",
            "lines 4096-4195/5000",
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
        assert!(part.check(None, 100, 0).is_err());
        assert!(part.check(Some("bytes 4096-4195/5000"), 99, 0).is_err());
    }

    #[test]
    fn a_part_has_at_least_a_byte_and_an_end() {
        assert_eq!(Part::new(7, 0), None);
        assert_eq!(Part::new(u64::MAX, 2), None);
        assert_eq!(Part::new(u64::MAX, 1).map(Part::bytes), Some(1));
        assert_eq!(Part::new(0, u64::MAX).map(Part::bytes), Some(u64::MAX));
    }
}
