//! The pages of a kdump file: found by counting bits, read by descriptors, decoded alone.

use std::sync::Arc;

use impound_backends::Why;

use crate::image::bytes::within;
use crate::image::cache::Cache;
use crate::image::fields::Fields;
use crate::image::{Extent, Kind, ReadAt, ReadError, inflate, read_vec};

/// Bytes of a bitmap that are looked at together: 32,768 pages.
const PART: u64 = 4096;
/// Pages of a part.
const PART_PAGES: u64 = PART * 8;
/// Length of a descriptor in bytes.
const DESCRIPTOR: u64 = 24;
/// Descriptors that are read at once.
const TOGETHER: u64 = 1024;
/// Bytes of decoded pages, and of bitmaps, that are kept.
const CACHE: usize = 8 << 20;

const FILTERED: &str = "left out when the dump was made (makedumpfile -d)";
const CUT: &str = "cut off: the dump ended before this page was written";

const ZLIB: u32 = 0x01;
const LZO: u32 = 0x02;
const SNAPPY: u32 = 0x04;
const ZSTD: u32 = 0x20;

/// Where the tables are, in bytes, and how much they cover.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table {
    /// Bitmap of the frames that are memory.
    pub(super) memory: u64,
    /// Bitmap of those that are here.
    pub(super) here: u64,
    pub(super) frames: u64,
    pub(super) descriptors: u64,
    pub(super) block: u64,
}

#[derive(Debug, Clone, Copy)]
struct Descriptor {
    /// Where it stands itself.
    at: u64,
    from: u64,
    len: u32,
    flags: u32,
}

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Here,
    Filtered,
    NotRam,
}

pub(super) struct Pages {
    file: Arc<dyn ReadAt>,
    table: Table,
    /// Pages that are here before each part.
    ranks: Vec<u64>,
    count: u64,
    /// Some pages at the end are missing.
    cut: bool,
    decoded: Cache,
    bitmaps: Cache,
}

impl Pages {
    /// Counts the pages; `incomplete` if the header says that some are missing.
    pub(super) fn new(file: Arc<dyn ReadAt>, table: Table, incomplete: bool) -> Result<Self, ReadError> {
        let mut this = Self {
            file,
            table,
            ranks: Vec::new(),
            count: 0,
            cut: incomplete,
            decoded: Cache::new(CACHE),
            bitmaps: Cache::new(CACHE),
        };
        for part in 0..table.frames.div_ceil(PART_PAGES) {
            this.ranks.push(this.count);
            let bits = this.part(table.here, part)?;
            this.count += bits.iter().map(|byte| u64::from(byte.count_ones())).sum::<u64>();
        }
        let end = table.descriptors.saturating_add(this.count.saturating_mul(DESCRIPTOR));
        if end > this.file.len() {
            let expected = format!("descriptors of {} pages", this.count);
            let found = format!("the end of the file at {:#x}", this.file.len());
            return Err(ReadError::corrupt("kdump page descriptor table", table.descriptors, expected, found));
        }
        let tail = this.count.min(TOGETHER);
        let past = this.descriptors(this.count - tail, tail)?.iter().any(|page| this.lacks(page));
        this.cut |= past;
        Ok(this)
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn cut(&self) -> bool {
        self.cut
    }

    /// How the first pages are packed.
    pub(super) fn compression(&self) -> Result<&'static str, ReadError> {
        let first = self.descriptors(0, self.count.min(TOGETHER))?;
        let flags = first.iter().fold(0, |flags, page| flags | page.flags);
        let known = [(ZLIB, "zlib"), (LZO, "lzo"), (SNAPPY, "snappy"), (ZSTD, "zstd")];
        Ok(known.iter().find(|(flag, _)| flags & flag != 0).map_or("none", |(_, name)| name))
    }

    /// A part of the bitmap that begins at `bitmap`. Bits behind the last frame are clear.
    fn part(&self, bitmap: u64, part: u64) -> Result<Arc<Vec<u8>>, ReadError> {
        let key = part * 2 + u64::from(bitmap == self.table.here);
        self.bitmaps.get(key, || {
            let bits = (self.table.frames - part * PART_PAGES).min(PART_PAGES);
            let len = usize::try_from(bits.div_ceil(8)).unwrap_or(0);
            let mut bytes = read_vec(self.file.as_ref(), bitmap + part * PART, len)?;
            if let Some(last) = bytes.last_mut()
                && !bits.is_multiple_of(8)
            {
                *last &= (1 << (bits % 8)) - 1;
            }
            Ok(bytes)
        })
    }

    /// It was never written: a descriptor that makes no sense is damage instead.
    fn lacks(&self, page: &Descriptor) -> bool {
        let sound = u64::from(page.len) <= self.table.block;
        page.from == 0 || sound && page.from.checked_add(page.len.into()).is_none_or(|end| end > self.file.len())
    }

    /// `len` descriptors from the one numbered `from`.
    fn descriptors(&self, from: u64, len: u64) -> Result<Vec<Descriptor>, ReadError> {
        let begin = self.table.descriptors + from * DESCRIPTOR;
        let bytes = read_vec(self.file.as_ref(), begin, usize::try_from(len * DESCRIPTOR).unwrap_or(0))?;
        let parse = |(index, part): (usize, &[u8])| {
            let at = begin + index as u64 * DESCRIPTOR;
            let fields = Fields::new("kdump page descriptor", at, part);
            Ok(Descriptor { at, from: fields.u64(0)?, len: fields.u32(8)?, flags: fields.u32(12)? })
        };
        bytes.chunks_exact(24).enumerate().map(parse).collect()
    }

    /// What `frame` is, how many frames from there are the same (within its part), and the number of its descriptor.
    fn run(&self, frame: u64) -> Result<(State, u64, u64), ReadError> {
        let (part, first) = (frame / PART_PAGES, usize::try_from(frame % PART_PAGES).unwrap_or(0));
        let (here, memory) = (self.part(self.table.here, part)?, self.part(self.table.memory, part)?);
        let most = (self.table.frames - part * PART_PAGES).min(PART_PAGES);
        let state = |index: usize| match (bit(&here, index), bit(&memory, index)) {
            (true, _) => State::Here,
            (false, true) => State::Filtered,
            (false, false) => State::NotRam,
        };
        let (kind, most) = (state(first), usize::try_from(most).unwrap_or(0));
        let len = (first..most).take_while(|index| state(*index) == kind).count().max(1);
        let before = here.get(..first / 8).unwrap_or_default().iter().map(|b| u64::from(b.count_ones())).sum::<u64>();
        let in_byte = u64::from((here.get(first / 8).unwrap_or(&0) & ((1_u8 << (first % 8)) - 1)).count_ones());
        let base = usize::try_from(part).ok().and_then(|part| self.ranks.get(part)).copied().unwrap_or(0);
        Ok((kind, len as u64, base + before + in_byte))
    }

    fn corrupt(page: &Descriptor, expected: &str) -> ReadError {
        let found = format!("{:#x} bytes at {:#x}, flags {:#x}", page.len, page.from, page.flags);
        ReadError::corrupt("kdump page descriptor", page.at, expected, found)
    }

    /// Fills `into`, one page, from its descriptor.
    fn decode(&self, page: &Descriptor, into: &mut [u8]) -> Result<(), ReadError> {
        let block = into.len();
        let len = usize::try_from(page.len).unwrap_or(usize::MAX);
        if self.lacks(page) {
            return Err(Self::corrupt(page, "a page inside the file"));
        }
        let packing = page.flags & (ZLIB | LZO | SNAPPY | ZSTD);
        if len == 0 || len > block || (packing == 0 && len != block) {
            return Err(Self::corrupt(page, "a page, or less if it is compressed"));
        }
        if packing == 0 {
            return self.file.read_at(page.from, into);
        }
        let packed = read_vec(self.file.as_ref(), page.from, len)?;
        let done = match packing {
            ZLIB => inflate::zlib(&packed, into).map(|()| into.len()),
            LZO => lzokay::decompress::decompress(&packed, into).map_err(|error| format!("{error:?}")),
            SNAPPY => snappy(&packed, into),
            ZSTD => zstd::bulk::decompress_to_buffer(&packed, into).map_err(|error| error.to_string()),
            _ => return Err(Self::corrupt(page, "one kind of compression")),
        };
        let found = match done {
            Ok(done) if done == block => return Ok(()),
            Ok(done) => format!("{done} bytes"),
            Err(error) => error,
        };
        Err(ReadError::corrupt("kdump page", page.from, format_args!("{block} bytes of content"), found))
    }

    /// Reads within one run of pages that are here.
    fn read_pages(&self, mut at: u64, mut number: u64, mut into: &mut [u8]) -> Result<(), ReadError> {
        let block = self.table.block;
        while !into.is_empty() {
            let wanted = (at % block + into.len() as u64).div_ceil(block).min(TOGETHER);
            let pages = self.descriptors(number, wanted.min(self.count.saturating_sub(number)))?;
            for page in &pages {
                let skip = usize::try_from(at % block).unwrap_or(0);
                let here = usize::try_from(block).unwrap_or(0).saturating_sub(skip).min(into.len());
                if self.cut && self.lacks(page) {
                    return Err(ReadError::Gap { at, len: here as u64, why: Why::Unreadable(CUT.to_owned()) });
                }
                let (part, rest) = into.split_at_mut(here);
                self.read_page(page, skip, part)?;
                at += here as u64;
                into = rest;
            }
            number += pages.len() as u64;
            if pages.is_empty() {
                return Err(ReadError::corrupt(
                    "kdump page descriptor table",
                    self.table.descriptors,
                    "one more",
                    "none",
                ));
            }
        }
        Ok(())
    }

    /// A part of a page. Whole pages are seldom asked for twice and go past the cache.
    fn read_page(&self, page: &Descriptor, skip: usize, into: &mut [u8]) -> Result<(), ReadError> {
        let block = usize::try_from(self.table.block).unwrap_or(0);
        if into.len() == block {
            return self.decode(page, into);
        }
        let whole = self.decoded.get(page.from, || {
            let mut whole = vec![0; block];
            self.decode(page, &mut whole).map(|()| whole)
        })?;
        into.copy_from_slice(whole.get(skip..skip + into.len()).unwrap_or_default());
        Ok(())
    }

    /// In a dump that was cut: how many of `len` pages from descriptor `number` are like the first, and if they lack.
    fn alike(&self, number: u64, len: u64) -> Result<(bool, u64), ReadError> {
        let pages = self.descriptors(number, len.min(TOGETHER))?;
        let lacks = pages.first().is_some_and(|page| self.lacks(page));
        Ok((lacks, pages.iter().take_while(|page| self.lacks(page) == lacks).count().max(1) as u64))
    }
}

fn bit(bits: &[u8], index: usize) -> bool {
    bits.get(index / 8).is_some_and(|byte| byte >> (index % 8) & 1 != 0)
}

fn snappy(packed: &[u8], into: &mut [u8]) -> Result<usize, String> {
    snap::raw::Decoder::new().decompress(packed, into).map_err(|error| error.to_string())
}

impl ReadAt for Pages {
    fn len(&self) -> u64 {
        self.table.frames.saturating_mul(self.table.block)
    }

    fn unit(&self) -> u64 {
        self.table.block
    }

    fn read_at(&self, mut at: u64, mut into: &mut [u8]) -> Result<(), ReadError> {
        within(self.len(), at, into.len() as u64)?;
        let block = self.table.block;
        while !into.is_empty() {
            let (state, run, number) = self.run(at / block)?;
            let len = run * block - at % block;
            let why = match state {
                State::Here => {
                    let here = usize::try_from(len).unwrap_or(usize::MAX).min(into.len());
                    let (part, rest) = into.split_at_mut(here);
                    self.read_pages(at, number, part)?;
                    at += here as u64;
                    into = rest;
                    continue;
                }
                State::Filtered => Why::Unreadable(FILTERED.to_owned()),
                State::NotRam => Why::NotRam,
            };
            return Err(ReadError::Gap { at, len, why });
        }
        Ok(())
    }

    fn extent(&self, at: u64) -> Result<Extent, ReadError> {
        within(self.len(), at, 1)?;
        let block = self.table.block;
        let (state, mut run, number) = self.run(at / block)?;
        let kind = match state {
            State::Filtered => Kind::Gap(Why::Unreadable(FILTERED.to_owned())),
            State::NotRam => Kind::Gap(Why::NotRam),
            State::Here if self.cut => {
                let (lacks, alike) = self.alike(number, run)?;
                run = alike;
                if lacks { Kind::Gap(Why::Unreadable(CUT.to_owned())) } else { Kind::Data }
            }
            State::Here => Kind::Data,
        };
        Ok(Extent { at, len: run * block - at % block, kind })
    }
}
