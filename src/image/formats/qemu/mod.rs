//! QEMU's migration stream in a file (`migrate file:`, `exec:cat`, the state that `virsh save` keeps) and its form with a
//! fixed place for each page (capability `mapped-ram`, QEMU 9 and later).
//!
//! The stream has RAM by blocks, not by address; [`board`] says where the blocks of a machine type go. Device state follows
//! without lengths and is not read, so neither registers nor the windows of devices are known: of the RAM, what hides
//! behind the VGA window (0xa0000 to 0xbffff) is left out, and 0xc0000 to 0xfffff is shown as RAM, as it is once the firmware
//! has copied itself there.
//!
//! Source: QEMU's docs/devel/migration/main.rst "Stream structure" and mapped-ram.rst. The capture side has a reader of its
//! own (`impound_backends::qemu::stream`): that one takes a live pipe, hashes it, and refuses what it did not ask for; this one
//! seeks in a file, and must be there when the program is built without the QEMU backend.

mod board;
mod saved;
mod stream;

use std::sync::Arc;

use impound_backends::Why;

use super::shared::lacking::Lacking;
use super::shared::runs::{Run, Runs};
use crate::image::{Below, Content, Kind, Layer, Opened, Opening, ReadError, Wrapping};

pub(super) use saved::LIBVIRT;
use stream::{Block, Stream};

/// See the module.
pub(super) static MIGRATION: Wrapping = Wrapping {
    name: "qemu-migration",
    about: "QEMU migration stream in a file, or mapped-ram file",
    tested_against: "QEMU 10.0 exec: and file: with mapped-ram, pc and q35, below and above 4 GiB, against pmemsave",
    probe,
    open,
};

const MAGIC: [u8; 4] = *b"QEVM";
/// Most blocks whose names are told.
const TOLD: usize = 16;
const NOT_SENT: &str = "not in the stream";

fn probe(below: &Below) -> bool {
    below.head::<4>() == MAGIC
}

fn open(below: &Below) -> Opening {
    open_at(below, 0, Layer::new("qemu-migration", Content::Memory))
}

/// Opens the stream that begins at `start`. Positions inside a mapped-ram stream count from the beginning of the file.
fn open_at(below: &Below, start: u64, mut layer: Layer) -> Opening {
    let stream = stream::read(below, start)?;
    let machine = stream.machine.as_deref();
    layer.fact("machine", machine.unwrap_or("not told"));
    layer.fact("form", if stream.mapped { "mapped-ram" } else { "stream" });
    if !stream.complete {
        layer.odd("the stream ends before the end of memory: the migration was not completed");
    }
    let parts = board::main_memory(&stream.blocks, &mut layer)?;
    let total = parts.iter().map(|part| part.len).sum();
    below.allow("a QEMU migration stream", total)?;
    let split = board::split(machine, total, &mut layer);
    let (mut runs, mut lacking) = (Vec::new(), Vec::new());
    for place in &split {
        lacking.push((place.at, place.len));
        copy(&parts, place, &mut runs);
    }
    let others: Vec<_> =
        stream.blocks.iter().filter(|block| !parts.iter().any(|part| part.name == block.name)).collect();
    for block in others.iter().take(TOLD) {
        layer.fact("left out", format!("{} ({} bytes): its address is not in the stream", block.name, block.len));
    }
    inside(&stream, &runs, below.bytes.len())?;
    let bytes = Arc::new(Runs::new(Arc::clone(&below.bytes), runs, Kind::Gap(Why::NotRam)));
    Ok(Opened::new(Arc::new(Lacking::new(bytes, lacking, NOT_SENT)), layer))
}

/// Everything that a mapped-ram stream points to must be there.
fn inside(stream: &Stream, runs: &[Run], end: u64) -> Result<(), ReadError> {
    let past = |run: &&Run| run.from.is_some_and(|from| from.checked_add(run.len).is_none_or(|last| last > end));
    match runs.iter().filter(|_| stream.mapped).find(past) {
        Some(run) => {
            let expected = format_args!("pages inside the {end:#x} bytes of the file");
            let found = format_args!("{:#x} bytes for address {:#x}", run.len, run.at);
            Err(ReadError::corrupt("mapped-ram page area", run.from.unwrap_or(0), expected, found))
        }
        None => Ok(()),
    }
}

/// The runs of memory that go to `place`.
fn copy(parts: &[&Block], place: &board::Place, into: &mut Vec<Run>) {
    let mut begin = 0;
    for part in parts {
        for run in &part.runs {
            let (from, to) = (run.at + begin, run.end() + begin);
            let (from, to) = (from.max(place.from), to.min(place.from + place.len));
            if from < to
                && let Some(cut) = run.cut(from - begin, to - begin)
            {
                into.push(Run { at: place.at + (from - place.from), ..cut });
            }
        }
        begin += part.len;
    }
}
