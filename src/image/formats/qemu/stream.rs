//! The stream itself, as far as RAM goes: which pages of which block stand where in the file.
//!
//! All numbers are big-endian. Sections follow the header; the RAM section comes in parts (START, PART, END), each a list of
//! records `offset | flags`. With `mapped-ram` each block is announced with the places of its bitmap (little-endian words, one
//! bit a page) and of its pages. From the first section of another kind on, nothing is read.

use std::sync::Arc;

use super::super::shared::runs::{Run, Writer};
use crate::image::fields::{Fields, read_structure};
use crate::image::{Below, ReadAt, ReadError, read_vec};

const WHAT: &str = "migration stream";
/// Bytes of the file that are held.
const WINDOW: usize = 256 << 10;
/// Most RAM blocks, configuration parts, capabilities.
const MANY: usize = 4096;
/// Bytes of a bitmap that are read at once.
const CHUNK: u64 = 1 << 20;

const FLAG_ZERO: u64 = 0x02;
const FLAG_MEM_SIZE: u64 = 0x04;
const FLAG_PAGE: u64 = 0x08;
const FLAG_EOS: u64 = 0x10;
const FLAG_CONTINUE: u64 = 0x20;
const FLAG_XBZRLE: u64 = 0x40;
const FLAG_HOOK: u64 = 0x80;
const FLAG_COMPRESS: u64 = 0x100;
const FLAG_FLUSH: u64 = 0x200;

/// A RAM block, and where its pages are: runs by offset in the block.
pub(super) struct Block {
    pub(super) name: String,
    pub(super) len: u64,
    pub(super) runs: Vec<Run>,
}

/// What was read.
pub(super) struct Stream {
    pub(super) machine: Option<String>,
    pub(super) mapped: bool,
    pub(super) complete: bool,
    pub(super) blocks: Vec<Block>,
}

struct Open {
    name: String,
    len: u64,
    writer: Writer,
}

struct Reader {
    file: Arc<dyn ReadAt>,
    at: u64,
    window: Vec<u8>,
    base: u64,
    page: u64,
    current: Option<usize>,
    ram: Option<u32>,
    blocks: Vec<Open>,
    machine: Option<String>,
    mapped: bool,
    multifd: bool,
}

/// Reads the stream that begins at `start`.
pub(super) fn read(below: &Below, start: u64) -> Result<Stream, ReadError> {
    let mut reader = Reader {
        file: Arc::clone(&below.bytes),
        at: start,
        window: Vec::new(),
        base: 0,
        page: 4096,
        current: None,
        ram: None,
        blocks: Vec::new(),
        machine: None,
        mapped: false,
        multifd: false,
    };
    let (magic, version) = (reader.be32()?, reader.be32()?);
    if magic != 0x5145_564d || version != 3 {
        let found = format_args!("{magic:#010x}, version {version}");
        return Err(ReadError::corrupt(WHAT, start, "QEVM, version 3", found));
    }
    let complete = reader.sections(below)?;
    let (machine, mapped) = (reader.machine.take(), reader.mapped);
    let blocks = reader.blocks.into_iter();
    let blocks = blocks.map(|open| Block { name: open.name, len: open.len, runs: open.writer.finish() }).collect();
    Ok(Stream { machine, mapped, complete, blocks })
}

impl Reader {
    fn corrupt(&self, expected: &str, found: impl std::fmt::Display) -> ReadError {
        ReadError::corrupt(WHAT, self.at, expected, found)
    }

    /// The next `len` bytes.
    fn take(&mut self, len: usize) -> Result<&[u8], ReadError> {
        let held = self.base..self.base + self.window.len() as u64;
        if self.at < held.start || self.at + len as u64 > held.end {
            let there = usize::try_from(self.file.len().saturating_sub(self.at)).unwrap_or(usize::MAX);
            if there < len {
                return Err(self.corrupt(
                    &format!("{len} more bytes"),
                    format_args!("the end of the file at {:#x}", self.file.len()),
                ));
            }
            self.window = read_vec(self.file.as_ref(), self.at, there.min(WINDOW.max(len)))?;
            self.base = self.at;
        }
        let from = usize::try_from(self.at - self.base).unwrap_or(usize::MAX);
        self.at += len as u64;
        Ok(self.window.get(from..from.saturating_add(len)).unwrap_or_default())
    }

    fn byte(&mut self) -> Result<u8, ReadError> {
        Ok(self.take(1)?.first().copied().unwrap_or(0))
    }

    fn be16(&mut self) -> Result<u16, ReadError> {
        Ok(self.take(2)?.iter().fold(0, |n, b| n << 8 | u16::from(*b)))
    }

    fn be32(&mut self) -> Result<u32, ReadError> {
        Ok(self.take(4)?.iter().fold(0, |n, b| n << 8 | u32::from(*b)))
    }

    fn be64(&mut self) -> Result<u64, ReadError> {
        Ok(self.take(8)?.iter().fold(0, |n, b| n << 8 | u64::from(*b)))
    }

    /// Goes on at `at`, which must be inside the file or at its end.
    fn skip_to(&mut self, at: u64) -> Result<(), ReadError> {
        if at > self.file.len() || at < self.at {
            let expected = format!("something between here and the end of the file at {:#x}", self.file.len());
            return Err(self.corrupt(&expected, format_args!("a way on at {at:#x}")));
        }
        self.at = at;
        Ok(())
    }

    fn skip(&mut self, len: u64) -> Result<(), ReadError> {
        self.skip_to(self.at.saturating_add(len))
    }

    /// A name behind its length in one byte.
    fn name(&mut self) -> Result<String, ReadError> {
        let len = self.byte()?;
        let name = self.take(len.into())?;
        Ok(String::from_utf8_lossy(name).into_owned())
    }

    /// All sections that RAM is in; true if its end was among them.
    fn sections(&mut self, below: &Below) -> Result<bool, ReadError> {
        let mut complete = false;
        while self.at < self.file.len() {
            let begin = self.at;
            match self.byte()? {
                kind @ 1..=3 => {
                    self.ram_section(kind, below)?;
                    complete |= kind == 3;
                }
                0x05 | 0x06 if self.ram.is_none() => return Err(self.corrupt("the section ram", "something else")),
                0x07 => self.configuration()?,
                0x08 => {
                    self.be16()?;
                    let len = self.be16()?;
                    self.skip(len.into())?;
                }
                0x7e => self.skip(4)?,
                kind if self.ram.is_none() => {
                    self.at = begin;
                    return Err(self.corrupt("the section ram", format_args!("a section of kind {kind:#04x}")));
                }
                _ => return Ok(complete),
            }
        }
        Ok(complete)
    }

    fn configuration(&mut self) -> Result<(), ReadError> {
        let len = self.be32()?;
        if len > 4096 {
            return Err(self.corrupt("a machine name of at most 4096 bytes", len));
        }
        let name = self.take(usize::try_from(len).unwrap_or(0))?;
        self.machine = Some(String::from_utf8_lossy(name).into_owned());
        for _ in 0..MANY {
            if self.take(1)? != [5] {
                self.at -= 1;
                return Ok(());
            }
            let name = self.name()?;
            self.be32()?;
            match name.as_str() {
                "configuration/target-page-bits" => match self.be32()? {
                    bits @ 12..=16 => self.page = 1 << bits,
                    bits => return Err(self.corrupt("pages of 4 to 64 KiB", format_args!("2^{bits}"))),
                },
                "configuration/capabilities" => self.capabilities()?,
                "configuration/uuid" => self.skip(16)?,
                other => return Err(self.corrupt("a known part of the configuration", other.escape_default())),
            }
        }
        Err(self.corrupt("an end of the configuration", "still more"))
    }

    fn capabilities(&mut self) -> Result<(), ReadError> {
        let count = self.be32()?;
        if count as usize > MANY {
            return Err(self.corrupt("at most 4096 capabilities", count));
        }
        for _ in 0..count {
            match self.name()?.as_str() {
                "mapped-ram" => self.mapped = true,
                "multifd" => self.multifd = true,
                "x-ignore-shared" => {
                    let why = "memory that QEMU shares with others was left out (x-ignore-shared)";
                    return Err(ReadError::unsupported("this migration stream", why));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn ram_section(&mut self, kind: u8, below: &Below) -> Result<(), ReadError> {
        let id = self.be32()?;
        if kind == 1 {
            let name = self.name()?;
            self.skip(8)?;
            if name != "ram" {
                let why = format!("a section `{}` stands beside that of RAM and has no length", name.escape_default());
                return Err(ReadError::unsupported("this migration stream", why));
            }
            self.ram = Some(id);
        } else if self.ram != Some(id) {
            return Err(self.corrupt("a part of the section ram", format_args!("section {id}")));
        }
        while self.record(below)? {}
        Ok(())
    }

    /// One record; false after the last of a section.
    fn record(&mut self, below: &Below) -> Result<bool, ReadError> {
        let word = self.be64()?;
        let (flags, offset) = (word & (self.page - 1), word & !(self.page - 1));
        match flags & !FLAG_CONTINUE {
            FLAG_EOS => return Ok(false),
            FLAG_FLUSH if self.mapped => {}
            FLAG_MEM_SIZE => self.announce(offset, below)?,
            FLAG_ZERO => {
                let block = self.block(flags)?;
                let fill = self.byte()?;
                if fill != 0 {
                    return Err(self.corrupt("a page of zeros", format_args!("filled with {fill:#04x}")));
                }
                self.put(block, offset, None)?;
            }
            FLAG_PAGE => {
                let block = self.block(flags)?;
                let from = self.at;
                self.skip(self.page)?;
                self.put(block, offset, Some(from))?;
            }
            FLAG_XBZRLE | FLAG_COMPRESS | FLAG_HOOK | FLAG_FLUSH => {
                let why = "it was taken with xbzrle, compress, multifd or RDMA: its pages are not in it as they are";
                return Err(ReadError::unsupported("this migration stream", why));
            }
            other => return Err(self.corrupt("a page or the end of the section", format_args!("flags {other:#x}"))),
        }
        Ok(true)
    }

    fn put(&mut self, block: usize, offset: u64, from: Option<u64>) -> Result<(), ReadError> {
        let (page, fits) = (self.page, |len| offset.checked_add(self.page).is_some_and(|end| end <= len));
        match self.blocks.get_mut(block) {
            Some(open) if fits(open.len) => {
                open.writer.put(Run { at: offset, len: page, from, unit: page, stride: page })
            }
            _ => Err(self.corrupt("a page inside its block", format_args!("offset {offset:#x}"))),
        }
    }

    /// The block that a record belongs to.
    fn block(&mut self, flags: u64) -> Result<usize, ReadError> {
        if flags & FLAG_CONTINUE == 0 {
            let name = self.name()?;
            self.current = self.blocks.iter().position(|block| block.name == name);
            if self.current.is_none() {
                return Err(self.corrupt("the name of an announced block", name.escape_default()));
            }
        }
        self.current.ok_or_else(|| self.corrupt("a block's name first", "none"))
    }

    /// The list of blocks, of `total` bytes together.
    fn announce(&mut self, total: u64, below: &Below) -> Result<(), ReadError> {
        below.allow("a QEMU migration stream", total)?;
        let mut left = total;
        while left > 0 {
            let (name, len) = (self.name()?, self.be64()?);
            let known = self.blocks.iter().any(|block| block.name == name);
            if len > left || len == 0 || self.blocks.len() >= MANY || known {
                let found = format!("`{}` of {len} bytes with {left} left", name.escape_default());
                return Err(self.corrupt("RAM blocks that add up, each once", found));
            }
            let mut writer = Writer::new(self.file.len());
            if self.mapped {
                self.map(len, &mut writer)?;
            }
            self.blocks.push(Open { name, len, writer });
            left -= len;
        }
        Ok(())
    }

    /// The header of a block with fixed places, and its bitmap.
    fn map(&mut self, len: u64, writer: &mut Writer) -> Result<(), ReadError> {
        const WHAT: &str = "mapped-ram header";
        let at = self.at;
        let head = self.take(28)?.to_vec();
        let fields = Fields::new(WHAT, at, &head);
        let (version, page) = (fields.be32(0)?, fields.be64(4)?);
        if version != 1 || page != self.page {
            let found = format_args!("version {version}, pages of {page} bytes");
            return Err(fields.corrupt(0, format_args!("version 1, pages of {} bytes", self.page), found));
        }
        let (bitmap, pages) = (fields.be64(12)?, fields.be64(20)?);
        let bytes = (len / page).div_ceil(8);
        let inside = |at: u64, len: u64| at.checked_add(len).is_some_and(|end| end <= self.file.len());
        if !inside(bitmap, bytes) || pages.checked_add(len).is_none() {
            let expected = format_args!("a bitmap inside the {:#x} bytes of the file", self.file.len());
            return Err(fields.corrupt(12, expected, format_args!("{bytes:#x} bytes at {bitmap:#x}")));
        }
        let mut done = 0;
        while done < bytes {
            let here = CHUNK.min(bytes - done);
            let bits = read_structure(
                self.file.as_ref(),
                "mapped-ram bitmap",
                bitmap + done,
                usize::try_from(here).unwrap_or(0),
            )?;
            mark(&bits, done * 8, len / page, page, pages, writer)?;
            done += here;
        }
        // The last block's tail may be a hole that the file does not have.
        let end = pages + len;
        self.skip_to(end.min(self.file.len()))
    }
}

/// Runs of the pages whose bits are set, and of those that are zero.
fn mark(bits: &[u8], first: u64, count: u64, page: u64, pages: u64, writer: &mut Writer) -> Result<(), ReadError> {
    let set = |index: u64| {
        let byte = bits.get(usize::try_from(index / 8).unwrap_or(usize::MAX)).copied().unwrap_or(0);
        byte >> (index % 8) & 1 != 0
    };
    let (mut index, end) = (0, (bits.len() as u64 * 8).min(count - first));
    while index < end {
        let kind = set(index);
        let len = (index..end).take_while(|i| set(*i) == kind).count() as u64;
        let at = (first + index) * page;
        writer.put(Run { at, len: len * page, from: kind.then_some(pages + at), unit: page, stride: page })?;
        index += len;
    }
    Ok(())
}
