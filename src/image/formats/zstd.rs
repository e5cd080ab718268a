//! zstd with a seek table, as exhibits are stored and as `zstd`'s `contrib/seekable_format` describes: any frame is found
//! and decoded alone. A file without the table is read as well, if its frames say how long their content is.

use std::sync::Arc;

use crate::image::bytes::within;
use crate::image::cache::Cache;
use crate::image::fields::{Fields, read_structure};
use crate::image::{Below, Content, Layer, Opened, Opening, ReadAt, ReadError, Wrapping, read_vec};

/// See the module.
pub(super) static ZSTD: Wrapping = Wrapping {
    name: "zstd",
    about: "zstd-compressed file, with or without a seek table",
    tested_against: "impound's own exhibits; the zstd program",
    probe,
    open,
};

/// Magic number of a frame (RFC 8878, section 3.1.1).
const FRAME: u32 = 0xFD2F_B528;
/// Magic number of the skippable frame that holds the seek table.
const TABLE: u32 = 0x184D_2A5E;
/// Magic number at the end of the seek table.
const SEEKABLE: u32 = 0x8F92_EAB1;
/// Length of the table's footer: number of frames, descriptor, magic number.
const FOOTER: u64 = 9;
/// Longest content of one frame that is read, in bytes: it is decoded in memory.
const MOST_DECODED: u64 = 256 << 20;
/// Bytes of decoded frames that are kept.
const CACHE: usize = 64 << 20;

/// Where a frame is, and where its content goes.
#[derive(Debug, Clone, Copy)]
struct Frame {
    from: u64,
    packed: u64,
    at: u64,
    len: u64,
}

struct Seekable {
    below: Arc<dyn ReadAt>,
    frames: Vec<Frame>,
    len: u64,
    cache: Cache,
}

fn probe(below: &Below) -> bool {
    u32::from_le_bytes(below.head()) == FRAME
}

fn open(below: &Below) -> Opening {
    let (frames, table) = match seek_table(below.bytes.as_ref())? {
        Some(frames) => (frames, "at the end"),
        None => (walk(below.bytes.as_ref())?, "none; the frames were walked"),
    };
    let len = frames.last().map_or(0, |last| last.at + last.len);
    let mut layer = Layer::new("zstd", Content::Carrier);
    layer.fact("frames", frames.len()).fact("seek table", table);
    let cache = Cache::new(CACHE);
    Ok(Opened::new(Arc::new(Seekable { below: Arc::clone(&below.bytes), frames, len, cache }), layer))
}

/// The frames by the seek table; `None` if there is none.
fn seek_table(file: &dyn ReadAt) -> Result<Option<Vec<Frame>>, ReadError> {
    const WHAT: &str = "zstd seek table";
    let end = file.len();
    let Some(footer_at) = end.checked_sub(FOOTER) else { return Ok(None) };
    let footer = read_structure(file, WHAT, footer_at, 9)?;
    let fields = Fields::new(WHAT, footer_at, &footer);
    if fields.u32(5)? != SEEKABLE {
        return Ok(None);
    }
    let checksums = fields.u8(4)? & 0x80 != 0;
    let entry = if checksums { 12 } else { 8 };
    let count = u64::from(fields.u32(0)?);
    let size = count * entry + FOOTER;
    let Some(head) = end.checked_sub(size + 8) else {
        return Err(fields.corrupt(
            0,
            format_args!("a table inside the {end} bytes of the file"),
            format_args!("{count} frames"),
        ));
    };
    let bytes = read_structure(file, WHAT, head, usize::try_from(size - FOOTER + 8).unwrap_or(usize::MAX))?;
    let fields = Fields::new(WHAT, head, &bytes);
    if fields.u32(0)? != TABLE || u64::from(fields.u32(4)?) != size {
        return Err(fields.corrupt(0, format_args!("a skippable frame of {size} bytes"), "something else"));
    }
    let (mut frames, mut from, mut at) = (Vec::with_capacity(bytes.len() / 8), 0_u64, 0_u64);
    for i in 0..usize::try_from(count).unwrap_or(0) {
        let field = 8 + i * usize::try_from(entry).unwrap_or(8);
        let frame = Frame { from, packed: fields.u32(field)?.into(), at, len: fields.u32(field + 4)?.into() };
        from += frame.packed;
        at += frame.len;
        if from > head || frame.len > MOST_DECODED {
            let found = format_args!("frame {i} of {} bytes, {} decoded", frame.packed, frame.len);
            return Err(fields.corrupt(
                field,
                format_args!("frames before byte {head:#x}, each at most {MOST_DECODED} bytes decoded"),
                found,
            ));
        }
        frames.push(frame);
    }
    if from != head {
        return Err(fields.corrupt(
            8,
            format_args!("frames that end where the table begins, at {head:#x}"),
            format_args!("{from:#x}"),
        ));
    }
    frames.retain(|frame| frame.len > 0);
    Ok(Some(frames))
}

/// The frames one by one, each of which must tell the length of its content.
fn walk(file: &dyn ReadAt) -> Result<Vec<Frame>, ReadError> {
    const WHAT: &str = "zstd frame";
    let (mut frames, mut from, mut at, end) = (Vec::new(), 0_u64, 0_u64, file.len());
    while from < end {
        let head = read_vec(file, from, usize::try_from((end - from).min(18)).unwrap_or(18))?;
        let fields = Fields::new(WHAT, from, &head);
        let magic = fields.u32(0)?;
        if magic & 0xffff_fff0 == 0x184D_2A50 {
            from = from.saturating_add(8 + u64::from(fields.u32(4)?));
            continue;
        }
        if magic != FRAME {
            return Err(fields.corrupt(0, "a frame", format_args!("{magic:#010x}")));
        }
        let Some(len) = zstd::zstd_safe::get_frame_content_size(&head).ok().flatten() else {
            let why = "a frame does not say how long its content is; decompress it first (zstd -d)";
            return Err(ReadError::unsupported("this zstd file", why));
        };
        if len > MOST_DECODED {
            let why = format!("a frame holds {len} bytes and is decoded whole; decompress it first (zstd -d)");
            return Err(ReadError::unsupported("this zstd file", why));
        }
        let packed = frame_length(file, from)?;
        frames.push(Frame { from, packed, at, len });
        from += packed;
        at = at.saturating_add(len);
    }
    if from != end {
        return Err(ReadError::corrupt(WHAT, from, "frames up to the end of the file", format_args!("{end:#x}")));
    }
    frames.retain(|frame| frame.len > 0);
    Ok(frames)
}

/// Length in bytes of the frame at `from`, by the headers of its blocks (RFC 8878, section 3.1.1.2).
fn frame_length(file: &dyn ReadAt, from: u64) -> Result<u64, ReadError> {
    const WHAT: &str = "zstd block";
    let descriptor = *read_structure(file, WHAT, from + 4, 1)?.first().unwrap_or(&0);
    let single = descriptor & 0x20 != 0;
    let window = u64::from(!single);
    let dictionary = [0, 1, 2, 4].get(usize::from(descriptor & 3)).copied().unwrap_or(0);
    let size = match descriptor >> 6 {
        0 => u64::from(single),
        1 => 2,
        2 => 4,
        _ => 8,
    };
    let mut at = from + 5 + window + dictionary + size;
    loop {
        let head = read_structure(file, WHAT, at, 3)?;
        let fields = Fields::new(WHAT, at, &head);
        let word = u64::from(fields.u16(0)?) | u64::from(fields.u8(2)?) << 16;
        let len = match word >> 1 & 3 {
            1 => 1,
            3 => return Err(fields.corrupt(0, "a block type of 0 to 2", 3)),
            _ => word >> 3,
        };
        at += 3 + len;
        if word & 1 == 1 {
            break;
        }
    }
    Ok(at - from + if descriptor & 4 != 0 { 4 } else { 0 })
}

impl Seekable {
    fn decode(&self, frame: Frame) -> Result<Vec<u8>, ReadError> {
        let packed = read_vec(self.below.as_ref(), frame.from, usize::try_from(frame.packed).unwrap_or(usize::MAX))?;
        let want = usize::try_from(frame.len).unwrap_or(0);
        let found = match zstd::bulk::decompress(&packed, want) {
            Ok(bytes) if bytes.len() == want => return Ok(bytes),
            Ok(bytes) => format!("{} bytes", bytes.len()),
            Err(error) => error.to_string(),
        };
        Err(ReadError::corrupt("zstd frame", frame.from, format_args!("{want} bytes of content"), found))
    }
}

impl ReadAt for Seekable {
    fn len(&self) -> u64 {
        self.len
    }

    fn unit(&self) -> u64 {
        self.frames.iter().map(|frame| frame.len).take(64).max().unwrap_or(1)
    }

    fn read_at(&self, mut at: u64, mut into: &mut [u8]) -> Result<(), ReadError> {
        within(self.len, at, into.len() as u64)?;
        while !into.is_empty() {
            let index = self.frames.partition_point(|frame| frame.at + frame.len <= at);
            let Some(frame) = self.frames.get(index).copied() else { break };
            let unit = self.cache.get(index as u64, || self.decode(frame))?;
            let from = usize::try_from(at - frame.at).unwrap_or(0);
            let here = unit.len().saturating_sub(from).min(into.len());
            let (part, rest) = into.split_at_mut(here);
            part.copy_from_slice(unit.get(from..from + here).unwrap_or_default());
            at += here as u64;
            into = rest;
        }
        Ok(())
    }
}
