//! The four checksums of btrfs. Kernel fs/btrfs/fs.h, `enum btrfs_csum_type`.

use blake2::{Blake2b, Digest, digest::consts::U32};
use sha2::Sha256;

/// Which one a file system uses, for metadata and data alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checksum {
    Crc32c,
    XxHash64,
    Sha256,
    Blake2b,
}

/// Room for the longest, in bytes.
pub(super) const LONGEST: usize = 32;

impl Checksum {
    /// By its number in the superblock.
    pub(super) fn of(number: u16) -> Option<Self> {
        Some(match number {
            0 => Self::Crc32c,
            1 => Self::XxHash64,
            2 => Self::Sha256,
            3 => Self::Blake2b,
            _ => return None,
        })
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Crc32c => "crc32c",
            Self::XxHash64 => "xxhash64",
            Self::Sha256 => "sha256",
            Self::Blake2b => "blake2b",
        }
    }

    /// Bytes that one takes in the checksum tree.
    pub(super) fn len(self) -> usize {
        match self {
            Self::Crc32c => 4,
            Self::XxHash64 => 8,
            Self::Sha256 | Self::Blake2b => LONGEST,
        }
    }

    /// Does `stored`, of which only the first bytes count, fit `bytes`?
    pub(super) fn fits(self, bytes: &[u8], stored: &[u8]) -> bool {
        let is = |found: &[u8]| stored.get(..found.len()) == Some(found);
        match self {
            Self::Crc32c => is(&crc32c::crc32c(bytes).to_le_bytes()),
            Self::XxHash64 => is(&twox_hash::XxHash64::oneshot(0, bytes).to_le_bytes()),
            Self::Sha256 => is(&Sha256::digest(bytes)),
            Self::Blake2b => is(&Blake2b::<U32>::digest(bytes)),
        }
    }
}
