//! LUKS1 and LUKS2 headers. No passphrase: what a header asks for is work by intent.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../volumes.rs"]
mod volumes;
use volumes::explore;

fuzz_target!(|bytes: &[u8]| {
    explore([b"LUKS\xba\xbe", bytes].concat());
});
