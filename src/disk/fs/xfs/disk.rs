//! The volume with its superblock, and which of its metadata can be trusted.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::superblock::{Superblock, checksum_fits};
use crate::image::fields::{Fields, read_structure};
use crate::image::{ReadAt, ReadError};

/// See the module.
pub(super) struct Disk {
    pub(super) volume: Arc<dyn ReadAt>,
    pub(super) sb: Superblock,
    /// Sectors that the log gave: a checksum is made when metadata goes to its place, so there is none yet.
    pub(super) replayed: Arc<BTreeSet<u64>>,
}

impl Disk {
    /// Allocation groups of which the volume holds something: it may have been cut short.
    pub(super) fn groups_there(&self) -> u32 {
        let group = u64::from(self.sb.ag_blocks).saturating_mul(self.sb.block_size);
        u32::try_from(self.volume.len().div_ceil(group)).unwrap_or(u32::MAX).min(self.sb.ag_count)
    }

    /// The structure `what` of `len` bytes at `at`.
    pub(super) fn structure(&self, what: &'static str, at: u64, len: usize) -> Result<Vec<u8>, ReadError> {
        read_structure(self.volume.as_ref(), what, at, len)
    }

    /// Does the checksum fit? Where there is none (version 4, or straight from the log), it does.
    pub(super) fn sound(&self, at: u64, bytes: &[u8], field: usize) -> bool {
        let end = at.saturating_add(bytes.len() as u64).div_ceil(512);
        !self.sb.v5 || checksum_fits(bytes, field) || self.replayed.range(at / 512..end).next().is_some()
    }

    /// Is it metadata of this file system, by the UUID it carries from version 5 on?
    pub(super) fn is_own(&self, fields: &Fields<'_>, uuid: usize) -> bool {
        !self.sb.v5 || fields.slice(uuid, 16).is_ok_and(|found| found == self.sb.uuid)
    }
}
