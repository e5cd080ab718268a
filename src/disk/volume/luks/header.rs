//! What both versions of LUKS come down to: slots, a digest, and where the encrypted bytes are.

use super::key::{Digest, Slot};

/// A header that was read.
pub(super) struct Header {
    /// 1 or 2.
    pub(super) version: u16,
    pub(super) uuid: String,
    /// The name that LUKS2 may give.
    pub(super) label: String,
    pub(super) slots: Vec<Slot>,
    pub(super) digest: Digest,
    pub(super) segment: Segment,
    /// What else opens it: `systemd-tpm2`, `clevis`.
    pub(super) tokens: Vec<String>,
    pub(super) odd: Vec<String>,
}

/// The encrypted part.
pub(super) struct Segment {
    /// `aes-xts-plain64`.
    pub(super) cipher: String,
    /// First byte.
    pub(super) from: u64,
    /// Length in bytes; none: to the end.
    pub(super) len: Option<u64>,
    /// Bytes of a sector.
    pub(super) sector: u64,
    /// Number of the first sector, for its initial vector.
    pub(super) tweak: u64,
}
