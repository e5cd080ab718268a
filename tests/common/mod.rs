//! What the integration tests share. Each test file uses a part of it.
#![allow(dead_code, unreachable_pub, reason = "every test file is its own crate and uses a part of this")]
#![allow(
    missing_docs,
    clippy::indexing_slicing,
    clippy::case_sensitive_file_extension_comparisons,
    clippy::cast_possible_truncation,
    clippy::panic,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "this is test code: what is not there should fail the test"
)]

pub mod agent;
pub mod control;
pub mod counter;
pub mod deltas;
pub mod elf;
pub mod esx;
pub mod guest;
pub mod killer;
pub mod libvirtd;
pub mod live;
pub mod memory;
pub mod pages;
pub mod run;
pub mod sshd;
pub mod there;
pub mod vmsn;
pub mod xen;
pub mod xencore;
