//! FAT12, FAT16 and FAT32: tables, directories, content, deleted files.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../filesystem.rs"]
mod filesystem;

fuzz_target!(|bytes: &[u8]| filesystem::explore("fat", bytes));
