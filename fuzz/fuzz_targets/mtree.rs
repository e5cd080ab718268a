//! The text of `info mtree -f`: every byte below the end is memory or a hole.
#![no_main]

use impound_backends::qemu::flatview::MemoryMap;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(map) = MemoryMap::parse(text, &["pc.ram".to_owned()]) else { return };
    let memory: u64 = map.ranges.iter().map(|range| range.len).sum();
    let holes: u64 = map.holes().iter().map(|hole| hole.1).sum();
    assert_eq!(memory + holes, map.len);
});
