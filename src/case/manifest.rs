//! BagIt manifests (RFC 8493 §2.1.3): `DIGEST  PATH`, one line a file, which is also what `sha256sum -c` reads.
//!
//! CR, LF and `%` of a path are percent-encoded. The names that impound gives never need it, the bags of others may.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use super::digest::is_hex;

/// Longest manifest that is read, in bytes.
pub(crate) const MANIFEST_LIMIT: u64 = 64 << 20;

/// Digest of each path, sorted by path.
pub(crate) type Entries = BTreeMap<PathBuf, String>;

/// A line that is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BadLine {
    /// Line, from 1.
    pub(crate) line: u64,
    /// Why.
    pub(crate) why: &'static str,
}

/// The bytes of a manifest.
pub(crate) fn write(entries: &Entries) -> Vec<u8> {
    let line = |(path, digest): (&PathBuf, &String)| format!("{digest}  {}\n", encode(&path.to_string_lossy()));
    entries.iter().map(line).collect::<String>().into_bytes()
}

/// Reads a manifest whose digests have `digits` hex digits. Every bad line is named; the good ones are still used.
pub(crate) fn parse(bytes: &[u8], digits: usize) -> (Entries, Vec<BadLine>) {
    let (mut entries, mut bad) = (Entries::new(), Vec::new());
    if !bytes.is_empty() && !bytes.ends_with(b"\n") {
        bad.push(BadLine { line: bytes.split(|&b| b == b'\n').count() as u64, why: "it has no newline: cut off" });
    }
    let body = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    if body.is_empty() {
        return (entries, bad);
    }
    for (number, line) in (1u64..).zip(body.split(|&b| b == b'\n')) {
        match parse_line(line.strip_suffix(b"\r").unwrap_or(line), digits) {
            Ok((path, digest)) => {
                if entries.insert(path, digest).is_some() {
                    bad.push(BadLine { line: number, why: "the path was listed before" });
                }
            }
            Err(why) => bad.push(BadLine { line: number, why }),
        }
    }
    (entries, bad)
}

fn parse_line(line: &[u8], digits: usize) -> Result<(PathBuf, String), &'static str> {
    let line = std::str::from_utf8(line).map_err(|_| "it is not UTF-8")?;
    let (digest, path) = line.split_once([' ', '\t']).ok_or("there is no path")?;
    let digest = digest.to_ascii_lowercase();
    if !is_hex(&digest, digits) {
        return Err("the digest is not hex digits of the right number");
    }
    // `sha256sum` marks binary mode with a star; the names in a bag begin with no star and no blank.
    let path = path.trim_start_matches([' ', '\t']);
    let path = PathBuf::from(decode(path.strip_prefix('*').unwrap_or(path))?);
    if !stays_inside(&path) {
        return Err("the path leads out of the bag");
    }
    Ok((path, digest))
}

/// A relative path of plain names, with nothing that leads out or hides: no `..`, no `.`, no `//`, no `~`.
pub(crate) fn stays_inside(path: &Path) -> bool {
    let text = path.to_string_lossy();
    !text.is_empty()
        && !text.starts_with('~')
        && !text.contains('\0')
        && path.components().all(|part| matches!(part, Component::Normal(_)))
        && text.split('/').all(|part| !part.is_empty() && part != ".")
}

fn encode(path: &str) -> String {
    path.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn decode(path: &str) -> Result<String, &'static str> {
    let mut parts = path.split('%');
    let mut decoded = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        // Other escapes are none: RFC 8493 encodes these three and nothing else.
        let (byte, rest) = match part.get(..2).map(str::to_ascii_uppercase).as_deref() {
            Some("0A") => ('\n', part.get(2..)),
            Some("0D") => ('\r', part.get(2..)),
            Some("25") => ('%', part.get(2..)),
            _ => return Err("a `%` begins no escape that manifests have"),
        };
        decoded.push(byte);
        decoded.push_str(rest.unwrap_or_default());
    }
    Ok(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_lead_out_are_refused_and_the_rest_is_read() {
        let hash = "ab".repeat(32);
        for bad in ["/etc/passwd", "../x", "data/../../x", "~/x", "data//x", "./data/x", "data/%2e", "", "data/x/."] {
            let text = format!("{hash}  data/good\n{hash}  {bad}\n");
            let (entries, refused) = parse(text.as_bytes(), 64);
            assert_eq!((entries.len(), refused.len()), (1, 1), "{bad}");
            assert_eq!(refused[0].line, 2);
        }
    }

    #[test]
    fn duplicates_and_cut_ends_are_named() {
        let hash = "ab".repeat(32);
        let (_, bad) = parse(format!("{hash}  a\n{hash} *a\n").as_bytes(), 64);
        assert_eq!(bad, [BadLine { line: 2, why: "the path was listed before" }]);
        assert_eq!(parse(format!("{hash}  a").as_bytes(), 64).1.len(), 1);
        assert_eq!(parse(b"", 64), (Entries::new(), Vec::new()));
    }

    #[test]
    fn escapes_go_both_ways() {
        let entries = Entries::from([(PathBuf::from("data/100%\n\r"), "ab".repeat(32))]);
        let text = write(&entries);
        assert!(String::from_utf8_lossy(&text).contains("data/100%25%0A%0D"));
        assert_eq!(parse(&text, 64), (entries, Vec::new()));
    }
}
