//! qcow2: tables, compressed clusters and snapshots: whatever they say, an answer or a named error.
#![no_main]

use std::sync::Arc;

use impound::image::{Below, InMemory, Kind, Options, map, open_below};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let options = Options { wrapping: Some("qcow2".to_owned()), ..Options::default() };
    let below = Below::bytes(Arc::new(InMemory(bytes.to_vec())), options);
    let Ok(image) = open_below(below) else { return };
    let mut buffer = vec![0; 1 << 20];
    for extent in map::walk(image.bytes().as_ref(), 0..image.bytes().len()).take(10_000) {
        let Ok(extent) = extent else { return };
        let len = extent.len.min(buffer.len() as u64) as usize;
        if extent.kind == Kind::Data && image.bytes().read_at(extent.at, &mut buffer[..len]).is_err() {
            return;
        }
    }
});
