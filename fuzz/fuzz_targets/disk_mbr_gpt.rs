//! Partition tables: whatever they say, an answer or a named error.
#![no_main]

use std::sync::Arc;

use impound::disk::volume::scan;
use impound::image::{InMemory, ReadAt};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let disk: Arc<dyn ReadAt> = Arc::new(InMemory(bytes.to_vec()));
    let Ok(found) = scan(&disk) else { return };
    for volume in found.readable() {
        let _ = volume.bytes().expect("a partition lies on its disk");
    }
});
