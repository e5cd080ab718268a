//! What an ESXi host says; the first byte chooses which tool said it.
#![no_main]

use impound_backends::esx::{KINDS, read};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((first, rest)) = bytes.split_first() else { return };
    if let Some(kind) = KINDS.get(usize::from(*first) % KINDS.len()) {
        let _ = read(kind, rest);
    }
});
