//! ext2, ext3, ext4: every structure that a walk, a read and a search for deleted files touch.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../filesystem.rs"]
mod filesystem;

fuzz_target!(|bytes: &[u8]| filesystem::explore("ext", bytes));
