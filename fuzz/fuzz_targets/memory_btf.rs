//! A kernel's types, and a module's that go on where they end: whatever is accepted can be looked at from end to end.
#![no_main]

use impound::memory::symbols::btf::Btf;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(mut btf) = Btf::parse(bytes) else { return };
    // Bytes behind the kernel's are a module's.
    let module = bytes.get(btf.size_in_memory()..).unwrap_or_default();
    let own = btf.count();
    let refused = btf.add_modules(&[("m".to_owned(), module.to_vec())]);
    assert!(refused.is_empty() || btf.count() == own);
    for id in 0..btf.count().saturating_add(2) {
        let _ = (btf.kind(id), btf.size(id), btf.plain(id), btf.target(id), btf.name(id), btf.member(id, "mm"));
        let _ = (btf.members(id).count(), btf.values(id).count());
    }
});
