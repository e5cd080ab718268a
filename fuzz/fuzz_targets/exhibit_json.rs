//! `exhibit.json` as somebody else may have written it: read or refused, never a panic.
#![no_main]

use impound::case::record;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Err(refused) = record::read(bytes) {
        assert!(!refused.to_string().chars().any(char::is_control), "it would steer a terminal");
    }
});
