//! Disks: volumes and files as outside tools see them, deleted files, damage, extraction.
//!
//! Images are made by `mke2fs -d` and `debugfs`, which need no mount. A test that needs one says so where it cannot have it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod damage;
mod deleted;
mod ext;
mod extract;
mod features;
mod kit;
mod verbs;
mod volumes;
