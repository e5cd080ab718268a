//! NTFS: every structure that a walk, a read, a search for deleted files and the change journal touch.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../filesystem.rs"]
mod filesystem;

fuzz_target!(|bytes: &[u8]| filesystem::explore("ntfs", bytes));
