//! The wrappings: one file each, and its row in [`ALL`].

mod ewf;
mod split;
mod vhdx;
mod zstd;

use super::Wrapping;

/// All of them, in the order in which they are tried. A format whose mark is weaker (a few bytes, or the name of the
/// file) stands behind those with a stronger one.
pub static ALL: &[&Wrapping] = &[&zstd::ZSTD, &ewf::EWF, &vhdx::VHDX, &split::SPLIT];
