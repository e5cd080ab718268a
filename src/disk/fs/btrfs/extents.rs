//! Where the content of a file is: inline, in extents, nowhere. Kernel include/uapi/linux/btrfs_tree.h,
//! `struct btrfs_file_extent_item`.

use super::pool::Pool;
use super::tree::Item;
use crate::disk::fs::Run;
use crate::image::ReadError;

pub(super) const EXTENT_DATA: u8 = 108;
/// The longest content of a compressed extent, in bytes: what the kernel writes.
pub(super) const LONGEST: u64 = 128 << 10;

/// The longest extent, in bytes. The kernel writes 128 MiB at most, and an extent lies in one chunk.
const MOST: u64 = 16 << 30;

/// How an extent is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    Zlib,
    Lzo,
    Zstd,
}

/// An extent on the disk; all of it is its own, a file may show a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// Address.
    pub(super) at: u64,
    /// Bytes there.
    pub(super) len: u64,
    /// Bytes of content.
    pub(super) content: u64,
    /// First byte of the content that is shown.
    pub(super) from: u64,
    pub(super) packing: Option<Packing>,
    /// The transaction that wrote it.
    pub(super) generation: u64,
}

/// What a part of a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    /// Zeros that are not stored; with a place, if they are set aside there.
    Zero(Option<Extent>),
    /// In the leaf itself: bytes of content, and how they are packed.
    Inline(Vec<u8>, Option<Packing>),
    Stored(Extent),
}

/// A part of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    /// First byte of the file.
    pub(super) at: u64,
    pub(super) len: u64,
    pub(super) what: What,
}

impl Piece {
    pub(super) fn end(&self) -> u64 {
        self.at.saturating_add(self.len)
    }

    pub(super) fn parse(pool: &Pool, item: &Item) -> Result<Self, ReadError> {
        let fields = item.fields("btrfs file extent");
        let (at, content) = (item.key.offset, fields.u64(8)?);
        if fields.u8(17)? != 0 || fields.u16(18)? != 0 {
            return Err(fields.corrupt(17, "no encryption, which Linux does not have", fields.u8(17)?));
        }
        let packing = match fields.u8(16)? {
            0 => None,
            1 => Some(Packing::Zlib),
            2 => Some(Packing::Lzo),
            3 => Some(Packing::Zstd),
            other => return Err(fields.corrupt(16, "compression 0 to 3", other)),
        };
        if packing.is_some() && content > LONGEST {
            return Err(fields.corrupt(8, format_args!("at most {LONGEST} bytes in a compressed extent"), content));
        }
        let kind = fields.u8(20)?;
        if kind == 0 {
            let bytes = fields.bytes().get(21..).unwrap_or_default();
            if packing.is_none() && bytes.len() as u64 != content {
                return Err(fields.corrupt(8, format_args!("{} bytes", bytes.len()), content));
            }
            return Ok(Self { at, len: content, what: What::Inline(bytes.to_vec(), packing) });
        }
        let (disk, len, from, shown) = (fields.u64(21)?, fields.u64(29)?, fields.u64(37)?, fields.u64(45)?);
        if at.checked_add(shown).is_none() || shown == 0 {
            return Err(fields.corrupt(45, "a length that fits", shown));
        }
        let extent = Extent { at: disk, len, content, from, packing, generation: fields.u64(0)? };
        let what = match (kind, disk) {
            (1, 0) => What::Zero(None),
            (1, _) => What::Stored(extent),
            (2, _) => What::Zero(Some(extent)),
            (other, _) => return Err(fields.corrupt(20, "a type of 0 to 2", other)),
        };
        if what != What::Zero(None) {
            check(pool, item, &extent, shown)?;
        }
        Ok(Self { at, len: shown, what })
    }

    /// The part of it between two bytes of the file; inline ones are not cut.
    pub(super) fn cut(&self, from: u64, to: u64) -> Option<Self> {
        let (start, end) = (self.at.max(from), self.end().min(to));
        if start >= end {
            return None;
        }
        let mut cut = self.clone();
        match &mut cut.what {
            What::Inline(..) => return Some(cut),
            What::Stored(extent) | What::Zero(Some(extent)) => {
                extent.from = extent.from.saturating_add(start - self.at);
            }
            What::Zero(None) => {}
        }
        cut.at = start;
        cut.len = end - start;
        Some(cut)
    }
}

/// Numbers that fit each other and the sectors.
fn check(pool: &Pool, item: &Item, extent: &Extent, shown: u64) -> Result<(), ReadError> {
    let fields = item.fields("btrfs file extent");
    let even = |at: usize, value: u64| {
        if value.is_multiple_of(pool.sb.sector) {
            return Ok(());
        }
        Err(fields.corrupt(at, format_args!("a multiple of {}", pool.sb.sector), format_args!("{value:#x}")))
    };
    even(21, extent.at)?;
    even(29, extent.len)?;
    even(37, extent.from)?;
    if extent.from.checked_add(shown).is_none_or(|end| end > extent.content) {
        return Err(fields.corrupt(45, format_args!("a part of {} bytes", extent.content), shown));
    }
    let packed = extent.packing.is_some();
    if extent.len > MOST {
        return Err(fields.corrupt(29, format_args!("at most {MOST} bytes"), extent.len));
    }
    if extent.len == 0 || (!packed && extent.content != extent.len) || (packed && extent.len > LONGEST) {
        return Err(fields.corrupt(29, format_args!("bytes for {} of content", extent.content), extent.len));
    }
    Ok(())
}

/// Puts `new` over what is there: where both are, only `new` stays.
pub(super) fn put(pieces: &mut Vec<Piece>, new: Piece) {
    let (from, to) = (new.at, new.end());
    // Usually they come in order.
    if pieces.last().is_none_or(|last| last.end() <= from) {
        pieces.push(new);
        return;
    }
    let first = pieces.partition_point(|piece| piece.end() <= from);
    let behind = pieces.partition_point(|piece| piece.at < to).max(first);
    let covered = pieces.get(first..behind).unwrap_or_default();
    let left = covered.first().filter(|piece| piece.at < from).and_then(|piece| piece.cut(0, from));
    let right = covered.last().filter(|piece| piece.end() > to).and_then(|piece| piece.cut(to, u64::MAX));
    let keep = |piece: &Piece| !matches!(piece.what, What::Inline(..));
    let parts = left.filter(keep).into_iter().chain([new]).chain(right.filter(keep));
    pieces.splice(first..behind, parts.collect::<Vec<_>>());
}

/// The blocks of the device that hold the content, as far as this device has them. What is compressed takes fewer blocks
/// than it has content: a run says where they are, and how many.
pub(super) fn runs(pool: &Pool, pieces: &[Piece]) -> Vec<Run> {
    let sector = pool.sb.sector;
    let mut all: Vec<Run> = Vec::new();
    for piece in pieces {
        let (extent, unwritten) = match &piece.what {
            What::Stored(extent) => (extent, false),
            What::Zero(Some(extent)) => (extent, true),
            _ => continue,
        };
        let packed = extent.packing.is_some();
        let (mut at, end) = if packed {
            (0, extent.len)
        } else {
            (extent.from, extent.from.saturating_add(piece.len.next_multiple_of(sector)))
        };
        let first = at;
        while at < end {
            let Ok(place) = pool.chunks.place(extent.at.saturating_add(at)) else { break };
            let len = place.len.min(end - at).max(1);
            if let Some(from) = place.copies.into_iter().flatten().next() {
                let logical = (piece.at + (at - first)) / sector;
                let run = Run { logical, len: len.div_ceil(sector), physical: from / sector, unwritten };
                match all.last_mut() {
                    Some(last) if !packed && follows(last, &run) => last.len += run.len,
                    _ => all.push(run),
                }
            }
            at += len;
        }
    }
    all
}

fn follows(last: &Run, run: &Run) -> bool {
    last.logical + last.len == run.logical
        && last.physical + last.len == run.physical
        && last.unwritten == run.unwritten
}
