//! makedumpfile's flattened form: the pieces of another file in the order they were written, each behind its offset and
//! length, so that a dump goes through a pipe. QEMU writes it, too. The last copy of a byte wins; what was never written is
//! zero, as in the file that `makedumpfile -R` puts together.
//!
//! Big-endian: signature `makedumpfile` in 16 bytes, type 1, version 1, the header padded to 4096 bytes; then pieces; a
//! piece at offset -1 ends it (makedumpfile's IMPLEMENTATION, "The flattened format").

use std::sync::Arc;

use super::super::shared::runs::{Run, Runs, Writer};
use crate::image::fields::{Fields, read_structure};
use crate::image::{Below, Content, Kind, Layer, Opened, Opening, ReadError, Wrapping};

/// See the module.
pub(in super::super) static FLATTENED: Wrapping = Wrapping {
    name: "flattened",
    about: "makedumpfile's flattened form of another file",
    tested_against: "QEMU 10.0 kdump-zlib; makedumpfile 1.7.2 -F, and -R as the other reader",
    probe,
    open,
};

const SIGNATURE: &[u8; 16] = b"makedumpfile\0\0\0\0";
const HEADER: u64 = 4096;

fn probe(below: &Below) -> bool {
    below.head::<16>() == *SIGNATURE
}

fn open(below: &Below) -> Opening {
    const WHAT: &str = "flattened header";
    const PIECE: &str = "flattened piece";
    let file = below.bytes.as_ref();
    let head = read_structure(file, WHAT, 0, 32)?;
    let fields = Fields::new(WHAT, 0, &head);
    if (fields.be64(16)?, fields.be64(24)?) != (1, 1) {
        let found = format_args!("type {}, version {}", fields.be64(16)?, fields.be64(24)?);
        return Err(fields.corrupt(16, "type 1, version 1", found));
    }
    let (mut writer, mut at, mut pieces) = (Writer::new(file.len()), HEADER, 0_u64);
    loop {
        let head = read_structure(file, PIECE, at, 16)?;
        let fields = Fields::new(PIECE, at, &head);
        let (offset, len) = (fields.be64(0)?, fields.be64(8)?);
        if offset == u64::MAX {
            break;
        }
        if at.checked_add(16).and_then(|at| at.checked_add(len)).is_none_or(|end| end > file.len()) {
            let expected = format_args!("a piece that ends before the file does, at {:#x}", file.len());
            return Err(fields.corrupt(8, expected, format_args!("{len:#x} bytes")));
        }
        let Some(end) = offset.checked_add(len) else {
            return Err(fields.corrupt(0, "an offset below 2^63", format_args!("{offset:#x}")));
        };
        below.allow("a flattened file", end)?;
        if len > 0 {
            writer.put(Run::plain(offset, len, Some(at + 16)))?;
        }
        at += 16 + len;
        pieces += 1;
    }
    let mut layer = Layer::new("flattened", Content::Carrier);
    layer.fact("version", 1).fact("pieces", pieces);
    if at + 16 < file.len() {
        layer.odd(format!("{} bytes follow the end mark at {at:#x}", file.len() - at - 16));
    }
    let runs = writer.finish();
    if runs.is_empty() {
        return Err(ReadError::corrupt(PIECE, HEADER, "at least one piece", "the end mark"));
    }
    Ok(Opened::new(Arc::new(Runs::new(Arc::clone(&below.bytes), runs, Kind::Zero)), layer))
}
