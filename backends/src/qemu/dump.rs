//! The method `paused`: QEMU's own ELF dump of guest memory into a passed descriptor, the guest standing still.
//!
//! Source: System V ABI, "Object Files" (ELF-64); QEMU `dump/dump.c`, which writes the header, the notes and then each
//! range in ascending order of file offset, so that a pipe can take it.

use std::io::{self, Read};
use std::sync::Arc;

use bytes::Bytes;

use super::flatview::MemoryMap;
use super::pieces::{Sender, forward, skip};
use crate::Piece;

const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// Longest notes accepted, in bytes: 4096 CPUs have about 4 MiB.
const NOTES_MAX: u64 = 32 << 20;

struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    len: u64,
}

/// Reads a dump to its end and sends what lies inside `map`. `Ok(false)`: nobody takes it any more.
pub(super) fn read(from: &mut impl Read, map: &Arc<MemoryMap>, to: &Sender) -> Result<bool, String> {
    let mut at = 0u64;
    let segments = segments(from, &mut at)?;
    for segment in segments {
        let before = segment.offset.checked_sub(at).ok_or("the dump's segments overlap")?;
        skip(from, before).map_err(|e| short(&e))?;
        at = segment.offset.saturating_add(segment.len);
        let go_on = match segment.kind {
            PT_NOTE => notes(from, segment.len, to)?,
            _ => load(from, &segment, map, to).map_err(|e| short(&e))?,
        };
        if !go_on {
            return Ok(false);
        }
    }
    Ok(true)
}

fn short(error: &io::Error) -> String {
    format!("the dump ended early: {error}")
}

/// The segments with contents, in the order of the file.
fn segments(from: &mut impl Read, at: &mut u64) -> Result<Vec<Segment>, String> {
    let mut header = [0; HEADER];
    from.read_exact(&mut header).map_err(|e| short(&e))?;
    if !header.starts_with(b"\x7fELF\x02\x01") {
        return Err("the dump is no 64-bit little-endian ELF file".to_owned());
    }
    let (table, size, count) = (le(&header, 32, 8), le(&header, 54, 2), le(&header, 56, 2));
    if size != PROGRAM_HEADER as u64 || count == 0 || count == 0xffff {
        return Err(format!("the dump has {count} program headers of {size} bytes; 1 to 65534 of 56 can be read"));
    }
    skip(from, table.checked_sub(HEADER as u64).ok_or("the program headers overlap the ELF header")?)
        .map_err(|e| short(&e))?;
    let mut segments = Vec::new();
    for _ in 0..count {
        let mut entry = [0; PROGRAM_HEADER];
        from.read_exact(&mut entry).map_err(|e| short(&e))?;
        let kind = u32::try_from(le(&entry, 0, 4)).unwrap_or(0);
        let segment = Segment { kind, offset: le(&entry, 8, 8), address: le(&entry, 24, 8), len: le(&entry, 32, 8) };
        if matches!(kind, PT_LOAD | PT_NOTE) && segment.len > 0 {
            segments.push(segment);
        }
    }
    segments.sort_by_key(|segment| segment.offset);
    *at = table.saturating_add(count.saturating_mul(size));
    Ok(segments)
}

fn notes(from: &mut impl Read, len: u64, to: &Sender) -> Result<bool, String> {
    if len > NOTES_MAX {
        return Err(format!("the dump has {len} bytes of notes; at most {NOTES_MAX} are read"));
    }
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    from.read_exact(&mut bytes).map_err(|e| short(&e))?;
    Ok(to.blocking_send(Ok(Piece::Aside { name: "cpu-notes.bin", bytes: Bytes::from(bytes) })).is_ok())
}

fn load(from: &mut impl Read, segment: &Segment, map: &Arc<MemoryMap>, to: &Sender) -> io::Result<bool> {
    let end = segment.address.saturating_add(segment.len);
    let mut next = segment.address;
    for range in &map.ranges {
        let (start, stop) = (next.max(range.at), end.min(range.at.saturating_add(range.len)));
        if start >= stop {
            continue;
        }
        skip(from, start - next)?;
        if !forward(from, start, stop - start, to)? {
            return Ok(false);
        }
        next = stop;
    }
    skip(from, end - next)?;
    Ok(true)
}

fn le(bytes: &[u8], at: usize, len: usize) -> u64 {
    (at..at.saturating_add(len)).rev().fold(0, |n, i| n << 8 | u64::from(bytes.get(i).copied().unwrap_or(0)))
}

/// Reads a dump whose memory goes nowhere: for tests and the fuzzer.
pub fn parse(bytes: &[u8]) -> Result<(), String> {
    let map = Arc::new(MemoryMap { ranges: Vec::new(), left_out: Vec::new(), len: 0 });
    let (to, mut from) = tokio::sync::mpsc::channel(8);
    std::thread::scope(|scope| {
        scope.spawn(move || while from.blocking_recv().is_some() {});
        let outcome = read(&mut &*bytes, &map, &to);
        drop(to);
        outcome.map(drop)
    })
}
