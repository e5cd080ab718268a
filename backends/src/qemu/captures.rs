//! What is told of memory and disks before their pieces come.

use serde_json::{Value, json};

use super::flatview::MemoryMap;
use super::methods::MemoryMethod;
use super::survey::DiskFound;
use crate::{Capture, Consistency, Item, PieceStream, Region};

/// Guest-physical memory; `holds_guest` is whether the guest stands still until it is read.
pub(super) fn memory(
    item: Item,
    (method, holds_guest): (MemoryMethod, bool),
    map: &MemoryMap,
    facts: Value,
    pieces: PieceStream,
    running: bool,
) -> Capture {
    Capture {
        method: method.name(),
        len: map.len,
        regions: map.regions(),
        consistency: if running { method.consistency() } else { Consistency::Instantaneous },
        holds_guest,
        item,
        facts,
        pieces,
    }
}

/// A disk as the guest saw it at the instant.
pub(super) fn disk(item: Item, disk: &DiskFound, pieces: PieceStream, running: bool) -> Capture {
    let facts = json!({ "node": disk.node, "file": disk.file, "format": disk.format, "read_only": disk.read_only });
    Capture {
        method: if disk.read_only { "export" } else { "fleece" },
        len: disk.size,
        regions: (disk.size > 0)
            .then(|| Region { at: 0, len: disk.size, name: disk.name.clone() })
            .into_iter()
            .collect(),
        consistency: if running && !disk.read_only {
            Consistency::QuasiInstantaneous
        } else {
            Consistency::Instantaneous
        },
        holds_guest: false,
        item,
        facts,
        pieces,
    }
}
