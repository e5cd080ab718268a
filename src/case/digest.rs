//! SHA-256 of small things and of whole files, as lower-case hex.

use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::disk::open_plain;
use crate::progress::Task;

/// Bytes read at a time.
const CHUNK: usize = 1 << 20;

/// Bytes as lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    let digit = |nibble: u8| DIGITS.get(usize::from(nibble)).copied().unwrap_or('?');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// SHA-256 of a few bytes, in hex.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Is this `digits` lower-case hex digits?
pub(crate) fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Hashes a whole file with any digest. Answers its length in bytes and the digest in hex.
pub(crate) fn file<D: Digest>(path: &Path, task: &dyn Task) -> io::Result<(u64, String)> {
    let mut from = open_plain(path)?;
    let mut hasher = D::new();
    let mut buffer = vec![0; CHUNK];
    let mut len = 0u64;
    loop {
        let n = match from.read(&mut buffer) {
            Ok(0) => return Ok((len, hex(&hasher.finalize()))),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(buffer.get(..n).unwrap_or_default());
        len = len.saturating_add(n as u64);
        task.add(n as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_of_nothing_is_the_known_one() {
        assert_eq!(sha256(b""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert!(is_hex(&sha256(b"x"), 64));
        assert!(!is_hex("E3", 2));
    }
}
