//! VDI: VirtualBox's own disk, dynamic and fixed (the fields as QEMU's and VirtualBox's readers know them).
//!
//! A block that was discarded by the guest, or never written, is zero. No two entries of the map may share a block. Not
//! read: differencing and undo images (they name their parent by an identifier only), blocks with extra data.

use std::sync::Arc;

use crate::image::fields::{Fields, read_structure};
use crate::image::{Below, Content, Layer, Opened, Opening, ReadError, Wrapping};

use super::shared::chain::guid;
use super::shared::mapped::{Home, Map, Mapped, Parent, Run, joined};

/// See the module.
pub(super) static VDI: Wrapping = Wrapping {
    name: "vdi",
    about: "VirtualBox disk, dynamic and fixed",
    tested_against: "qemu-img 10.0: dynamic and static; no file of VirtualBox",
    probe,
    open,
};

const WHAT: &str = "VDI header";
const MAP: &str = "VDI block map";
const MAGIC: u32 = 0xbeda_107f;
/// Where the mark is, behind a text.
const MAGIC_AT: usize = 0x40;
const HEADER: usize = 0x1c8;
/// A block that was never written, one that was discarded.
const FREE: u32 = 0xffff_ffff;
const DISCARDED: u32 = 0xffff_fffe;
/// Longest map in bytes: 16 TiB in blocks of 1 MiB.
const MAP_MOST: u64 = 64 << 20;

struct Blocks {
    map_at: u64,
    map: Vec<u32>,
    /// The blocks that are in use, ascending.
    sorted: Vec<u32>,
    data_at: u64,
    block: u64,
    len: u64,
    stored: u64,
}

fn probe(below: &Below) -> bool {
    let head = below.head::<0x44>();
    head.last_chunk::<4>().is_some_and(|mark| u32::from_le_bytes(*mark) == MAGIC)
}

fn open(below: &Below) -> Opening {
    let bytes = read_structure(below.bytes.as_ref(), WHAT, 0, HEADER)?;
    let fields = Fields::new(WHAT, 0, &bytes);
    let version = fields.u32(MAGIC_AT + 4)?;
    if version != 0x1_0001 {
        return Err(fields.corrupt(MAGIC_AT + 4, "version 0x10001", format_args!("{version:#x}")));
    }
    let mut layer = Layer::new("vdi", Content::Disk);
    let kind = kind(&fields)?;
    layer.fact("type", kind).fact("version", "1.1");
    let creator = fields.text(0, MAGIC_AT)?;
    layer.fact("creator", creator.trim()).fact("uuid", guid(fields.array(0x188)?));
    let blocks = blocks(below, &fields)?;
    layer.fact("block size", blocks.block).fact("blocks in use", blocks.sorted.len());
    let claimed = fields.u32(0x184)?;
    if u32::try_from(blocks.sorted.len()) != Ok(claimed) {
        layer.odd(format!("the header says that {claimed} blocks are in use, the map names {}", blocks.sorted.len()));
    }
    let file = Arc::clone(&below.bytes);
    Ok(Opened::new(Arc::new(Mapped::new(blocks, file, Parent::Nothing)), layer))
}

fn kind(fields: &Fields<'_>) -> Result<&'static str, ReadError> {
    let kind = match fields.u32(0x4c)? {
        1 => "dynamic",
        2 => "fixed",
        3 | 4 => "differencing",
        other => return Err(fields.corrupt(0x4c, "image type 1 to 4", other)),
    };
    let parents = [fields.array::<16>(0x1a8)?, fields.array::<16>(0x1b8)?];
    if kind == "differencing" || parents.iter().any(|id| *id != [0; 16]) {
        let id = guid(fields.array(0x1b8)?);
        let why =
            format!("its parent is named by an identifier only ({id}): merge a copy first (VBoxManage clonemedium)");
        return Err(ReadError::unsupported("a differencing VDI", why));
    }
    Ok(kind)
}

fn blocks(below: &Below, fields: &Fields<'_>) -> Result<Blocks, ReadError> {
    let (map_at, data_at) = (u64::from(fields.u32(0x154)?), u64::from(fields.u32(0x158)?));
    let (len, block, extra) = (fields.u64(0x170)?, u64::from(fields.u32(0x178)?), fields.u32(0x17c)?);
    below.allow("vdi", len)?;
    if fields.u32(0x168)? != 512 {
        return Err(fields.corrupt(0x168, "sectors of 512 bytes", fields.u32(0x168)?));
    }
    if !block.is_power_of_two() || block < 512 {
        return Err(fields.corrupt(0x178, "a block size of 512, 1024 … bytes", block));
    }
    if extra != 0 {
        let why = format!("each of its blocks has {extra} bytes of extra data");
        return Err(ReadError::unsupported("this VDI", why));
    }
    let (needed, there) = (len.div_ceil(block), u64::from(fields.u32(0x180)?));
    if there < needed || needed * 4 > MAP_MOST {
        let expected = format_args!("{needed} blocks for {len} bytes, at most {}", MAP_MOST / 4);
        return Err(fields.corrupt(0x180, expected, there));
    }
    if map_at < HEADER as u64 {
        return Err(fields.corrupt(0x154, "a block map behind the header", format_args!("{map_at:#x}")));
    }
    if data_at < map_at.saturating_add(needed * 4) {
        let expected = format_args!("blocks behind the map, which ends at {:#x}", map_at + needed * 4);
        return Err(fields.corrupt(0x158, expected, format_args!("{data_at:#x}")));
    }
    let len_map = usize::try_from(needed * 4).unwrap_or(usize::MAX);
    let bytes = read_structure(below.bytes.as_ref(), MAP, map_at, len_map)?;
    let map: Vec<u32> = bytes.as_chunks::<4>().0.iter().map(|entry| u32::from_le_bytes(*entry)).collect();
    let mut sorted: Vec<u32> = map.iter().copied().filter(|&entry| entry < DISCARDED).collect();
    sorted.sort_unstable();
    Ok(Blocks { map_at, map, sorted, data_at, block, len, stored: below.bytes.len() })
}

impl Blocks {
    fn piece(&self, at: u64) -> Result<Run, ReadError> {
        let (index, skip) = (at / self.block, at % self.block);
        let entry = usize::try_from(index).ok().and_then(|index| self.map.get(index)).copied().unwrap_or(FREE);
        let len = self.block - skip;
        if entry >= DISCARDED {
            return Ok(Run { len, home: Home::Zero });
        }
        let from = self.data_at + u64::from(entry) * self.block;
        let used = self.block.min(self.len - (at - skip));
        let wrong = |expected: String| {
            Err(ReadError::corrupt(MAP, self.map_at + index * 4, expected, format_args!("{entry:#x}")))
        };
        if from + used > self.stored {
            return wrong(format!("a block inside the {:#x} bytes of the file", self.stored));
        }
        let first = self.sorted.partition_point(|&other| other < entry);
        if self.sorted.get(first + 1) == Some(&entry) {
            return wrong("a block of its own, not that of another entry too".to_owned());
        }
        Ok(Run { len, home: Home::Stored(from + skip) })
    }
}

impl Map for Blocks {
    fn len(&self) -> u64 {
        self.len
    }

    fn unit(&self) -> u64 {
        1
    }

    fn run(&self, at: u64, most: u64) -> Result<Run, ReadError> {
        joined(at, most, self.len, |at| self.piece(at))
    }

    fn decode(&self, _: u64, _: &mut [u8]) -> Result<(), ReadError> {
        Err(ReadError::caller("decode a block of a VDI", "none is compressed"))
    }
}
