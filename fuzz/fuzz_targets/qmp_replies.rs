//! A line of QMP.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = impound_backends::wire::qmp::parse(bytes);
});
