//! XFS: every structure that a walk, a read, the log and a search for deleted files touch.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../filesystem.rs"]
mod filesystem;

fuzz_target!(|bytes: &[u8]| filesystem::explore("xfs", bytes));
