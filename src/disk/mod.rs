//! What is on a disk: volumes, file systems, files, also deleted ones.
//!
//! An image is bytes ([`crate::image::ReadAt`]); a volume is bytes again ([`volume`]), a file system reads them ([`fs`]), and
//! a file in it is bytes once more. Nothing here writes to evidence, and nothing here trusts it: every count and
//! length is bounded before memory is taken for it, every list that is followed has a visited set or a limit.

pub mod address;
pub mod fs;
pub mod owners;
pub mod sort;
pub mod volume;
pub mod walk;

/// A number of bytes as a length in memory. What does not fit is longer than any buffer, and fails there.
pub(crate) fn us(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}
