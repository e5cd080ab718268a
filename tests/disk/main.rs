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

mod btrfs;
mod btrfs_damage;
mod btrfs_log;
mod btrfs_lost;
mod damage;
mod deleted;
mod exfat;
mod ext;
mod extract;
mod fat;
mod features;
mod iso;
mod kit;
mod luks;
mod lvm;
mod md;
mod ntfs;
mod samples;
mod verbs;
mod volumes;
mod xfs;
mod xfs_damage;
mod xfs_kit;
