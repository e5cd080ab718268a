//! `custody.head`: how many events there are, and the hash of the last. One line, so that it is signed as it stands.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::case::digest::is_hex;
use crate::case::disk::read_bounded;
use crate::case::schema::{self, Refused};

/// Longest head, in bytes.
pub(crate) const HEAD_LIMIT: u64 = 4096;

/// The end of a custody log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Number of events.
    pub count: u64,
    /// SHA-256 of the last line, in hex.
    pub hash: String,
}

impl Head {
    /// The head of a log with nothing in it.
    pub(crate) fn of_nothing() -> Self {
        Self { count: 0, hash: super::event::NOTHING_BEFORE.to_owned() }
    }

    /// The bytes of `custody.head`.
    pub fn bytes(&self) -> Vec<u8> {
        format!("{{\"schema\":\"{}\",\"count\":{},\"hash\":\"{}\"}}\n", schema::HEAD, self.count, self.hash)
            .into_bytes()
    }

    /// Reads `custody.head`; only the very bytes that [`Head::bytes`] writes are a head.
    pub fn parse(bytes: &[u8]) -> Result<Self, Refused> {
        let head: Self = schema::read(bytes, schema::HEAD)?;
        if !is_hex(&head.hash, 64) || head.bytes() != bytes {
            let why = "it is not written as this program writes it".to_owned();
            return Err(Refused::Content { known: schema::HEAD, why });
        }
        Ok(head)
    }

    /// Reads the file.
    pub(crate) fn read(path: &Path) -> Result<Self, crate::case::CaseError> {
        let bytes = read_bounded(path, HEAD_LIMIT)
            .map_err(crate::case::CaseError::io("read the head of the custody log", path))?;
        Self::parse(&bytes).map_err(|refused| refused.of(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_canonical_form_is_a_head() {
        let head = Head { count: 3, hash: "ab".repeat(32) };
        assert_eq!(Head::parse(&head.bytes()).unwrap(), head);
        let text = String::from_utf8(head.bytes()).unwrap();
        for bad in [text.trim().to_owned(), text.replace(":3", ": 3"), text.replace("/1", "/2"), String::new()] {
            assert!(Head::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
