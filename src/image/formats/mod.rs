//! The wrappings: one file each, and its row in [`ALL`].

mod chain;
mod mapped;
mod qcow2;
mod vdi;
mod vhd;
mod vmdk;
mod zstd;

use super::Wrapping;

/// All of them, in the order in which they are tried. A format whose mark is weaker (a few bytes, or the name of the
/// file) stands behind those with a stronger one.
pub static ALL: &[&Wrapping] = &[&qcow2::QCOW2, &vmdk::VMDK, &vdi::VDI, &vhd::VHD, &zstd::ZSTD];
