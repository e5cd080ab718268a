//! The content of a file as bytes. Every block is checked against its checksum; one that fits on no copy is a gap with
//! that reason, never bytes.

use std::sync::Arc;

use impound_backends::Why;

use super::extents::{self, LONGEST, Packing, Piece, What};
use super::pool::Pool;
use super::sums::Sums;
use super::tree::Tree;
use super::unpack::unpack;
use crate::disk::us;
use crate::image::cache::Cache;
use crate::image::{Extent, Kind, ReadAt, ReadError, inside};

/// Bytes that are read and checked together: what a compressed extent holds at most.
const UNIT: u64 = LONGEST;
/// Bytes of units that are kept.
const CACHE: usize = 2 << 20;

/// See the module.
pub(super) struct Content {
    pool: Arc<Pool>,
    /// Where the checksums are, if the content has any.
    sums: Option<Tree>,
    pieces: Vec<Piece>,
    len: u64,
    /// Why pieces may be missing that should be there.
    damaged: Option<String>,
    cache: Cache,
}

/// Content that was read and checked together.
struct Unit {
    /// The bytes, then one for each sector: 1 if it is good.
    bytes: Arc<Vec<u8>>,
    /// Place in the file of the first.
    at: u64,
    len: u64,
}

impl Content {
    /// `pieces` in the order of the file and not overlapping. With `damaged`, what no piece covers does not read as zeros.
    pub(super) fn new(
        pool: Arc<Pool>,
        sums: Option<Tree>,
        pieces: Vec<Piece>,
        len: u64,
        damaged: Option<String>,
    ) -> Self {
        Self { pool, sums, pieces, len, damaged, cache: Cache::new(CACHE) }
    }

    /// The piece at `at`, or where the hole there ends.
    fn find(&self, at: u64) -> Result<&Piece, u64> {
        let next = self.pieces.partition_point(|piece| piece.at <= at);
        match next.checked_sub(1).and_then(|index| self.pieces.get(index)) {
            Some(piece) if at < piece.end() => Ok(piece),
            _ => Err(self.pieces.get(next).map_or(self.len, |piece| piece.at.min(self.len))),
        }
    }

    fn hole(&self) -> Kind {
        self.damaged.as_ref().map_or(Kind::Zero, |why| Kind::Gap(Why::Unreadable(why.clone())))
    }

    /// The unit of a stored piece that `at` is in, or why it cannot be read.
    fn unit(&self, piece: &Piece, at: u64) -> Result<Unit, String> {
        let whole = piece.len;
        let plain = matches!(&piece.what, What::Stored(extent) if extent.packing.is_none());
        let first = if plain { (at - piece.at) / UNIT * UNIT } else { 0 };
        let len = if plain { (whole - first).min(UNIT) } else { whole };
        let start = piece.at.saturating_add(first);
        // Places of units are multiples of a sector, mostly of 32: neighbours are to have neighbouring keys.
        let key = (start / self.pool.sb.sector).rotate_right(5);
        let mut failed = String::new();
        let bytes = self.cache.get(key, || {
            let read = if plain { Ok(self.plain(piece, first, len)) } else { self.packed(piece) };
            read.map_err(|why| {
                failed = why;
                ReadError::caller("", "")
            })
        });
        bytes.map(|bytes| Unit { bytes, at: start, len }).map_err(|_| failed)
    }

    /// Reads `len` bytes of an extent, from byte `first` of what is shown of it.
    fn plain(&self, piece: &Piece, first: u64, len: u64) -> Vec<u8> {
        let What::Stored(extent) = &piece.what else { return Vec::new() };
        let sector = self.pool.sb.sector;
        let at = extent.at.saturating_add(extent.from).saturating_add(first);
        let mut bytes = vec![0; us(len.next_multiple_of(sector))];
        let sums = self.sums(at, bytes.len() as u64);
        let good = self.pool.sectors(at, &mut bytes, &sums);
        bytes.truncate(us(len));
        bytes.extend(good.into_iter().map(u8::from));
        bytes
    }

    fn sums(&self, at: u64, len: u64) -> Sums {
        self.sums.map_or_else(Sums::none, |tree| Sums::read(&self.pool, tree, at, len))
    }

    /// Decodes what is shown of a compressed extent, or of one in the leaf.
    fn packed(&self, piece: &Piece) -> Result<Vec<u8>, String> {
        let (packed, packing, content, from) = match &piece.what {
            What::Inline(bytes, packing) => (bytes.clone(), *packing, piece.len, 0),
            What::Stored(extent) => {
                let mut packed = vec![0; us(extent.len.min(LONGEST))];
                let good = self.pool.sectors(extent.at, &mut packed, &self.sums(extent.at, extent.len));
                if let Some(index) = good.iter().position(|good| !good) {
                    return Err(self.pool.why(extent.at.saturating_add(index as u64 * self.pool.sb.sector)));
                }
                (packed, extent.packing, extent.content, extent.from)
            }
            What::Zero(_) => (Vec::new(), None, 0, 0),
        };
        let mut bytes = match packing {
            None => packed,
            Some(packing) => self.unpack(packing, &packed, content, piece)?,
        };
        bytes.drain(..us(from).min(bytes.len()));
        bytes.truncate(us(piece.len));
        let sectors = piece.len.div_ceil(self.pool.sb.sector);
        bytes.extend((0..sectors).map(|_| 1));
        Ok(bytes)
    }

    fn unpack(&self, packing: Packing, packed: &[u8], content: u64, piece: &Piece) -> Result<Vec<u8>, String> {
        let mut bytes = vec![0; us(content.min(LONGEST))];
        unpack(packing, packed, &mut bytes, us(self.pool.sb.sector))
            .map_err(|found| format!("the compressed extent for byte {:#x} is damaged: {found}", piece.at))?;
        Ok(bytes)
    }

    /// Copies content from `at` on; how much there was.
    fn copy(&self, piece: &Piece, at: u64, into: &mut [u8]) -> Result<usize, ReadError> {
        let gap = |at: u64, len: u64, why: String| ReadError::Gap { at, len, why: Why::Unreadable(why) };
        let rest = piece.end().min(self.len).saturating_sub(at);
        let unit = self.unit(piece, at).map_err(|why| gap(at, rest, why))?;
        let (inside, sector) = (at - unit.at, self.pool.sb.sector);
        let len = (unit.len - inside).min(rest).min(into.len() as u64);
        for index in inside / sector..(inside + len).div_ceil(sector) {
            if unit.bytes.get(us(unit.len + index)) != Some(&1) {
                let from = unit.at.saturating_add(index * sector);
                let why = self.reason(piece, from);
                let start = from.max(at);
                return Err(gap(start, from.saturating_add(sector).min(self.len).saturating_sub(start), why));
            }
        }
        match (unit.bytes.get(us(inside)..us(inside + len)), into.get_mut(..us(len))) {
            (Some(bytes), Some(into)) => into.copy_from_slice(bytes),
            _ => return Err(gap(at, rest, "the unit is too short".to_owned())),
        }
        Ok(us(len))
    }

    fn reason(&self, piece: &Piece, at: u64) -> String {
        let What::Stored(extent) = &piece.what else { return "it is damaged".to_owned() };
        self.pool.why(extent.at.saturating_add(extent.from).saturating_add(at.saturating_sub(piece.at)))
    }

    /// How far it goes on as at `at`, and what that is, without reading it.
    fn stored(&self, extent: &extents::Extent, piece: &Piece, at: u64) -> (u64, Kind) {
        let rest = piece.end() - at;
        let packed = extent.packing.is_some();
        let inside = if packed { 0 } else { extent.from.saturating_add(at - piece.at) };
        let address = extent.at.saturating_add(inside);
        let place = match self.pool.chunks.place(address) {
            Ok(place) => place,
            Err(error) => return (rest, Kind::Gap(Why::Unreadable(error.to_string()))),
        };
        let len = if packed { rest } else { rest.min(place.len) };
        if place.copies.iter().any(Result::is_ok) {
            return (len, Kind::Data);
        }
        (len, Kind::Gap(Why::Unreadable(self.pool.why(address))))
    }
}

impl ReadAt for Content {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, mut at: u64, mut into: &mut [u8]) -> Result<(), ReadError> {
        inside("file", self.len, at, into.len() as u64)?;
        while !into.is_empty() {
            let (piece, zeros) = match self.find(at) {
                Ok(piece) if matches!(piece.what, What::Zero(_)) => (None, piece.end() - at),
                Ok(piece) => (Some(piece), 0),
                Err(next) => match self.hole() {
                    Kind::Gap(why) => return Err(ReadError::Gap { at, len: next - at, why }),
                    _ => (None, next - at),
                },
            };
            let done = match piece {
                Some(piece) => self.copy(piece, at, into)?,
                None => us(zeros).min(into.len()),
            };
            let (now, rest) = into.split_at_mut(done.clamp(1, into.len()));
            if piece.is_none() {
                now.fill(0);
            }
            at += now.len() as u64;
            into = rest;
        }
        Ok(())
    }

    fn extent(&self, at: u64) -> Result<Extent, ReadError> {
        inside("file", self.len, at, 1)?;
        let (len, kind) = match self.find(at) {
            Err(next) => (next - at, self.hole()),
            Ok(piece) => match &piece.what {
                What::Zero(_) => (piece.end() - at, Kind::Zero),
                What::Inline(..) => (piece.end() - at, Kind::Data),
                What::Stored(extent) => self.stored(extent, piece, at),
            },
        };
        Ok(Extent { at, len: len.clamp(1, self.len - at), kind })
    }

    fn unit(&self) -> u64 {
        UNIT
    }
}
