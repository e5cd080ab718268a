//! A kernel's table of symbols, found in arbitrary bytes by its digits.
#![no_main]

use impound::memory::symbols::kallsyms::{Kallsyms, TOKENS};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let hits = bytes.windows(TOKENS.len()).enumerate().filter(|(_, part)| *part == TOKENS);
    for (hit, _) in hits.take(4) {
        if let Ok(symbols) = Kallsyms::parse(bytes, hit, 0xffff_ffff_8100_0000) {
            assert_eq!(symbols.iter().count(), symbols.len());
            let _ = (symbols.address("_text"), symbols.at(u64::MAX));
        }
    }
});
