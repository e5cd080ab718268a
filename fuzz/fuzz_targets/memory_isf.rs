//! A symbol file of arbitrary content, packed or not: it is read or refused, and what was read can be asked.
#![no_main]

use impound::memory::symbols::isf::Isf;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(isf) = Isf::read(bytes) {
        for id in 0..isf.types.count() {
            let _ = (isf.types.size(id), isf.types.member(id, "comm"), isf.types.values(id).count());
        }
        let _ = (isf.symbols.address("_text"), isf.symbols.at(u64::MAX));
    }
});
