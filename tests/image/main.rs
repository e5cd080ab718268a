//! Images: the same content in every wrapping reads the same, outside tools agree, and damage is named.
//!
//! `kit` makes content and runs outside tools; one file for each family of formats; `damaged` goes through the folder of
//! damaged samples.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod damaged;
#[path = "../common/deltas.rs"]
mod deltas;
mod elf;
mod ewf;
mod exhibit;
mod export;
mod kdump;
mod kit;
mod lime_avml;
mod memory;
mod memory_damage;
mod qcow2;
mod qemu_stream;
mod samples;
mod vdi_vhd;
mod vhdx;
mod vmdk;
#[path = "../common/vmsn.rs"]
mod vmsn;
mod vmware;
mod windows;
mod xen;
#[path = "../common/xencore.rs"]
mod xencore;
mod zstd;
