//! `IMAGE[:LABEL[@SUB]][:/path|:#inode]`: an image, a volume in it, a subvolume of that, a file.
//!
//! Labels: `p2` is a partition (`p0` the whole disk), `vg0-root` a logical volume as `/dev/mapper` spells it, `md0` an array.
//! `@` is followed by the path of a subvolume or snapshot (`p2@home/.snapshots/3`), up to the next `:/` or `:#`.
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
    /// Label of the volume; `p0` is the whole disk.
    pub volume: Option<String>,
    /// Path of a subvolume in it; bytes.
    pub sub: Option<Vec<u8>>,
    /// The file.
    pub inside: Option<Inside>,
}

impl Address {
    /// Takes a text apart; `exists` tells which names are there.
    pub fn parse(text: &OsStr, exists: impl Fn(&OsStr) -> bool) -> Self {
        let bytes = text.as_bytes();
        let whole = Self { image: PathBuf::from(text), volume: None, sub: None, inside: None };
        if exists(text) {
            return whole;
        }
        let colons = bytes.iter().enumerate().filter(|(_, byte)| **byte == b':').map(|(at, _)| at);
        let mut colons: Vec<_> = colons.collect();
        colons.reverse();
        for at in colons {
            let (image, rest) = (bytes.get(..at).unwrap_or_default(), bytes.get(at + 1..).unwrap_or_default());
            let image = OsString::from_vec(image.to_vec());
            if let Some(found) = Self::tail(rest).filter(|_| exists(&image)) {
                return Self { image: PathBuf::from(image), ..found };
            }
        }
        whole
    }

    /// What stands behind the image.
    fn tail(rest: &[u8]) -> Option<Self> {
        let end = rest.iter().position(|byte| !is_label(*byte)).unwrap_or(rest.len());
        let (label, rest) = rest.split_at_checked(end)?;
        let volume = match label {
            [] => None,
            label => Some(String::from_utf8(label.to_vec()).ok()?),
        };
        let (sub, rest) = match rest.strip_prefix(b"@").filter(|_| volume.is_some()) {
            Some(rest) => {
                let end = rest.windows(2).position(|two| two == b":/" || two == b":#").unwrap_or(rest.len());
                let (sub, rest) = rest.split_at_checked(end).filter(|(sub, _)| !sub.is_empty())?;
                (Some(sub.to_vec()), rest)
            }
            None => (None, rest),
        };
        let inside = match (rest, &volume) {
            ([], Some(_)) => None,
            ([b':', rest @ ..], Some(_)) | (rest, None) => Some(inside(rest)?),
            _ => return None,
        };
        Some(Self { image: PathBuf::new(), volume, sub, inside })
    }
}

/// The characters of names in LVM, and `~`, which tells two volumes of one name apart.
fn is_label(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+_.-~".contains(&byte)
}

fn inside(rest: &[u8]) -> Option<Inside> {
    match rest.strip_prefix(b"#") {
        Some(number) => Some(Inside::Inode(std::str::from_utf8(number).ok()?.parse().ok()?)),
        None if rest.first() == Some(&b'/') => Some(Inside::Path(rest.to_vec())),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_understood_and_a_colon_in_a_name_is_no_end() {
        let there = ["disk.img", "odd:p2", "a:b"];
        let parse = |text: &str| {
            let found = Address::parse(OsStr::new(text), |name| there.iter().any(|one| OsStr::new(one) == name));
            let sub = found.sub.map(|sub| String::from_utf8(sub).unwrap());
            let label = found.volume.map(|label| sub.map_or(label.clone(), |sub| format!("{label} and {sub}")));
            (found.image.to_string_lossy().into_owned(), label, found.inside)
        };
        let path = |path: &str| Some(Inside::Path(path.as_bytes().to_vec()));
        let label = |label: &str| Some(label.to_owned());
        assert_eq!(parse("disk.img"), ("disk.img".into(), None, None));
        assert_eq!(parse("disk.img:p2"), ("disk.img".into(), label("p2"), None));
        assert_eq!(parse("disk.img:p2:/etc/x:y"), ("disk.img".into(), label("p2"), path("/etc/x:y")));
        assert_eq!(parse("disk.img:p2:#17"), ("disk.img".into(), label("p2"), Some(Inside::Inode(17))));
        assert_eq!(parse("disk.img:/etc"), ("disk.img".into(), None, path("/etc")));
        assert_eq!(parse("disk.img:vg--0-root~2:/x"), ("disk.img".into(), label("vg--0-root~2"), path("/x")));
        assert_eq!(parse("disk.img:p2@home"), ("disk.img".into(), label("p2 and home"), None));
        assert_eq!(parse("disk.img:p2@@a/b@c:d:/x@y"), ("disk.img".into(), label("p2 and @a/b@c:d"), path("/x@y")));
        assert_eq!(parse("disk.img:md-x@s:#5"), ("disk.img".into(), label("md-x and s"), Some(Inside::Inode(5))));
        assert_eq!(parse("odd:p2"), ("odd:p2".into(), None, None));
        assert_eq!(parse("odd:p2:p3"), ("odd:p2".into(), label("p3"), None));
        assert_eq!(parse("a:b:#4"), ("a:b".into(), None, Some(Inside::Inode(4))));
        for none in
            ["none:p2", "disk.img:p2@", "disk.img:@s", "disk.img:", "disk.img:p2:x", "disk.img:p 2", "disk.img:#x"]
        {
            assert_eq!(parse(none).0, none);
        }
    }
}
