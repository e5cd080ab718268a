//! What every target of volumes does with its bytes: whatever they say, an answer or a named error.

use std::sync::Arc;

use impound::disk::volume::scan;
use impound::image::{InMemory, ReadAt};

/// Puts together what `disk` is part of, and reads the front of what comes out.
pub fn explore(disk: Vec<u8>) {
    let disk: Arc<dyn ReadAt> = Arc::new(InMemory(disk));
    let Ok(found) = scan(&disk) else { return };
    for bytes in found.list.iter().filter_map(|volume| volume.bytes().ok()) {
        let mut part = vec![0; usize::try_from(bytes.len().min(4096)).unwrap_or(0)];
        let _ = (bytes.read_at(0, &mut part), bytes.extent(0));
    }
}
