//! AVML's compressed form of LiME: the same headers with magic `AVML` and version 2, each before a Snappy stream and the
//! stream's length in eight bytes (microsoft/avml, `src/image.rs`; google/snappy, `framing_format.txt`).
//!
//! The frames hold at most 64 KiB each; they are found once by their headers, and a read decodes the frame it needs. Each
//! carries a masked CRC-32C, which is checked whenever it is decoded.

use std::sync::Arc;

use impound_backends::Why;

use super::lime::{HEADER, Range, header};
use crate::image::bytes::within;
use crate::image::cache::Cache;
use crate::image::fields::{Fields, read_structure};
use crate::image::{Below, Content, Extent, Kind, Layer, Opened, Opening, ReadAt, ReadError, Wrapping, read_vec};

/// See the module.
pub(super) static AVML: Wrapping = Wrapping {
    name: "avml",
    about: "AVML memory dump, compressed with Snappy",
    tested_against: "files written by the tests after AVML's source, with the Snappy framing of the snap crate",
    probe,
    open,
};

const MAGIC: u32 = 0x4C4D_5641;
/// Most bytes of content in a frame.
const FRAME: u64 = 64 << 10;
/// Bytes of decoded frames that are kept.
const CACHE: usize = 32 << 20;
/// Extents go over so many frames at a time.
const STEP: usize = 4096;

/// A frame: where its checksum stands, how long it is from there, and where its content goes.
#[derive(Debug, Clone, Copy)]
struct Frame {
    at: u64,
    from: u64,
    len: u32,
    packed: u32,
    plain: bool,
}

impl Frame {
    fn end(&self) -> u64 {
        self.at.saturating_add(self.len.into())
    }
}

struct Frames {
    below: Arc<dyn ReadAt>,
    /// Ascending and apart.
    all: Vec<Frame>,
    len: u64,
    cache: Cache,
}

fn probe(below: &Below) -> bool {
    u32::from_le_bytes(below.head()) == MAGIC
}

fn open(below: &Below) -> Opening {
    let file = below.bytes.as_ref();
    let (mut frames, mut ranges, mut at) = (Vec::new(), 0, 0);
    while at < file.len() {
        let range = header(file, "AVML header", at, MAGIC, 2)?;
        below.allow("AVML range", range.at.saturating_add(range.len))?;
        at = stream(file, at + HEADER as u64, &range, &mut frames)?;
        ranges += 1;
    }
    frames.sort_unstable_by_key(|frame: &Frame| frame.at);
    for pair in frames.windows(2) {
        if let [one, two] = pair
            && one.end() > two.at
        {
            let expected = format_args!("ranges apart, the next behind {:#x}", one.end());
            return Err(ReadError::corrupt("AVML range", two.from, expected, format_args!("{:#x}", two.at)));
        }
    }
    let len = frames.last().map_or(0, Frame::end);
    let mut layer = Layer::new("avml", Content::Memory);
    layer.fact("version", 2).fact("ranges", ranges).fact("compression", "snappy").fact("frames", frames.len());
    let cache = Cache::new(CACHE);
    Ok(Opened::new(Arc::new(Frames { below: Arc::clone(&below.bytes), all: frames, len, cache }), layer))
}

/// Finds the frames of one range; answers where the next header is.
fn stream(file: &dyn ReadAt, begin: u64, range: &Range, frames: &mut Vec<Frame>) -> Result<u64, ReadError> {
    const WHAT: &str = "AVML frame";
    let (mut at, mut done) = (begin, 0_u64);
    while done < range.len {
        let head = read_structure(file, WHAT, at, 4)?;
        let fields = Fields::new(WHAT, at, &head);
        let packed = fields.u32(0)? >> 8;
        let (kind, body) = (fields.u8(0)?, at + 4);
        at = body + u64::from(packed);
        if at > file.len() {
            let expected = format_args!("a frame that ends before the file does, at {:#x}", file.len());
            return Err(fields.corrupt(1, expected, format_args!("{packed:#x} bytes")));
        }
        let len = match kind {
            0xff if *read_structure(file, WHAT, body, 6)? == *b"sNaPpY" => continue,
            0x80..=0xfe => continue,
            0 | 1 if packed < 5 => return Err(fields.corrupt(1, "at least 5 bytes", packed)),
            0 => content_len(file, body, packed)?,
            1 => u64::from(packed) - 4,
            _ => return Err(fields.corrupt(0, "a frame of the Snappy stream", format_args!("type {kind:#04x}"))),
        };
        if len > FRAME || len > range.len - done {
            let expected = format_args!("at most {:#x} bytes of content", FRAME.min(range.len - done));
            return Err(fields.corrupt(4, expected, format_args!("{len:#x}")));
        }
        if len > 0 {
            let len = u32::try_from(len).unwrap_or(0);
            frames.push(Frame { at: range.at + done, from: body, len, packed, plain: kind == 1 });
        }
        done += u64::from(u32::try_from(len).unwrap_or(0));
    }
    let tail = read_structure(file, "AVML stream length", at, 8)?;
    let fields = Fields::new("AVML stream length", at, &tail);
    if fields.u64(0)? != at - begin {
        return Err(fields.corrupt(0, at - begin, fields.u64(0)?));
    }
    Ok(at + 8)
}

/// Length of a compressed frame's content, which stands at its beginning.
fn content_len(file: &dyn ReadAt, body: u64, packed: u32) -> Result<u64, ReadError> {
    let bytes = read_vec(file, body + 4, usize::try_from(packed.saturating_sub(4).min(5)).unwrap_or(0))?;
    snap::raw::decompress_len(&bytes)
        .map(|len| len as u64)
        .map_err(|error| ReadError::corrupt("AVML frame", body + 4, "the length of its content", error))
}

impl Frames {
    fn decode(&self, frame: Frame) -> Result<Vec<u8>, ReadError> {
        let packed = read_vec(self.below.as_ref(), frame.from, usize::try_from(frame.packed).unwrap_or(0))?;
        let fields = Fields::new("AVML frame", frame.from, &packed);
        let body = packed.get(4..).unwrap_or_default();
        let content = if frame.plain {
            body.to_vec()
        } else {
            let mut decoder = snap::raw::Decoder::new();
            decoder.decompress_vec(body).map_err(|error| fields.corrupt(4, "Snappy data", error))?
        };
        let sum = crc32c::crc32c(&content).rotate_right(15).wrapping_add(0xa282_ead8);
        if sum != fields.u32(0)? {
            let expected = format_args!("the checksum {sum:#010x} of its content");
            return Err(fields.corrupt(0, expected, format_args!("{:#010x}", fields.u32(0)?)));
        }
        Ok(content)
    }

    /// The frame that holds `at`, or where the next begins.
    fn find(&self, at: u64) -> (usize, Result<Frame, u64>) {
        let index = self.all.partition_point(|frame| frame.end() <= at);
        match self.all.get(index) {
            Some(frame) if frame.at <= at => (index, Ok(*frame)),
            Some(frame) => (index, Err(frame.at)),
            None => (index, Err(self.len)),
        }
    }
}

impl ReadAt for Frames {
    fn len(&self) -> u64 {
        self.len
    }

    fn unit(&self) -> u64 {
        FRAME
    }

    fn read_at(&self, mut at: u64, mut into: &mut [u8]) -> Result<(), ReadError> {
        within(self.len, at, into.len() as u64)?;
        while !into.is_empty() {
            let (index, found) = self.find(at);
            let frame = found.map_err(|next| ReadError::Gap { at, len: next - at, why: Why::NotRam })?;
            let unit = self.cache.get(index as u64, || self.decode(frame))?;
            let from = usize::try_from(at - frame.at).unwrap_or(0);
            let here = unit.len().saturating_sub(from).min(into.len());
            if here == 0 {
                return Err(ReadError::corrupt("AVML frame", frame.from, frame.len, unit.len()));
            }
            let (part, rest) = into.split_at_mut(here);
            part.copy_from_slice(unit.get(from..from + here).unwrap_or_default());
            at += here as u64;
            into = rest;
        }
        Ok(())
    }

    fn extent(&self, at: u64) -> Result<Extent, ReadError> {
        within(self.len, at, 1)?;
        let (index, found) = self.find(at);
        let frame = match found {
            Ok(frame) => frame,
            Err(next) => return Ok(Extent { at, len: next - at, kind: Kind::Gap(Why::NotRam) }),
        };
        let following = self.all.get(index + 1..).unwrap_or_default();
        let end = following
            .iter()
            .take(STEP)
            .try_fold(frame.end(), |end, next| if next.at == end { Ok(next.end()) } else { Err(end) });
        let end = end.unwrap_or_else(|end| end);
        Ok(Extent { at, len: end - at, kind: Kind::Data })
    }
}
