//! Real guests under QEMU, and hosts that run some: locally, behind libvirt, behind SSH, and Xen. Whatever boots a guest is here, and at
//! most two tests of this program run at a time.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "this is test code: what is not there should fail the test"
)]

mod acquire;
#[path = "../common/mod.rs"]
mod common;
mod counter;
mod crash;
mod drops;
mod ends;
#[cfg(feature = "esx")]
mod esx;
mod hooked;
mod image;
mod kernels;
mod libvirt;
mod memory;
mod quiesce;
mod ssh;
mod xen;
