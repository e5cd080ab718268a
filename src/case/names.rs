//! Names: what a guest's operator chose is hostile, what becomes a file name is plain.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use jiff::Timestamp;

/// Longest part of a file name that comes from outside, in bytes: the whole stays far under the 255 of file systems.
const LONGEST: usize = 64;

/// What remains of `raw` as part of a file name: `[A-Za-z0-9._-]`, not empty, no dot or dash in front.
pub fn safe(raw: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '_' };
    let name: String = raw.chars().map(plain).take(LONGEST).collect();
    let name = name.trim_start_matches(['.', '-']);
    if name.is_empty() { "unnamed".to_owned() } else { name.to_owned() }
}

/// Is this a name that [`safe`] could have made, of any length a file name may have?
pub(crate) fn is_safe(name: &str) -> bool {
    (1..=255).contains(&name.len())
        && !name.starts_with(['.', '-'])
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// Name of an exhibit: `web01-memory-20261124T103000Z`.
pub(crate) fn exhibit(target: &str, item: &str, at: Timestamp) -> String {
    format!("{}-{}-{}", safe(target), safe(item), at.strftime("%Y%m%dT%H%M%SZ"))
}

/// Writes a path so that it cannot steer a terminal and still says every byte: what is not plain is `\xNN` or `\u{…}`.
pub(crate) struct Shown<'a>(pub(crate) &'a Path);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.as_os_str().as_bytes().utf8_chunks() {
            write!(f, "{}", plain(chunk.valid()))?;
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

/// Text from outside, for a message: control and direction characters are escaped, letters of every script stay.
pub fn plain(text: &str) -> String {
    let harmless = |c: char| c == ' ' || (c.is_alphanumeric() || c.is_ascii_graphic()) && c != '\\';
    text.chars().flat_map(|c| if harmless(c) { vec![c] } else { c.escape_default().collect() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_become_plain_ones() {
        for (raw, name) in [
            ("web01", "web01"),
            ("../../etc/passwd", "_.._etc_passwd"),
            ("-rf", "rf"),
            ("a\u{1b}[2Jb\n", "a__2Jb_"),
            ("", "unnamed"),
            ("..", "unnamed"),
            ("\u{202e}gnp.exe", "_gnp.exe"),
        ] {
            assert_eq!(safe(raw), name);
            assert!(is_safe(&safe(raw)));
        }
        assert_eq!(safe(&"x".repeat(300)).len(), LONGEST);
        assert_eq!(
            exhibit("web01", "memory", "2026-11-24T10:30:00Z".parse().unwrap()),
            "web01-memory-20261124T103000Z"
        );
    }

    #[test]
    fn shown_paths_cannot_steer_a_terminal() {
        use std::ffi::OsStr;
        let path = Path::new(OsStr::from_bytes(b"a\x1b[31m\xff\n\xe2\x80\xae"));
        assert_eq!(Shown(path).to_string(), "a\\u{1b}[31m\\xff\\n\\u{202e}");
    }
}
