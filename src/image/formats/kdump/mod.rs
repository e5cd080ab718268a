//! kdump-compressed dumps (`KDUMP   `): what makedumpfile writes by default, and QEMU as `kdump-zlib`, `-lzo`, `-snappy` and
//! `-raw-*`.
//!
//! A header, a sub-header, two bitmaps (which page frames are memory, which of them are here), one descriptor for each page
//! that is here, then the pages, each compressed alone (makedumpfile's IMPLEMENTATION, "The kdump-compressed format", and
//! `diskdump_mod.h`; header versions 1 to 6). Pages that are memory and were filtered (`-d`) or cut off are unreadable; frames
//! outside the first bitmap are no memory.
//!
//! The bitmaps and descriptors stay in the file: kept is one number for 32,768 pages. Not read: one part of a split dump, the
//! older `DISKDUMP`, big-endian machines.

mod flat;
mod pages;

use std::sync::Arc;

use super::shared::notes;
use crate::image::fields::{Fields, read_structure};
use crate::image::{Below, Content, Layer, Machine, Opened, Opening, ReadAt, ReadError, Wrapping, read_vec};

pub(super) use flat::FLATTENED;
use pages::{Pages, Table};

/// See the module.
pub(super) static KDUMP: Wrapping = Wrapping {
    name: "kdump",
    about: "kdump-compressed dump (makedumpfile, QEMU): zlib, lzo, snappy, zstd",
    tested_against: "QEMU 10.0 kdump-zlib and kdump-raw-zlib; makedumpfile 1.7.2 -c, -l, -d, -F of a Linux guest; snappy and zstd pages written by the tests",
    probe,
    open,
};

/// Status: pages are missing at the end.
const INCOMPLETE: u32 = 8;
/// Most bytes of VMCOREINFO that are read.
const VMCOREINFO: u64 = 1 << 20;

/// What the two headers say.
struct Header {
    version: u32,
    wide: bool,
    status: u32,
    block: u64,
    /// First byte of the bitmaps.
    bitmaps: u64,
    /// Blocks of both bitmaps.
    bitmap_blocks: u64,
    /// First byte behind the bitmaps.
    table: u64,
    frames: u64,
    dump_level: u32,
    vmcoreinfo: (u64, u64),
    notes: (u64, u64),
    texts: Vec<(&'static str, String)>,
}

fn probe(below: &Below) -> bool {
    matches!(&below.head::<8>(), b"KDUMP   " | b"DISKDUMP")
}

fn open(below: &Below) -> Opening {
    if below.head::<8>() == *b"DISKDUMP" {
        return Err(ReadError::unsupported("a DISKDUMP file", "only its successor KDUMP is known"));
    }
    let file = &below.bytes;
    let header = header(file.as_ref())?;
    below.allow("a kdump file", header.frames.saturating_mul(header.block))?;
    let half = header.bitmap_blocks / 2 * header.block;
    if half.saturating_mul(8) < header.frames {
        let found = format_args!("two of {half:#x} bytes");
        let expected = format_args!("bitmaps for {} page frames", header.frames);
        return Err(ReadError::corrupt("kdump bitmap", header.bitmaps, expected, found));
    }
    let table = Table {
        memory: header.bitmaps,
        here: header.bitmaps + half,
        frames: header.frames,
        descriptors: header.table,
        block: header.block,
    };
    let pages = Pages::new(Arc::clone(file), table, header.status & INCOMPLETE != 0)?;
    let mut layer = Layer::new("kdump", Content::Memory);
    layer.fact("version", header.version).fact("page size", header.block).fact("pages", pages.count());
    layer.fact("compression", pages.compression()?).fact("dump level", header.dump_level);
    layer.facts.extend(header.texts.iter().cloned());
    if header.status & INCOMPLETE != 0 {
        layer.odd("the dump says that it is incomplete: pages at its end are missing");
    } else if pages.cut() {
        layer.odd("the file is cut short: pages at its end are missing");
    }
    let cpus = tell(file.as_ref(), &header, &mut layer)?;
    Ok(Opened { bytes: Arc::new(pages), layer, machine: Some(Machine { cpus, frames: None }) })
}

fn tell(file: &dyn ReadAt, header: &Header, layer: &mut Layer) -> Result<Vec<crate::image::Cpu>, ReadError> {
    let mut cpus = Vec::new();
    let (at, len) = header.notes;
    if len > 0 {
        let bytes = notes::read(file, "kdump note section", at, len)?;
        cpus = notes::tell(&notes::notes("kdump note section", at, &bytes)?, layer)?;
    }
    let (at, len) = header.vmcoreinfo;
    if len > VMCOREINFO {
        return Err(ReadError::corrupt("kdump VMCOREINFO", at, format_args!("at most {VMCOREINFO} bytes"), len));
    }
    if len > 0 && !layer.facts.iter().any(|(name, _)| *name == "vmcoreinfo") {
        let text = read_structure(file, "kdump VMCOREINFO", at, usize::try_from(len).unwrap_or(0))?;
        notes::vmcoreinfo(&text, layer);
    }
    Ok(cpus)
}

fn header(file: &dyn ReadAt) -> Result<Header, ReadError> {
    const WHAT: &str = "kdump header";
    let bytes = read_structure(file, WHAT, 0, 464)?;
    let fields = Fields::new(WHAT, 0, &bytes);
    let version = fields.u32(8)?;
    if version > 6 {
        return Err(ReadError::unsupported(format!("kdump version {version}"), "versions up to 6 are known"));
    }
    // Machines of 32 bits have a shorter time stamp in front.
    let size = |block: u32| block.is_power_of_two() && (4096..=65536).contains(&block);
    let (wide, at) = match (size(fields.u32(428)?), size(fields.u32(416)?)) {
        (true, _) => (true, 424),
        (false, true) => (false, 412),
        _ => return Err(fields.corrupt(428, "a page size of 4 to 64 KiB", fields.u32(428)?)),
    };
    let block = u64::from(fields.u32(at + 4)?);
    let (sub, bitmap_blocks) = (u64::from(fields.u32(at + 8)?), u64::from(fields.u32(at + 12)?));
    if sub == 0 {
        return Err(fields.corrupt(at + 8, "a sub-header of at least one block", 0));
    }
    let bitmaps = (1 + sub) * block;
    let table = bitmaps + bitmap_blocks * block;
    if table > file.len() {
        let expected = format_args!("bitmaps inside the {:#x} bytes of the file", file.len());
        return Err(fields.corrupt(at + 12, expected, format_args!("{bitmap_blocks} blocks")));
    }
    let mut texts = Vec::new();
    for (name, at) in [("system", 12), ("node", 77), ("release", 142), ("machine", 272)] {
        let text = fields.text(at, 65)?;
        if !text.is_empty() {
            texts.push((name, text));
        }
    }
    let mut header = Header {
        version,
        wide,
        status: fields.u32(at)?,
        block,
        bitmaps,
        bitmap_blocks,
        table,
        frames: fields.u32(at + 16)?.into(),
        dump_level: 0,
        vmcoreinfo: (0, 0),
        notes: (0, 0),
        texts,
    };
    sub_header(file, &mut header)?;
    Ok(header)
}

/// Fields that came with each version of the header.
fn sub_header(file: &dyn ReadAt, header: &mut Header) -> Result<(), ReadError> {
    const WHAT: &str = "kdump sub-header";
    let bytes = read_vec(file, header.block, 128)?;
    let fields = Fields::new(WHAT, header.block, &bytes);
    let wide = header.wide;
    let pick = |long: usize, short: usize| if wide { long } else { short };
    let size = |long: usize, short: usize| {
        if wide { fields.u64(long) } else { fields.u32(short).map(u64::from) }
    };
    if header.version >= 1 {
        header.dump_level = fields.u32(pick(8, 4))?;
    }
    if header.version >= 2 && fields.u32(pick(12, 8))? != 0 {
        let why = "put the parts together first: makedumpfile --reassemble";
        return Err(ReadError::unsupported("one part of a split kdump", why));
    }
    if header.version >= 3 {
        header.vmcoreinfo = (fields.u64(pick(32, 20))?, size(40, 28)?);
    }
    if header.version >= 4 {
        header.notes = (fields.u64(pick(48, 32))?, size(56, 40)?);
    }
    if header.version >= 6 && fields.u64(pick(96, 72))? != 0 {
        header.frames = fields.u64(pick(96, 72))?;
    }
    Ok(())
}
