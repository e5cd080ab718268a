//! md: superblocks of every version, at the front as at the end.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../volumes.rs"]
mod volumes;
use volumes::explore;

fuzz_target!(|bytes: &[u8]| {
    explore(bytes.to_vec());
});
