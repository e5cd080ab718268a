//! Digests beside the SHA-256 of record, and what is known of a stored file.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use crate::case::digest::hex;

/// A digest that can be asked for. SHA-256 is always there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Digest {
    /// FIPS 180-4.
    Sha512,
    /// BLAKE3, 32 bytes.
    Blake3,
    /// For comparison with old records; broken against forgery.
    Sha1,
    /// For comparison with old records; broken against forgery.
    Md5,
    /// For comparison with what a host keeps, and for nothing else: no digest at all against forgery.
    Crc32c,
}

impl Digest {
    /// All that can be asked for.
    pub const ALL: [Self; 4] = [Self::Sha512, Self::Blake3, Self::Sha1, Self::Md5];

    /// The name on the command line and in `BagIt` manifests: `sha512`, `blake3`, `sha1`, `md5`; `crc32c` is in neither.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha512 => "sha512",
            Self::Blake3 => "blake3",
            Self::Sha1 => "sha1",
            Self::Md5 => "md5",
            Self::Crc32c => "crc32c",
        }
    }
}

/// A file of the exhibit with its digests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// Path relative to the bag, as `data/memory.raw`.
    pub path: String,
    /// Length in bytes.
    pub len: u64,
    /// SHA-256 in hex.
    pub sha256: String,
    /// The digests asked for besides, in hex.
    pub others: BTreeMap<Digest, String>,
}

/// One running digest.
pub(super) enum Hasher {
    Sha512(Box<sha2::Sha512>),
    Blake3(Box<blake3::Hasher>),
    Sha1(sha1::Sha1),
    Md5(md5::Md5),
    Crc32c(u32),
}

impl Hasher {
    pub(super) fn new(digest: Digest) -> Self {
        match digest {
            Digest::Sha512 => Self::Sha512(Box::default()),
            Digest::Blake3 => Self::Blake3(Box::default()),
            Digest::Sha1 => Self::Sha1(sha1::Sha1::new()),
            Digest::Md5 => Self::Md5(md5::Md5::new()),
            Digest::Crc32c => Self::Crc32c(0),
        }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha512(hasher) => hasher.update(bytes),
            Self::Blake3(hasher) => {
                hasher.update(bytes);
            }
            Self::Sha1(hasher) => hasher.update(bytes),
            Self::Md5(hasher) => hasher.update(bytes),
            Self::Crc32c(sum) => *sum = crc32c::crc32c_append(*sum, bytes),
        }
    }

    pub(super) fn finish(self) -> String {
        match self {
            Self::Sha512(hasher) => hex(&hasher.finalize()),
            Self::Blake3(hasher) => hex(hasher.finalize().as_bytes()),
            Self::Sha1(hasher) => hex(&hasher.finalize()),
            Self::Md5(hasher) => hex(&hasher.finalize()),
            Self::Crc32c(sum) => hex(&sum.to_be_bytes()),
        }
    }
}
