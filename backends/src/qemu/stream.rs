//! QEMU's migration stream, read as far as memory goes: a hypervisor's own format, yet written by a process that a
//! hostile guest may have taken over, so nothing in it is trusted.
//!
//! All numbers are big-endian. `QEVM`, version 3, an optional configuration section, then sections. The RAM section
//! comes first in pieces (START, then PARTs, then perhaps END), each a list of records `offset | flags`, ended by EOS.
//! The state of the devices follows in FULL sections **without a length**, so from the first of them on the rest is opaque
//! and kept as it is.
//!
//! Source: QEMU `migration/savevm.c`, `migration/ram.c` (7.2 to 10.0), docs/devel/migration/main.rst "Stream structure".

use std::collections::HashMap;
use std::io::{self, Read};

use thiserror::Error;

/// Bytes read at once. The pipe holds as much.
const BUFFER: usize = 1 << 20;
/// No record is longer: 8 bytes of header, a name of up to 256, a page of up to 64 KiB.
const RECORD_MAX: usize = 8 + 256 + (64 << 10);
/// Most RAM blocks accepted.
const BLOCKS_MAX: usize = 4096;

const MAGIC: u32 = 0x5145_564d;
const VERSION: u32 = 3;

const SECTION_START: u8 = 0x01;
const SECTION_PART: u8 = 0x02;
const SECTION_END: u8 = 0x03;
const SUBSECTION: u8 = 0x05;
const CONFIGURATION: u8 = 0x07;
const COMMAND: u8 = 0x08;
const FOOTER: u8 = 0x7e;

const FLAG_ZERO: u64 = 0x02;
const FLAG_MEM_SIZE: u64 = 0x04;
const FLAG_PAGE: u64 = 0x08;
const FLAG_EOS: u64 = 0x10;
const FLAG_CONTINUE: u64 = 0x20;

/// Why a stream could not be read to its end.
#[derive(Debug, Error)]
pub enum StreamError {
    /// The pipe broke.
    #[error("the stream broke: {0}")]
    Io(#[from] io::Error),
    /// It ended in the middle.
    #[error("the stream ended at byte {at}, within {within}")]
    Short {
        /// Offset in the stream.
        at: u64,
        /// What was being read.
        within: &'static str,
    },
    /// It is not what QEMU writes.
    #[error("the stream is damaged at byte {at}: expected {expected}, found {found}")]
    Corrupt {
        /// Offset in the stream.
        at: u64,
        /// What should be there.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// Whoever takes the pages has given up.
    #[error("nobody takes the pages any more")]
    Closed,
}

/// Where the contents of a stream go.
pub trait Sink {
    /// A RAM block is announced: its number here (counted from 0), its name and its length in bytes.
    fn block(&mut self, number: usize, name: &str, len: u64) -> Result<(), StreamError>;
    /// The first page follows: QEMU now protects every page, so the instant is fixed.
    fn armed(&mut self);
    /// A page of a block.
    fn page(&mut self, block: usize, offset: u64, bytes: &[u8]) -> Result<(), StreamError>;
    /// A page of zeros.
    fn zero(&mut self, block: usize, offset: u64, len: u64) -> Result<(), StreamError>;
    /// The next part of what follows memory.
    fn rest(&mut self, bytes: &[u8]) -> Result<(), StreamError>;
    /// The bytes of the stream as they came, all of them, in order.
    fn raw(&mut self, bytes: &[u8]);
}

/// Reads a stream to its end. `page_bits`: log2 of the target's page size, 12 unless the stream says otherwise.
pub fn read(from: impl Read, sink: &mut dyn Sink) -> Result<(), StreamError> {
    let mut reader = Reader { from, buffer: vec![0; BUFFER], start: 0, end: 0, base: 0, ended: false };
    let mut state =
        State { blocks: Vec::new(), by_name: HashMap::new(), ram: None, current: None, page: 4096, armed: false };
    let magic = reader.u32(sink, "the magic")?;
    if magic != MAGIC {
        return Err(reader.corrupt("the magic QEVM", format!("{magic:#010x}")));
    }
    let version = reader.u32(sink, "the version")?;
    if version != VERSION {
        return Err(reader.corrupt("version 3", version.to_string()));
    }
    while let Some(kind) = reader.peek(sink)? {
        match kind {
            SECTION_START | SECTION_PART | SECTION_END => state.ram_section(kind, &mut reader, sink)?,
            FOOTER => {
                reader.skip(sink, 5, "a section's footer")?;
            }
            COMMAND => {
                let header = reader.take(sink, 5, "a command")?;
                let len = header.iter().skip(3).fold(0, |n, b| n << 8 | usize::from(*b));
                reader.skip(sink, len, "a command")?;
            }
            CONFIGURATION => state.configuration(&mut reader, sink)?,
            _ => break,
        }
    }
    reader.rest(sink)
}

/// What has been learnt of the stream so far.
struct State {
    blocks: Vec<u64>,
    by_name: HashMap<String, usize>,
    ram: Option<u32>,
    current: Option<usize>,
    page: u64,
    armed: bool,
}

impl State {
    fn configuration<R: Read>(&mut self, reader: &mut Reader<R>, sink: &mut dyn Sink) -> Result<(), StreamError> {
        reader.skip(sink, 1, "the configuration")?;
        let len = reader.u32(sink, "the configuration")?;
        if len > 4096 {
            return Err(reader.corrupt("a machine name of at most 4096 bytes", len.to_string()));
        }
        reader.skip(sink, usize::try_from(len).unwrap_or(0), "the machine's name")?;
        while reader.peek(sink)? == Some(SUBSECTION) {
            self.configuration_part(reader, sink)?;
        }
        Ok(())
    }

    fn configuration_part<R: Read>(&mut self, reader: &mut Reader<R>, sink: &mut dyn Sink) -> Result<(), StreamError> {
        reader.skip(sink, 1, "a subsection")?;
        let name = reader.name(sink)?;
        reader.u32(sink, "a subsection's version")?;
        match name.as_str() {
            "configuration/target-page-bits" => {
                let bits = reader.u32(sink, "the page size")?;
                if !(12..=16).contains(&bits) {
                    return Err(reader.corrupt("pages of 4 to 64 KiB", format!("2^{bits}")));
                }
                self.page = 1 << bits;
            }
            "configuration/capabilities" => {
                let count = reader.u32(sink, "the capabilities")?;
                if count > 256 {
                    return Err(reader.corrupt("at most 256 capabilities", count.to_string()));
                }
                for _ in 0..count {
                    reader.name(sink)?;
                }
            }
            "configuration/uuid" => reader.skip(sink, 16, "the UUID")?,
            other => {
                return Err(reader.corrupt("a known part of the configuration", other.escape_default().to_string()));
            }
        }
        Ok(())
    }

    fn ram_section<R: Read>(
        &mut self,
        kind: u8,
        reader: &mut Reader<R>,
        sink: &mut dyn Sink,
    ) -> Result<(), StreamError> {
        reader.skip(sink, 1, "a section")?;
        let id = reader.u32(sink, "a section's number")?;
        if kind == SECTION_START {
            let name = reader.name(sink)?;
            reader.skip(sink, 8, "a section's versions")?;
            if name != "ram" {
                return Err(reader.corrupt("the section `ram`", name.escape_default().to_string()));
            }
            self.ram = Some(id);
        } else if self.ram != Some(id) {
            return Err(reader.corrupt("a part of the section `ram`", format!("section {id}")));
        }
        if kind != SECTION_START && !self.armed {
            self.armed = true;
            sink.armed();
        }
        while self.record(reader, sink)? {}
        Ok(())
    }

    /// One record of the RAM section; false after the last.
    fn record<R: Read>(&mut self, reader: &mut Reader<R>, sink: &mut dyn Sink) -> Result<bool, StreamError> {
        let word = reader.u64(sink, "a RAM record")?;
        let flags = word & (self.page - 1);
        let offset = word & !(self.page - 1);
        match flags & !FLAG_CONTINUE {
            FLAG_EOS => return Ok(false),
            FLAG_MEM_SIZE => self.announce(offset, reader, sink)?,
            FLAG_ZERO => {
                let block = self.block_of(flags, offset, reader, sink)?;
                let fill = reader.take(sink, 1, "a zero page")?.first().copied().unwrap_or(0);
                if fill != 0 {
                    return Err(reader.corrupt("a page filled with zeros", format!("filled with {fill:#04x}")));
                }
                sink.zero(block, offset, self.page)?;
            }
            FLAG_PAGE => {
                let block = self.block_of(flags, offset, reader, sink)?;
                let page = usize::try_from(self.page).unwrap_or(4096);
                let bytes = reader.take(sink, page, "a page")?;
                sink.page(block, offset, bytes)?;
            }
            _ => {
                return Err(
                    reader.corrupt("a page, a zero page or the end of the section", format!("flags {flags:#x}"))
                );
            }
        }
        Ok(true)
    }

    /// The list of blocks, of `total` bytes together.
    fn announce<R: Read>(
        &mut self,
        total: u64,
        reader: &mut Reader<R>,
        sink: &mut dyn Sink,
    ) -> Result<(), StreamError> {
        let mut left = total;
        while left > 0 {
            let name = reader.name(sink)?;
            let len = reader.u64(sink, "a block's length")?;
            let number = self.blocks.len();
            if len > left || len == 0 || number >= BLOCKS_MAX || self.by_name.contains_key(&name) {
                let found = format!("`{}` of {len} bytes with {left} left", name.escape_default());
                return Err(reader.corrupt("RAM blocks that add up, each once", found));
            }
            sink.block(number, &name, len)?;
            self.by_name.insert(name, number);
            self.blocks.push(len);
            left -= len;
        }
        Ok(())
    }

    /// The block that a record belongs to, checked to hold a page at `offset`.
    fn block_of<R: Read>(
        &mut self,
        flags: u64,
        offset: u64,
        reader: &mut Reader<R>,
        sink: &mut dyn Sink,
    ) -> Result<usize, StreamError> {
        if flags & FLAG_CONTINUE == 0 {
            let name = reader.name(sink)?;
            let block = self.by_name.get(&name).copied();
            self.current =
                Some(block.ok_or_else(|| reader.corrupt("an announced block", name.escape_default().to_string()))?);
        }
        let block = self.current.ok_or_else(|| reader.corrupt("a block's name first", "none".to_owned()))?;
        let len = self.blocks.get(block).copied().unwrap_or(0);
        if offset.checked_add(self.page).is_none_or(|end| end > len) {
            return Err(reader.corrupt("a page inside its block", format!("offset {offset:#x} of {len:#x}")));
        }
        Ok(block)
    }
}

/// A buffered reader that hands out slices of its buffer.
struct Reader<R> {
    from: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Offset in the stream of the buffer's first byte.
    base: u64,
    ended: bool,
}

impl<R: Read> Reader<R> {
    fn at(&self) -> u64 {
        self.base.saturating_add(self.start as u64)
    }

    fn corrupt(&self, expected: &'static str, found: String) -> StreamError {
        StreamError::Corrupt { at: self.at(), expected, found }
    }

    /// Makes `wanted` bytes available, if the stream has them; answers how many are.
    fn fill(&mut self, sink: &mut dyn Sink, wanted: usize) -> Result<usize, StreamError> {
        while self.end - self.start < wanted && !self.ended {
            if self.buffer.len() - self.start < RECORD_MAX.max(wanted) {
                self.buffer.copy_within(self.start..self.end, 0);
                self.base = self.base.saturating_add(self.start as u64);
                self.end -= self.start;
                self.start = 0;
            }
            let room = self.buffer.get_mut(self.end..).unwrap_or_default();
            match self.from.read(room) {
                Ok(0) => self.ended = true,
                Ok(got) => {
                    sink.raw(self.buffer.get(self.end..self.end + got).unwrap_or_default());
                    self.end += got;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(self.end - self.start)
    }

    fn peek(&mut self, sink: &mut dyn Sink) -> Result<Option<u8>, StreamError> {
        self.fill(sink, 1)?;
        Ok(self.buffer.get(self.start..self.end).and_then(|left| left.first().copied()))
    }

    fn take(&mut self, sink: &mut dyn Sink, len: usize, within: &'static str) -> Result<&[u8], StreamError> {
        if self.fill(sink, len)? < len {
            return Err(StreamError::Short { at: self.base.saturating_add(self.end as u64), within });
        }
        let from = self.start;
        self.start += len;
        Ok(self.buffer.get(from..from + len).unwrap_or_default())
    }

    fn skip(&mut self, sink: &mut dyn Sink, len: usize, within: &'static str) -> Result<(), StreamError> {
        self.take(sink, len, within).map(|_| ())
    }

    fn u32(&mut self, sink: &mut dyn Sink, within: &'static str) -> Result<u32, StreamError> {
        let bytes = self.take(sink, 4, within)?;
        Ok(bytes.iter().fold(0, |n, b| n << 8 | u32::from(*b)))
    }

    fn u64(&mut self, sink: &mut dyn Sink, within: &'static str) -> Result<u64, StreamError> {
        let bytes = self.take(sink, 8, within)?;
        Ok(bytes.iter().fold(0, |n, b| n << 8 | u64::from(*b)))
    }

    /// A name: its length in one byte, then the name.
    fn name(&mut self, sink: &mut dyn Sink) -> Result<String, StreamError> {
        let len = self.take(sink, 1, "the length of a name")?.first().copied().unwrap_or(0);
        let bytes = self.take(sink, usize::from(len), "a name")?;
        if let Ok(name) = std::str::from_utf8(bytes) {
            return Ok(name.to_owned());
        }
        let found = bytes.escape_ascii().to_string();
        Err(self.corrupt("a name in UTF-8", found))
    }

    fn rest(&mut self, sink: &mut dyn Sink) -> Result<(), StreamError> {
        while self.fill(sink, 1)? > 0 {
            sink.rest(self.buffer.get(self.start..self.end).unwrap_or_default())?;
            self.start = self.end;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECTION_FULL: u8 = 0x04;

    #[derive(Default)]
    struct Kept {
        blocks: Vec<(String, u64)>,
        pages: Vec<(usize, u64, Option<u8>)>,
        armed_after: Option<usize>,
        rest: Vec<u8>,
        raw: Vec<u8>,
    }

    impl Sink for Kept {
        fn block(&mut self, number: usize, name: &str, len: u64) -> Result<(), StreamError> {
            assert_eq!(number, self.blocks.len());
            self.blocks.push((name.to_owned(), len));
            Ok(())
        }
        fn armed(&mut self) {
            self.armed_after = Some(self.pages.len());
        }
        fn page(&mut self, block: usize, offset: u64, bytes: &[u8]) -> Result<(), StreamError> {
            assert_eq!(bytes.len(), 4096);
            self.pages.push((block, offset, bytes.first().copied()));
            Ok(())
        }
        fn zero(&mut self, block: usize, offset: u64, len: u64) -> Result<(), StreamError> {
            assert_eq!(len, 4096);
            self.pages.push((block, offset, None));
            Ok(())
        }
        fn rest(&mut self, bytes: &[u8]) -> Result<(), StreamError> {
            self.rest.extend_from_slice(bytes);
            Ok(())
        }
        fn raw(&mut self, bytes: &[u8]) {
            self.raw.extend_from_slice(bytes);
        }
    }

    /// A stream with two blocks, four pages, a command in between and some device state.
    fn sample() -> Vec<u8> {
        let mut s = Vec::new();
        let name = |s: &mut Vec<u8>, n: &str| {
            s.push(u8::try_from(n.len()).unwrap());
            s.extend(n.bytes());
        };
        s.extend(MAGIC.to_be_bytes());
        s.extend(3u32.to_be_bytes());
        s.push(CONFIGURATION);
        s.extend(2u32.to_be_bytes());
        s.extend(b"pc");
        s.push(SECTION_START);
        s.extend(2u32.to_be_bytes());
        name(&mut s, "ram");
        s.extend([0, 0, 0, 0, 0, 0, 0, 4]);
        s.extend((0x5000u64 | FLAG_MEM_SIZE).to_be_bytes());
        name(&mut s, "pc.ram");
        s.extend(0x3000u64.to_be_bytes());
        name(&mut s, "0000:00:02.0/vga.vram");
        s.extend(0x2000u64.to_be_bytes());
        s.extend(FLAG_EOS.to_be_bytes());
        s.push(FOOTER);
        s.extend(2u32.to_be_bytes());
        s.extend([COMMAND, 0, 1, 0, 2, 9, 9]);
        s.push(SECTION_PART);
        s.extend(2u32.to_be_bytes());
        s.extend((0x1000u64 | FLAG_PAGE).to_be_bytes());
        name(&mut s, "pc.ram");
        s.extend([7; 4096]);
        s.extend((0x2000u64 | FLAG_ZERO | FLAG_CONTINUE).to_be_bytes());
        s.push(0);
        s.extend((0x1000u64 | FLAG_PAGE).to_be_bytes());
        name(&mut s, "0000:00:02.0/vga.vram");
        s.extend([8; 4096]);
        s.extend(FLAG_EOS.to_be_bytes());
        s.push(FOOTER);
        s.extend(2u32.to_be_bytes());
        s.extend([SECTION_FULL, 0, 0, 0, 5, 1, 2, 3]);
        s
    }

    #[test]
    fn pages_zero_pages_and_device_state_come_out_in_their_place() {
        let mut kept = Kept::default();
        read(sample().as_slice(), &mut kept).unwrap();
        assert_eq!(kept.blocks, [("pc.ram".to_owned(), 0x3000), ("0000:00:02.0/vga.vram".to_owned(), 0x2000)]);
        assert_eq!(kept.pages, [(0, 0x1000, Some(7)), (0, 0x2000, None), (1, 0x1000, Some(8))]);
        assert_eq!(kept.armed_after, Some(0));
        assert_eq!(kept.rest, [SECTION_FULL, 0, 0, 0, 5, 1, 2, 3]);
        assert_eq!(kept.raw, sample());
    }

    #[test]
    fn reading_a_byte_at_a_time_makes_no_difference() {
        struct Slow<'a>(&'a [u8]);
        impl Read for Slow<'_> {
            fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                let one = into.len().min(1);
                self.0.read(&mut into[..one])
            }
        }
        let (mut fast, mut slow) = (Kept::default(), Kept::default());
        read(sample().as_slice(), &mut fast).unwrap();
        read(Slow(&sample()), &mut slow).unwrap();
        assert_eq!(fast.pages, slow.pages);
        assert_eq!(fast.rest, slow.rest);
    }

    #[test]
    fn a_cut_stream_says_where_it_ended() {
        let whole = sample();
        let device_state = whole.len() - 8;
        for cut in 0..device_state {
            let result = read(&whole[..cut], &mut Kept::default());
            // Between two sections the format itself has no end mark that could be missed; the writer of the image then
            // names the pages that never came.
            let between = result.is_ok();
            let named = matches!(&result, Err(StreamError::Short { at, .. }) if *at == cut as u64);
            assert!(between || named, "cut at {cut}: {result:?}");
        }
    }

    #[test]
    fn any_flipped_byte_is_an_error_or_stays_inside_the_blocks() {
        let whole = sample();
        for at in 0..whole.len() {
            for bit in [0x01, 0x10, 0x80] {
                let mut damaged = whole.clone();
                damaged[at] ^= bit;
                let mut kept = Kept::default();
                let _ = read(damaged.as_slice(), &mut kept);
                for (block, offset, _) in kept.pages {
                    assert!(offset + 4096 <= kept.blocks[block].1);
                }
            }
        }
    }
}
