//! `IMAGE`, `IMAGE:p2`, `IMAGE:p2:/etc/passwd`, `IMAGE:p2:#1234`: an image, a volume in it, a file in that.
//!
//! A file whose name holds a colon still opens: the whole name is tried first, then the longest part that is a file.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// A file in a file system, as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inside {
    /// By its path; bytes.
    Path(Vec<u8>),
    /// By its number.
    Inode(u64),
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The image.
    pub image: PathBuf,
    /// Number of the volume; 0 is the whole disk.
    pub volume: Option<u32>,
    /// The file.
    pub inside: Option<Inside>,
}

impl Address {
    /// Takes a text apart; `exists` tells which names are there.
    pub fn parse(text: &OsStr, exists: impl Fn(&OsStr) -> bool) -> Self {
        let bytes = text.as_bytes();
        let whole = Self { image: PathBuf::from(text), volume: None, inside: None };
        if exists(text) {
            return whole;
        }
        let colons = bytes.iter().enumerate().filter(|(_, byte)| **byte == b':').map(|(at, _)| at);
        let mut colons: Vec<_> = colons.collect();
        colons.reverse();
        for at in colons {
            let (image, rest) = (bytes.get(..at).unwrap_or_default(), bytes.get(at + 1..).unwrap_or_default());
            let image = OsString::from_vec(image.to_vec());
            if let Some((volume, inside)) = tail(rest).filter(|_| exists(&image)) {
                return Self { image: PathBuf::from(image), volume, inside };
            }
        }
        whole
    }
}

fn tail(rest: &[u8]) -> Option<(Option<u32>, Option<Inside>)> {
    let (volume, rest) = match rest.strip_prefix(b"p") {
        Some(number) => {
            let end = number.iter().position(|byte| *byte == b':').unwrap_or(number.len());
            let digits = std::str::from_utf8(number.get(..end)?).ok()?;
            let volume = digits.parse().ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit()))?;
            match number.get(end + 1..) {
                Some(rest) => (Some(volume), rest),
                None => return Some((Some(volume), None)),
            }
        }
        None => (None, rest),
    };
    let inside = match rest.strip_prefix(b"#") {
        Some(number) => Inside::Inode(std::str::from_utf8(number).ok()?.parse().ok()?),
        None if rest.first() == Some(&b'/') => Inside::Path(rest.to_vec()),
        None => return None,
    };
    Some((volume, Some(inside)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_understood_and_a_colon_in_a_name_is_no_end() {
        let there = ["disk.img", "odd:p2", "a:b"];
        let parse = |text: &str| {
            let found = Address::parse(OsStr::new(text), |name| there.iter().any(|one| OsStr::new(one) == name));
            (found.image.to_string_lossy().into_owned(), found.volume, found.inside)
        };
        let path = |path: &str| Some(Inside::Path(path.as_bytes().to_vec()));
        assert_eq!(parse("disk.img"), ("disk.img".into(), None, None));
        assert_eq!(parse("disk.img:p2"), ("disk.img".into(), Some(2), None));
        assert_eq!(parse("disk.img:p2:/etc/x:y"), ("disk.img".into(), Some(2), path("/etc/x:y")));
        assert_eq!(parse("disk.img:p2:#17"), ("disk.img".into(), Some(2), Some(Inside::Inode(17))));
        assert_eq!(parse("disk.img:/etc"), ("disk.img".into(), None, path("/etc")));
        assert_eq!(parse("odd:p2"), ("odd:p2".into(), None, None));
        assert_eq!(parse("odd:p2:p3"), ("odd:p2".into(), Some(3), None));
        assert_eq!(parse("a:b:#4"), ("a:b".into(), None, Some(Inside::Inode(4))));
        assert_eq!(parse("none:p2").0, "none:p2");
    }
}
