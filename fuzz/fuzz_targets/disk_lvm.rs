//! LVM2: label, metadata area, text, volumes and snapshots.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../volumes.rs"]
mod volumes;
use volumes::explore;

fuzz_target!(|bytes: &[u8]| {
    explore(bytes.to_vec());
});
