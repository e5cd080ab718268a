//! A kernel's types: whatever is accepted can be looked at from end to end.
#![no_main]

use impound::memory::symbols::btf::Btf;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(btf) = Btf::parse(bytes) else { return };
    for id in 0..btf.count().saturating_add(2) {
        let _ = (btf.kind(id), btf.size(id), btf.plain(id), btf.target(id), btf.name(id), btf.member(id, "mm"));
        let _ = (btf.members(id).count(), btf.values(id).count());
    }
});
