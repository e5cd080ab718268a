//! Page tables of arbitrary content: every walk ends, and says where or why not.
#![no_main]

use std::sync::Arc;

use impound::image::InMemory;
use impound::memory::paging::arm64::Geometry;
use impound::memory::paging::{Space, Tables};
use impound::memory::Physical;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((head, rest)) = bytes.split_at_checked(11) else { return };
    let at = u64::from_le_bytes(head[3..].try_into().unwrap());
    let tables = match head[0] % 2 {
        0 => Tables::X86(head[1]),
        _ => Tables::Arm64(Geometry { granule: head[1], bits: head[2], wide: head[0] & 2 == 2 }),
    };
    let space = Space::new(Arc::new(Physical::new(Arc::new(InMemory(rest.to_vec())))), 0, tables);
    let mut some = [0; 64];
    for at in [at, 0, 4090, u64::MAX - 40, 0xffff_8000_0000_0000] {
        let _ = (space.translate(at), space.read(at, &mut some), space.text(at, 5000), space.as_far_as(at, 9000));
    }
});
