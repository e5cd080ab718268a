//! What every image target does with its bytes: nothing may panic, and nothing may go on for ever.

use std::sync::Arc;

use impound::image::{Below, InMemory, Kind, Options, map, open_below};

/// Opens `bytes` as `wrapping`, walks the map, reads up to 1 MiB of what it says is there.
pub fn explore(wrapping: &str, bytes: &[u8]) {
    let options = Options { wrapping: Some(wrapping.to_owned()), ..Options::default() };
    let below = Below::bytes(Arc::new(InMemory(bytes.to_vec())), options);
    let Ok(image) = open_below(below) else { return };
    let bytes = image.bytes();
    let mut left = 1_u64 << 20;
    for extent in map::walk(bytes.as_ref(), 0..bytes.len()).take(10_000) {
        let Ok(extent) = extent else { return };
        let len = extent.len.min(left).min(1 << 16);
        if !matches!(extent.kind, Kind::Gap(_)) && len > 0 {
            let mut part = vec![0; usize::try_from(len).unwrap_or(0)];
            let _ = bytes.read_at(extent.at, &mut part);
            left -= len;
        }
    }
}
