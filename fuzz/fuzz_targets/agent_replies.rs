//! All that a guest's agent says.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = impound_backends::qemu::agent::parse(bytes);
});
