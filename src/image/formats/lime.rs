//! LiME: what the Linux kernel module of that name writes with `format=lime`. Ranges of memory, each behind a header.
//!
//! A header has 32 bytes, little-endian: magic `EMiL`, version 1, first address, **last** address, eight reserved bytes;
//! the range's bytes follow (LiME's own `doc/README.md`, section "LiME Format"). `format=padded` and `format=raw` have no
//! header and are not known from their bytes. AVML without compression writes the same; with it, see [`super::avml`].

use std::sync::Arc;

use crate::image::fields::{Fields, read_structure};
use crate::image::{Below, Content, Layer, Opened, Opening, ReadAt, ReadError, Span, Spans, Wrapping};

/// See the module.
pub(super) static LIME: Wrapping = Wrapping {
    name: "lime",
    about: "LiME memory dump",
    tested_against: "headers written by the tests after LiME's description; Volatility 3 reads the same files alike",
    probe,
    open,
};

const MAGIC: u32 = 0x4C69_4D45;
/// Length of a header in bytes.
pub(super) const HEADER: usize = 32;

/// A range of addresses, as both forms of the header tell it.
pub(super) struct Range {
    pub(super) at: u64,
    pub(super) len: u64,
}

fn probe(below: &Below) -> bool {
    u32::from_le_bytes(below.head()) == MAGIC
}

/// The header at `at`, of this magic and version.
pub(super) fn header(
    file: &dyn ReadAt,
    what: &'static str,
    at: u64,
    magic: u32,
    version: u32,
) -> Result<Range, ReadError> {
    let bytes = read_structure(file, what, at, HEADER)?;
    let fields = Fields::new(what, at, &bytes);
    if fields.u32(0)? != magic {
        return Err(fields.corrupt(
            0,
            format_args!("the magic {magic:#010x}"),
            format_args!("{:#010x}", fields.u32(0)?),
        ));
    }
    if fields.u32(4)? != version {
        return Err(fields.corrupt(4, format_args!("version {version}"), fields.u32(4)?));
    }
    let (first, last) = (fields.u64(8)?, fields.u64(16)?);
    let Some(len) = last.checked_sub(first).and_then(|len| len.checked_add(1)) else {
        let expected = format_args!("a last address not below the first, {first:#x}");
        return Err(fields.corrupt(16, expected, format_args!("{last:#x}")));
    };
    Ok(Range { at: first, len })
}

fn open(below: &Below) -> Opening {
    const WHAT: &str = "LiME header";
    let file = below.bytes.as_ref();
    let (mut spans, mut at) = (Vec::new(), 0);
    while at < file.len() {
        let range = header(file, WHAT, at, MAGIC, 1)?;
        let from = at + HEADER as u64;
        if from.checked_add(range.len).is_none_or(|end| end > file.len()) {
            let expected = format_args!("a range that ends before the file does, at {:#x}", file.len());
            return Err(ReadError::corrupt(WHAT, at + 16, expected, format_args!("{:#x} bytes", range.len)));
        }
        spans.push(Span { at: range.at, len: range.len, from: Some(from) });
        at = from + range.len;
    }
    let mut layer = Layer::new("lime", Content::Memory);
    layer.fact("version", 1).fact("ranges", spans.len());
    Ok(Opened::new(Arc::new(Spans::new(Arc::clone(&below.bytes), "LiME", spans)?), layer))
}
