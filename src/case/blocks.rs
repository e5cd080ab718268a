//! Temporary: checks a file against its block map one block after the other.

use std::io::Read;
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::CaseError;
use super::digest::hex;
use super::disk::open_plain;
use crate::progress::Task;

/// What the map says of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlocksCheck {
    /// Length the map covers, in bytes.
    pub expected_len: u64,
    /// Length the file has, in bytes.
    pub actual_len: u64,
    /// SHA-256 of the whole file in hex, when every block fits.
    pub sha256: Option<String>,
    /// Byte ranges whose hash does not fit.
    pub changed: Vec<Range<u64>>,
}

#[derive(Deserialize)]
struct Block {
    at: u64,
    len: u64,
    sha256: String,
}

/// Checks `file` against the map `map`.
pub fn check(file: &Path, map: &Path, task: &dyn Task) -> Result<BlocksCheck, CaseError> {
    let io = |error| CaseError::io("check the blocks", file)(error);
    let text = std::fs::read_to_string(map).map_err(io)?;
    let mut from = open_plain(file).map_err(io)?;
    let (mut whole, mut changed, mut expected_len) = (Sha256::new(), Vec::new(), 0);
    for line in text.lines() {
        let block: Block = serde_json::from_str(line).map_err(|error| io(error.into()))?;
        let mut bytes = Vec::new();
        (&mut from).take(block.len).read_to_end(&mut bytes).map_err(io)?;
        whole.update(&bytes);
        task.add(bytes.len() as u64);
        expected_len = block.at.saturating_add(block.len);
        if hex(&Sha256::digest(&bytes)) != block.sha256 {
            changed.push(block.at..expected_len);
        }
    }
    let actual_len = from.metadata().map_err(io)?.len();
    if actual_len > expected_len {
        changed.push(expected_len..actual_len);
    }
    let sha256 = changed.is_empty().then(|| hex(&whole.finalize()));
    Ok(BlocksCheck { expected_len, actual_len, sha256, changed })
}
