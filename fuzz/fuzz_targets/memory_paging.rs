//! Page tables of arbitrary content: every walk ends, and says where or why not.
#![no_main]

use std::sync::Arc;

use impound::image::InMemory;
use impound::memory::paging::Space;
use impound::memory::Physical;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((head, rest)) = bytes.split_at_checked(9) else { return };
    let (levels, at) = (head[0], u64::from_le_bytes(head[1..].try_into().unwrap()));
    let space = Space::new(Arc::new(Physical::new(Arc::new(InMemory(rest.to_vec())))), 0, levels);
    let mut some = [0; 64];
    for at in [at, 0, 4090, u64::MAX - 40, 0xffff_8000_0000_0000] {
        let _ = (space.translate(at), space.read(at, &mut some), space.text(at, 5000), space.as_far_as(at, 9000));
    }
});
