//! The wrappings: one file each, and its row in [`ALL`].

mod avml;
mod elf;
mod ewf;
mod kdump;
mod lime;
mod qcow2;
mod qemu;
mod shared;
mod split;
mod vdi;
mod vhd;
pub(crate) mod vhdx;
mod vmdk;
mod vmware;
mod windows;
mod xen;
mod zstd;

use super::Wrapping;

/// All of them, in the order in which they are tried: parts of a file first, since only together they are anything; a
/// format whose mark is weaker (a few bytes, or the name of the file) behind those with a stronger one.
pub static ALL: &[&Wrapping] = &[
    &split::SPLIT,
    &zstd::ZSTD,
    &ewf::EWF,
    &qcow2::QCOW2,
    &vmdk::VMDK,
    &vhdx::VHDX,
    &vdi::VDI,
    &lime::LIME,
    &avml::AVML,
    &xen::XEN,
    &elf::ELF,
    &kdump::FLATTENED,
    &kdump::KDUMP,
    &qemu::MIGRATION,
    &qemu::LIBVIRT,
    &windows::CRASH,
    &windows::HIBERNATION,
    &vmware::VMWARE,
    &vhd::VHD,
];
