//! The log: writes to metadata that were promised and perhaps not done. [MS-VHDX] 2.3 says how the last whole sequence of
//! entries is found; its writes are then laid over the file, in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::headers::{Header, signed};
use crate::image::bytes::within;
use crate::image::fields::{Fields, read_structure};
use crate::image::{ReadAt, ReadError};

/// Alignment of entries and of the sectors that they write, in bytes.
const SECTOR: u64 = 4096;
/// Longest log that is read, in bytes. Hyper-V makes 1 MiB.
const MOST_LOG: u64 = 256 << 20;
/// Bytes of candidates that are checksummed, in lengths of the log: entries that lie over each other would cost a square.
const TRIES: u64 = 8;

/// One sound entry.
struct Entry {
    /// Offset in the log.
    at: u64,
    len: u64,
    tail: u64,
    sequence: u64,
    last_file_offset: u64,
    bytes: Vec<u8>,
}

/// Lays what the log promises over the file. Answers how many entries were played back.
pub(super) fn replay(file: &Arc<dyn ReadAt>, header: &Header) -> Result<(Arc<dyn ReadAt>, usize), ReadError> {
    let size = header.log_range.end - header.log_range.start;
    if size > MOST_LOG || !size.is_multiple_of(SECTOR) || size == 0 {
        let expected = format!("a log of whole sectors, at most {MOST_LOG} bytes");
        return Err(ReadError::corrupt("VHDX header", header.log_range.start, expected, size));
    }
    let log = read_structure(file.as_ref(), "VHDX log", header.log_range.start, usize::try_from(size).unwrap_or(0))?;
    let entries = entries(&log, header)?;
    let sequence = newest(&entries, size);
    if sequence.is_empty() {
        let at = header.log_range.start;
        return Err(ReadError::corrupt("VHDX log", at, "a whole sequence of entries", "none that is sound"));
    }
    let mut patched = Patched { below: Arc::clone(file), sectors: BTreeMap::new(), zeros: Vec::new(), len: file.len() };
    for entry in &sequence {
        patched.len = patched.len.max(entry.last_file_offset.min(file.len().saturating_add(64 << 30)));
        patched.apply(entry, header.log_range.start)?;
    }
    Ok((Arc::new(patched), sequence.len()))
}

/// Every sound entry of this log, by its place.
fn entries(log: &[u8], header: &Header) -> Result<BTreeMap<u64, Entry>, ReadError> {
    let size = log.len() as u64;
    let (mut found, mut tried) = (BTreeMap::new(), 0_u64);
    for at in (0..size).step_by(usize::try_from(SECTOR).unwrap_or(4096)) {
        let head = ring(log, at, 64);
        let fields = Fields::new("VHDX log entry", header.log_range.start + at, &head);
        let (len, tail) = (u64::from(fields.u32(8)?), u64::from(fields.u32(12)?));
        let fits = len >= SECTOR && len % SECTOR == 0 && len <= size && tail < size && tail % SECTOR == 0;
        if fields.array::<4>(0)? != *b"loge" || fields.array::<16>(32)? != header.log || !fits {
            continue;
        }
        tried += len;
        if tried > size * TRIES {
            return Err(fields.corrupt(8, "entries apart from each other", "entries that lie over each other"));
        }
        let bytes = ring(log, at, len);
        let whole = Fields::new("VHDX log entry", header.log_range.start + at, &bytes);
        if signed(&whole, *b"loge").is_ok() {
            let (sequence, last_file_offset) = (whole.u64(16)?, whole.u64(56)?);
            found.insert(at, Entry { at, len, tail, sequence, last_file_offset, bytes });
        }
    }
    Ok(found)
}

/// `len` bytes from `at` on; the log is a ring.
fn ring(log: &[u8], at: u64, len: u64) -> Vec<u8> {
    let (at, len) = (usize::try_from(at).unwrap_or(0), usize::try_from(len).unwrap_or(0));
    log.iter().cycle().skip(at).take(len).copied().collect()
}

/// The sequence with the highest numbers whose head names a tail in it: from there on the entries count.
fn newest(entries: &BTreeMap<u64, Entry>, size: u64) -> Vec<&Entry> {
    let mut best: Vec<&Entry> = Vec::new();
    for first in entries.values() {
        let (mut run, mut last) = (vec![first], first);
        while let Some(next) = entries.get(&((last.at + last.len) % size)) {
            if last.sequence.checked_add(1) != Some(next.sequence) || run.len() > entries.len() {
                break;
            }
            run.push(next);
            last = next;
        }
        // A head's tail must be in the sequence; entries before it were flushed already.
        let Some(tail) = run.iter().position(|entry| entry.at == last.tail) else { continue };
        if best.last().is_none_or(|head| head.sequence < last.sequence) {
            best = run.split_off(tail);
        }
    }
    best
}

/// The file with what the log writes.
struct Patched {
    below: Arc<dyn ReadAt>,
    /// By offset; each of [`SECTOR`] bytes.
    sectors: BTreeMap<u64, Vec<u8>>,
    /// Ranges of zeros, in the order in which they were written; sectors that came later are in `sectors`.
    zeros: Vec<(u64, u64)>,
    len: u64,
}

impl Patched {
    fn apply(&mut self, entry: &Entry, log: u64) -> Result<(), ReadError> {
        let fields = Fields::new("VHDX log entry", log + entry.at, &entry.bytes);
        let count = usize::try_from(fields.u32(24)?).unwrap_or(usize::MAX);
        // Descriptors fill whole sectors, header included; the data sectors follow.
        let table = count.checked_mul(32).and_then(|len| len.checked_add(64)).map(|len| len.next_multiple_of(4096));
        let Some(mut data) = table.filter(|table| *table <= entry.bytes.len()) else {
            return Err(fields.corrupt(
                24,
                format_args!("descriptors inside the {} bytes of the entry", entry.len),
                count,
            ));
        };
        for i in 0..count {
            let at = 64 + i * 32;
            let file = fields.u64(at + 16)?;
            if file % SECTOR != 0 || fields.u64(at + 24)? != entry.sequence {
                return Err(fields.corrupt(
                    at,
                    "a descriptor of this entry, on a sector",
                    format_args!("one for {file:#x}"),
                ));
            }
            match &fields.array::<4>(at)? {
                b"zero" => {
                    let end = file.saturating_add(fields.u64(at + 8)?);
                    self.sectors.retain(|sector, _| !(file..end).contains(sector));
                    self.zeros.push((file, end));
                }
                b"desc" => {
                    let sector = fields.slice(data, 4096)?;
                    let inner = Fields::new("VHDX log data sector", log + entry.at + data as u64, sector);
                    let (high, low) = (u64::from(inner.u32(4)?), u64::from(inner.u32(4092)?));
                    if inner.array::<4>(0)? != *b"data" || high << 32 | low != entry.sequence {
                        return Err(inner.corrupt(0, "a data sector of this entry", "another"));
                    }
                    let mut bytes = fields.slice(at + 8, 8)?.to_vec();
                    bytes.extend_from_slice(inner.slice(8, 4084)?);
                    bytes.extend_from_slice(fields.slice(at + 4, 4)?);
                    self.sectors.insert(file, bytes);
                    data += 4096;
                }
                other => return Err(fields.corrupt(at, "`zero` or `desc`", crate::image::hex(other))),
            }
        }
        Ok(())
    }

    /// One sector, or a part of one.
    fn sector(&self, at: u64, into: &mut [u8]) -> Result<(), ReadError> {
        let begin = at - at % SECTOR;
        let from = usize::try_from(at - begin).unwrap_or(0);
        if let Some(bytes) = self.sectors.get(&begin).and_then(|bytes| bytes.get(from..from + into.len())) {
            into.copy_from_slice(bytes);
        } else if self.zeros.iter().any(|(from, to)| (*from..*to).contains(&begin)) || at >= self.below.len() {
            into.fill(0);
        } else {
            let there = usize::try_from(self.below.len() - at).unwrap_or(usize::MAX).min(into.len());
            let (now, behind) = into.split_at_mut(there);
            behind.fill(0);
            self.below.read_at(at, now)?;
        }
        Ok(())
    }
}

impl ReadAt for Patched {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, mut at: u64, mut into: &mut [u8]) -> Result<(), ReadError> {
        let end = at.saturating_add(into.len() as u64);
        within(self.len, at, into.len() as u64)?;
        let first = at - at % SECTOR;
        let touched = self.sectors.range(first..end).next().is_some() || end > self.below.len();
        if !touched && !self.zeros.iter().any(|(from, to)| *from < end && *to > first) {
            return self.below.read_at(at, into);
        }
        while !into.is_empty() {
            let here = usize::try_from(SECTOR - at % SECTOR).unwrap_or(4096).min(into.len());
            let (part, rest) = into.split_at_mut(here);
            self.sector(at, part)?;
            at += here as u64;
            into = rest;
        }
        Ok(())
    }
}
