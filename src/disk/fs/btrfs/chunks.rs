//! From addresses of the file system to places on the device. Kernel include/uapi/linux/btrfs_tree.h, `struct btrfs_chunk`;
//! how stripes follow each other: fs/btrfs/volumes.c, `btrfs_map_block`.
//!
//! One device is read. What a RAID 0, 10, 5 or 6 keeps on others is named as being there; nothing is computed from parity.

use std::sync::OnceLock;

use impound_backends::Why;

use super::tree::Key;
use crate::image::ReadError;
use crate::image::fields::Fields;

const WHAT: &str = "btrfs chunk";
/// Length of a chunk without its stripes, and of a stripe.
const FIXED: usize = 48;
const STRIPE: usize = 32;
/// Bytes that a stripe has in a row: there is no other size.
const STRIPE_LEN: u64 = 64 << 10;

/// Bits of a chunk's type.
const DATA: u64 = 1;
const SYSTEM: u64 = 2;
const METADATA: u64 = 4;
const RAID0: u64 = 8;
const RAID10: u64 = 0x40;
const RAID5: u64 = 0x80;
const RAID6: u64 = 0x100;
const PROFILES: &[(u64, &str)] = &[
    (RAID0, "RAID0"),
    (0x10, "RAID1"),
    (0x20, "DUP"),
    (RAID10, "RAID10"),
    (RAID5, "RAID5"),
    (RAID6, "RAID6"),
    (0x200, "RAID1C3"),
    (0x400, "RAID1C4"),
];

/// Part of a chunk on a device.
#[derive(Debug, Clone, Copy)]
struct Stripe {
    device: u64,
    at: u64,
}

/// A range of addresses that is stored in one way.
#[derive(Debug, Clone)]
pub(super) struct Chunk {
    pub(super) at: u64,
    pub(super) len: u64,
    kind: u64,
    stripe_len: u64,
    /// Stripes with the same content, where there are several groups of them.
    sub: u64,
    stripes: Vec<Stripe>,
}

/// Where bytes are, in each copy, and how many follow each other there.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) len: u64,
    /// Offset on this device, or the device that has it.
    pub(super) copies: Vec<Result<u64, u64>>,
}

impl Chunk {
    /// A chunk at address `at`; how long it was on the disk as well.
    fn parse(fields: &Fields<'_>, from: usize, at: u64) -> Result<(Self, usize), ReadError> {
        let count = usize::from(fields.u16(from + 44)?);
        let mut stripes = Vec::new();
        for n in 0..count {
            let place = from + FIXED + n * STRIPE;
            stripes.push(Stripe { device: fields.u64(place)?, at: fields.u64(place + 8)? });
        }
        let chunk = Self {
            at,
            len: fields.u64(from)?,
            stripe_len: fields.u64(from + 16)?,
            kind: fields.u64(from + 24)?,
            sub: u64::from(fields.u16(from + 46)?),
            stripes,
        };
        if chunk.len == 0 || at.checked_add(chunk.len).is_none() {
            return Err(fields.corrupt(from, "a length that fits", chunk.len));
        }
        if chunk.stripe_len != STRIPE_LEN {
            return Err(fields.corrupt(from + 16, format_args!("stripes of {STRIPE_LEN} bytes"), chunk.stripe_len));
        }
        let count = count as u64;
        let uneven = chunk.kind & RAID10 != 0 && (chunk.sub == 0 || !count.is_multiple_of(chunk.sub));
        if count <= chunk.parity() || uneven {
            return Err(fields.corrupt(from + 44, "stripes for its profile", count));
        }
        Ok((chunk, FIXED + stripes_len(count)))
    }

    /// Stripes of a row that hold parity.
    fn parity(&self) -> u64 {
        match self.kind {
            kind if kind & RAID6 != 0 => 2,
            kind if kind & RAID5 != 0 => 1,
            _ => 0,
        }
    }

    /// Stripes of a row with content of their own; none if all stripes hold the same.
    fn columns(&self) -> Option<u64> {
        let count = self.stripes.len() as u64;
        match self.kind {
            kind if kind & RAID0 != 0 => Some(count),
            kind if kind & RAID10 != 0 => Some(count / self.sub),
            kind if kind & (RAID5 | RAID6) != 0 => Some(count - self.parity()),
            _ => None,
        }
    }

    /// `inside` is below the length of the chunk.
    fn place(&self, inside: u64, device: u64) -> Place {
        let on = |stripe: &Stripe, offset: u64| {
            if stripe.device == device { Ok(stripe.at.saturating_add(offset)) } else { Err(stripe.device) }
        };
        let Some(columns) = self.columns() else {
            let copies = self.stripes.iter().map(|stripe| on(stripe, inside)).collect();
            return Place { len: self.len - inside, copies };
        };
        let (number, rest) = (inside / self.stripe_len, inside % self.stripe_len);
        let (row, column) = (number / columns, number % columns);
        let count = self.stripes.len() as u64;
        let (first, several) = match self.kind {
            kind if kind & RAID10 != 0 => (column * self.sub, self.sub),
            kind if kind & (RAID5 | RAID6) != 0 => ((row + column) % count, 1),
            _ => (column, 1),
        };
        let stripes = self.stripes.iter().skip(crate::disk::us(first)).take(crate::disk::us(several));
        let copies = stripes.map(|stripe| on(stripe, row.saturating_mul(self.stripe_len) + rest)).collect();
        Place { len: (self.stripe_len - rest).min(self.len - inside), copies }
    }

    /// The address of byte `inside` of a stripe, and how far it goes on.
    fn address(&self, stripe: usize, inside: u64) -> Option<(u64, u64)> {
        let Some(columns) = self.columns() else {
            return (inside < self.len).then(|| (self.at + inside, self.len - inside));
        };
        let (row, rest) = (inside / self.stripe_len, inside % self.stripe_len);
        let (stripe, count) = (stripe as u64, self.stripes.len() as u64);
        let column = match self.kind {
            kind if kind & RAID10 != 0 => stripe / self.sub,
            kind if kind & (RAID5 | RAID6) != 0 => (stripe + count - row % count) % count,
            _ => stripe,
        };
        let offset = row.checked_mul(columns)?.checked_add(column)?.checked_mul(self.stripe_len)?.checked_add(rest)?;
        (column < columns && offset < self.len).then(|| (self.at + offset, self.stripe_len - rest))
    }

    pub(super) fn has_chunk_tree(&self) -> bool {
        self.kind & SYSTEM != 0
    }

    pub(super) fn has_nodes(&self) -> bool {
        self.kind & (SYSTEM | METADATA) != 0
    }

    fn profile(&self) -> &'static str {
        PROFILES.iter().find(|(bit, _)| self.kind & bit != 0).map_or("single", |(_, name)| name)
    }

    fn content(&self) -> &'static str {
        match self.kind & (DATA | SYSTEM | METADATA) {
            DATA => "data",
            SYSTEM => "system",
            METADATA => "metadata",
            _ => "data and metadata",
        }
    }
}

fn stripes_len(count: u64) -> usize {
    crate::disk::us(count).saturating_mul(STRIPE)
}

/// All chunks that are known.
#[derive(Debug, Clone, Default)]
pub(super) struct Chunks {
    all: Vec<Chunk>,
    device: u64,
    /// See [`Chunks::places`].
    placed: OnceLock<Vec<(u64, usize, usize)>>,
}

impl Chunks {
    /// The chunks of the chunk tree itself, from the superblock.
    pub(super) fn system(bytes: &[u8], device: u64) -> Result<Self, ReadError> {
        let fields = Fields::new("btrfs system chunk array", 0, bytes);
        let mut this = Self { device, ..Self::default() };
        let mut at = 0;
        while at < bytes.len() {
            let key = Key::read(&fields, at)?;
            let (chunk, len) = Chunk::parse(&fields, at + Key::LEN, key.offset)?;
            this.add(chunk)?;
            at += Key::LEN + len;
        }
        Ok(this)
    }

    /// Takes an item of the chunk tree in. One that is known already is not taken again.
    pub(super) fn learn(&mut self, at: u64, fields: &Fields<'_>) -> Result<(), ReadError> {
        let (chunk, _) = Chunk::parse(fields, 0, at)?;
        match self.find(at) {
            Some(known) if known.at == at && known.len == chunk.len => Ok(()),
            _ => self.add(chunk),
        }
    }

    fn add(&mut self, chunk: Chunk) -> Result<(), ReadError> {
        let index = self.all.partition_point(|one| one.at < chunk.at);
        let before = index.checked_sub(1).and_then(|index| self.all.get(index));
        let next = self.all.get(index);
        let end = chunk.at.saturating_add(chunk.len);
        if before.is_some_and(|one| one.at.saturating_add(one.len) > chunk.at) || next.is_some_and(|one| one.at < end) {
            return Err(ReadError::corrupt(WHAT, chunk.at, "chunks apart", "one over another"));
        }
        self.all.insert(index, chunk);
        self.placed = OnceLock::new();
        Ok(())
    }

    pub(super) fn all(&self) -> &[Chunk] {
        &self.all
    }

    fn find(&self, at: u64) -> Option<&Chunk> {
        let index = self.all.partition_point(|chunk| chunk.at <= at).checked_sub(1)?;
        self.all.get(index).filter(|chunk| at - chunk.at < chunk.len)
    }

    /// Where address `at` is.
    pub(super) fn place(&self, at: u64) -> Result<Place, ReadError> {
        let chunk = self.find(at).ok_or_else(|| ReadError::corrupt(WHAT, at, "a chunk for this address", "none"))?;
        Ok(chunk.place(at - chunk.at, self.device))
    }

    /// The place of copy `copy` of address `at`, and how far it goes; a gap if another device has it.
    pub(super) fn on_device(&self, at: u64, copy: usize) -> Result<(u64, u64), ReadError> {
        let place = self.place(at)?;
        match place.copies.get(copy) {
            Some(Ok(from)) => Ok((*from, place.len)),
            Some(Err(device)) => {
                let why = Why::Unreadable(format!("it is on device {device} of the file system, which is not here"));
                Err(ReadError::Gap { at, len: place.len, why })
            }
            None => Err(ReadError::caller(format!("read copy {copy} of {at:#x}"), "there are fewer")),
        }
    }

    /// The address that is kept at a place of this device and how far that goes; none if nothing is. Parity has none.
    pub(super) fn address(&self, place: u64) -> Option<(u64, u64)> {
        let placed = self.placed.get_or_init(|| self.places());
        let index = placed.partition_point(|(from, ..)| *from <= place).checked_sub(1)?;
        let (from, chunk, stripe) = placed.get(index)?;
        self.all.get(*chunk)?.address(*stripe, place - from)
    }

    /// Where stripes of chunks are on this device, in order: place, chunk, stripe.
    fn places(&self) -> Vec<(u64, usize, usize)> {
        let stripes = self.all.iter().enumerate().flat_map(|(chunk, all)| {
            let mine = all.stripes.iter().enumerate().filter(|(_, stripe)| stripe.device == self.device);
            mine.map(move |(index, stripe)| (stripe.at, chunk, index))
        });
        let mut all: Vec<_> = stripes.collect();
        all.sort_unstable();
        all
    }

    /// What is stored how.
    pub(super) fn facts(&self) -> Vec<(String, String)> {
        let mut told: Vec<(String, String)> = Vec::new();
        for content in ["data", "metadata", "system", "data and metadata"] {
            let mut profiles: Vec<_> =
                self.all.iter().filter(|chunk| chunk.content() == content).map(Chunk::profile).collect();
            profiles.sort_unstable();
            profiles.dedup();
            if !profiles.is_empty() {
                told.push((format!("profile of {content}"), profiles.join(", ")));
            }
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(kind: u64, devices: &[u64]) -> Chunk {
        let stripes = devices.iter().map(|device| Stripe { device: *device, at: device << 20 }).collect();
        Chunk { at: 1 << 30, len: 12 << 16, kind: kind | DATA, stripe_len: 1 << 16, sub: 2, stripes }
    }

    #[test]
    fn every_profile_places_its_bytes_and_finds_them_again() {
        for (kind, devices) in [
            (0, &[1][..]),
            (0x20, &[1, 1]),
            (0x10, &[1, 2]),
            (0x400, &[1, 2, 3, 4]),
            (RAID0, &[1, 2, 3]),
            (RAID10, &[1, 2, 3, 4]),
            (RAID5, &[1, 2, 3]),
            (RAID6, &[1, 2, 3, 4]),
        ] {
            let mut seen = std::collections::HashSet::new();
            for device in devices {
                let chunks = Chunks { all: vec![chunk(kind, devices)], device: *device, ..Chunks::default() };
                for at in ((1 << 30)..(1 << 30) + (12 << 16)).step_by(4096) {
                    for from in chunks.place(at).unwrap().copies.into_iter().flatten().take(1) {
                        assert!(seen.insert((*device, from)) || devices[0] == devices[devices.len() - 1]);
                        assert_eq!(chunks.address(from).unwrap().0, at, "{kind:#x} on {device}");
                    }
                }
            }
            let copies = match kind {
                0x10 | 0x20 | RAID10 => 2,
                0x400 => 4,
                _ => 1,
            };
            let chunks = Chunks { all: vec![chunk(kind, devices)], device: 9, ..Chunks::default() };
            assert_eq!(chunks.place(1 << 30).unwrap().copies.len(), copies, "{kind:#x}");
            assert!(matches!(chunks.on_device(1 << 30, 0), Err(ReadError::Gap { .. })));
            assert_eq!(chunks.address(1 << 20), None);
        }
    }

    #[test]
    fn the_rows_of_raid5_are_turned() {
        // fs/btrfs/volumes.c: the first data stripe of row n is stripe n; the parity goes around with it.
        let chunks = Chunks { all: vec![chunk(RAID5, &[1, 2, 3])], device: 3, ..Chunks::default() };
        let on = |stripe: u64| chunks.place((1 << 30) + (stripe << 16)).unwrap().copies[0];
        assert_eq!(
            [on(0), on(1), on(2), on(3), on(4), on(5)],
            [Err(1), Err(2), Err(2), Ok((3 << 20) + (1 << 16)), Ok((3 << 20) + (2 << 16)), Err(1)]
        );
        assert_eq!(chunks.address(3 << 20), None, "parity of the first row");
    }
}
