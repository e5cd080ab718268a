//! The chunks: found through their tables, read several at a time, checked, inflated.

use std::sync::Arc;

use impound_backends::Why;

use super::e01;
use crate::image::bytes::within;
use crate::image::cache::Cache;
use crate::image::fields::{Fields, read_structure};
use crate::image::inflate;
use crate::image::{Extent, Kind, ReadAt, ReadError, read_vec};

/// Bytes of decoded chunks that are kept.
const CACHE: usize = 16 << 20;
/// Bytes of tables that are kept.
const TABLES: usize = 32 << 20;
/// Longest read from a segment, in bytes.
const READ: u64 = 4 << 20;

/// A table of chunks, still in its file.
pub(super) struct Table {
    /// Number of its first chunk.
    pub(super) first: u64,
    pub(super) count: u64,
    /// Index of the segment.
    pub(super) file: usize,
    /// Offset of the entries.
    pub(super) entries: u64,
    pub(super) layout: Layout,
}

/// How the entries say where a chunk is.
#[derive(Clone, Copy)]
pub(super) enum Layout {
    /// 32 bits: an offset from `base`, and the highest bit for "deflated". A chunk ends where the next one begins, the
    /// last one at `end`.
    E01 { base: u64, end: u64, checked: bool },
    /// 16 bytes: offset, length, flags.
    Ex01,
}

/// Where one chunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Chunk {
    at: u64,
    len: u64,
    form: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Deflated (zlib), which has its own checksum.
    Deflated,
    /// As it is, with or without an Adler-32 behind it.
    Plain { checksum: bool },
    /// Eight bytes over and over, which stand in the entry.
    Pattern(u64),
}

/// The medium.
pub(super) struct Chunks {
    files: Vec<Arc<dyn ReadAt>>,
    /// Length of a chunk in bytes.
    chunk: u64,
    len: u64,
    tables: Vec<Table>,
    /// Ascending, apart, inside.
    gaps: Vec<(u64, u64)>,
    /// Where the chunks end; before `len` if the acquisition was cut off.
    there: u64,
    decoded: Cache,
    entries: Cache,
}

impl Chunks {
    pub(super) fn new(
        files: Vec<Arc<dyn ReadAt>>,
        chunk: u64,
        len: u64,
        tables: Vec<Table>,
        mut unread: Vec<(u64, u64)>,
    ) -> Result<Self, ReadError> {
        let count = tables.last().map_or(0, |table| table.first + table.count);
        if count > len.div_ceil(chunk) {
            let expected = format!("at most {} chunks for {len} bytes", len.div_ceil(chunk));
            return Err(ReadError::corrupt("EWF tables", 0, expected, count));
        }
        unread.sort_unstable();
        let mut gaps: Vec<(u64, u64)> = Vec::new();
        for (at, run) in unread {
            let (at, end) = (at.max(gaps.last().map_or(0, |(at, len)| at + len)), at.saturating_add(run).min(len));
            if at < end {
                gaps.push((at, end - at));
            }
        }
        let there = count.saturating_mul(chunk).min(len);
        Ok(Self { files, chunk, len, tables, gaps, there, decoded: Cache::new(CACHE), entries: Cache::new(TABLES) })
    }

    /// What an examiner should know.
    pub(super) fn odd(&self) -> Vec<String> {
        let mut odd = Vec::new();
        if !self.gaps.is_empty() {
            let bytes: u64 = self.gaps.iter().map(|(_, len)| len).sum();
            odd.push(format!("{bytes} bytes in {} ranges could not be read when it was acquired", self.gaps.len()));
        }
        if self.there < self.len {
            odd.push(format!("it was cut off: {} of {} bytes are there", self.there, self.len));
        }
        odd
    }

    /// The table of chunk `number`, and its entries.
    fn table(&self, number: u64) -> Result<(&Table, Arc<Vec<u8>>), ReadError> {
        let index = self.tables.partition_point(|table| table.first + table.count <= number);
        let missing = || ReadError::caller("read an EWF chunk", "there are not so many");
        let table = self.tables.get(index).ok_or_else(missing)?;
        let entries = self.entries.get(index as u64, || self.load(table))?;
        Ok((table, entries))
    }

    fn load(&self, table: &Table) -> Result<Vec<u8>, ReadError> {
        const WHAT: &str = "EWF table entries";
        let (entry, tail) = match table.layout {
            Layout::E01 { checked, .. } => (4, if checked { 4 } else { 0 }),
            Layout::Ex01 => (16, 4),
        };
        let size = usize::try_from(table.count * entry).unwrap_or(usize::MAX);
        let bytes = read_structure(self.file(table.file)?, WHAT, table.entries, size.saturating_add(tail))?;
        if tail > 0 {
            e01::checksum(&Fields::new(WHAT, table.entries, &bytes), size)?;
        }
        Ok(bytes)
    }

    fn file(&self, index: usize) -> Result<&dyn ReadAt, ReadError> {
        let missing = || ReadError::caller("read an EWF chunk", "its segment is not there");
        self.files.get(index).map(AsRef::as_ref).ok_or_else(missing)
    }

    /// Where chunk `number` of this table is.
    fn chunk(&self, table: &Table, entries: &[u8], number: u64) -> Result<Chunk, ReadError> {
        let index = usize::try_from(number - table.first).unwrap_or(usize::MAX);
        let fields = Fields::new("EWF table entries", table.entries, entries);
        let chunk = match table.layout {
            Layout::E01 { base, end, .. } => {
                let word = fields.u32(index.saturating_mul(4))?;
                let at = base.saturating_add(u64::from(word & 0x7fff_ffff));
                let last = number + 1 == table.first + table.count;
                let next = if last {
                    end
                } else {
                    base.saturating_add(u64::from(fields.u32(index.saturating_mul(4) + 4)? & 0x7fff_ffff))
                };
                let form = if word >> 31 == 1 { Form::Deflated } else { Form::Plain { checksum: true } };
                Chunk { at, len: next.saturating_sub(at), form }
            }
            Layout::Ex01 => {
                let entry = index.saturating_mul(16);
                let (at, len, flags) = (fields.u64(entry)?, u64::from(fields.u32(entry + 8)?), fields.u32(entry + 12)?);
                let form = match flags & 7 {
                    pattern if pattern & 4 != 0 => return Ok(Chunk { at: 0, len: 0, form: Form::Pattern(at) }),
                    deflated if deflated & 1 != 0 => Form::Deflated,
                    plain => Form::Plain { checksum: plain & 2 != 0 },
                };
                Chunk { at, len, form }
            }
        };
        // A deflated chunk is at most a little longer than a plain one.
        let most = self.chunk + self.chunk / 8 + 1024;
        let size = self.file(table.file)?.len();
        if chunk.len == 0 || chunk.len > most || chunk.at.checked_add(chunk.len).is_none_or(|end| end > size) {
            let expected = format_args!("1 to {most} bytes for chunk {number}, inside the {size:#x} bytes of the file");
            return Err(fields.corrupt(
                index.saturating_mul(4),
                expected,
                format_args!("{} bytes at {:#x}", chunk.len, chunk.at),
            ));
        }
        Ok(chunk)
    }

    /// Length in bytes of chunk `number`, decoded.
    fn length(&self, number: u64) -> usize {
        usize::try_from((self.len - number * self.chunk).min(self.chunk)).unwrap_or(0)
    }

    /// Decodes what was read of a chunk into `into`, which is as long as the chunk.
    fn decode(chunk: Chunk, packed: &[u8], into: &mut [u8]) -> Result<(), ReadError> {
        let corrupt = |expected: String, found: String| ReadError::corrupt("EWF chunk", chunk.at, expected, found);
        match chunk.form {
            Form::Pattern(pattern) => {
                let bytes = pattern.to_le_bytes();
                into.iter_mut().zip(bytes.iter().cycle()).for_each(|(to, from)| *to = *from);
            }
            Form::Plain { checksum } => {
                let (data, tail) = packed.split_at_checked(into.len()).unwrap_or((packed, &[]));
                if data.len() != into.len() || (checksum && tail.len() < 4) {
                    return Err(corrupt(
                        format!("{} bytes and a checksum", into.len()),
                        format!("{} bytes", packed.len()),
                    ));
                }
                let told = tail.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
                let computed = simd_adler32::adler32(&data);
                if checksum && told != Some(computed) {
                    let found = format!("{:#010x}", told.unwrap_or(0));
                    return Err(corrupt(format!("Adler-32 {computed:#010x}"), found));
                }
                into.copy_from_slice(data);
            }
            Form::Deflated => {
                let want = into.len();
                inflate::zlib(packed, into).map_err(|found| corrupt(format!("{want} bytes, deflated"), found))?;
            }
        }
        Ok(())
    }

    /// One chunk by way of the cache.
    fn cached(&self, number: u64) -> Result<Arc<Vec<u8>>, ReadError> {
        self.decoded.get(number, || {
            let mut bytes = vec![0; self.length(number)];
            let (table, entries) = self.table(number)?;
            let chunk = self.chunk(table, &entries, number)?;
            let packed = read_vec(self.file(table.file)?, chunk.at, usize::try_from(chunk.len).unwrap_or(0))?;
            Self::decode(chunk, &packed, &mut bytes)?;
            Ok(bytes)
        })
    }

    /// Whole chunks from `number` on, straight into `into`: one read for all that lie together. Answers how many bytes.
    fn whole(&self, number: u64, into: &mut [u8]) -> Result<usize, ReadError> {
        let (table, entries) = self.table(number)?;
        let mut chunks = Vec::new();
        let (mut want, mut next, mut end) = (0, number, None);
        while next < table.first + table.count && want + self.length(next) <= into.len() {
            let chunk = self.chunk(table, &entries, next)?;
            let first = chunks.first().map_or(chunk.at, |first: &Chunk| first.at);
            let together = chunk.at.saturating_add(chunk.len).saturating_sub(first) <= READ;
            if matches!(chunk.form, Form::Pattern(_)) || end.is_some_and(|end| end != chunk.at || !together) {
                break;
            }
            end = Some(chunk.at + chunk.len);
            chunks.push(chunk);
            want += self.length(next);
            next += 1;
        }
        let (Some(first), Some(end)) = (chunks.first(), end) else { return Ok(0) };
        let packed = read_vec(self.file(table.file)?, first.at, usize::try_from(end - first.at).unwrap_or(0))?;
        let (mut rest, mut done) = (into, 0);
        for (number, chunk) in (number..).zip(&chunks) {
            let from = usize::try_from(chunk.at - first.at).unwrap_or(0);
            let part = packed.get(from..from + usize::try_from(chunk.len).unwrap_or(0)).unwrap_or_default();
            let (now, later) = rest.split_at_mut(self.length(number));
            Self::decode(*chunk, part, now)?;
            done += now.len();
            rest = later;
        }
        Ok(done)
    }

    /// What at `at` is not there, and how far.
    fn gap(&self, at: u64) -> Option<Extent> {
        if at >= self.there {
            let why = Why::Unreadable("the acquisition ended before it came so far".to_owned());
            return Some(Extent { at, len: self.len - at, kind: Kind::Gap(why) });
        }
        let (begin, len) = self.gaps.get(self.gaps.partition_point(|(begin, len)| begin + len <= at))?;
        let why = Why::Unreadable("it could not be read when the image was acquired".to_owned());
        (*begin <= at).then(|| Extent { at, len: begin + len - at, kind: Kind::Gap(why) })
    }

    /// Where the next gap behind `at` begins, or the end.
    fn until(&self, at: u64) -> u64 {
        let next = self.gaps.get(self.gaps.partition_point(|(begin, _)| *begin <= at));
        next.map_or(self.there, |(begin, _)| (*begin).min(self.there))
    }
}

impl ReadAt for Chunks {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, mut at: u64, mut into: &mut [u8]) -> Result<(), ReadError> {
        within(self.len, at, into.len() as u64)?;
        while !into.is_empty() {
            if let Some(Extent { at, len, kind: Kind::Gap(why) }) = self.gap(at) {
                return Err(ReadError::Gap { at, len, why });
            }
            let here = usize::try_from(self.until(at) - at).unwrap_or(usize::MAX).min(into.len());
            let (number, inside) = (at / self.chunk, usize::try_from(at % self.chunk).unwrap_or(0));
            let (part, _) = into.split_at_mut(here);
            let whole = inside == 0 && part.len() >= self.length(number);
            let mut done = if whole { self.whole(number, part)? } else { 0 };
            if done == 0 {
                let unit = self.cached(number)?;
                done = unit.len().saturating_sub(inside).min(part.len());
                let from = unit.get(inside..inside + done).unwrap_or_default();
                part.get_mut(..done).unwrap_or_default().copy_from_slice(from);
            }
            at += done as u64;
            into = into.get_mut(done..).unwrap_or_default();
        }
        Ok(())
    }

    fn unit(&self) -> u64 {
        self.chunk
    }

    fn extent(&self, at: u64) -> Result<Extent, ReadError> {
        within(self.len, at, 1)?;
        let data = || Extent { at, len: self.until(at) - at, kind: Kind::Data };
        Ok(self.gap(at).unwrap_or_else(data))
    }
}
