//! Replays the log in memory: the sectors that are newer there stand in front of the volume. The kernel's
//! `xfs_buf_item_recover.c`, `xfs_inode_item_recover.c` and `xfs_icreate_item.c`.
//!
//! Nothing is written. What was going on when the log ended (extents to be freed, links to be dropped) is not carried on: it
//! is counted and said. From version 5 on metadata tells the place in the log it is as new as; older items leave it alone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::disk::Disk;
use super::items::{Assembly, BUFFER, CANCEL, CREATE, INODE, Item, Transaction};
use super::log::Record;
use crate::disk::us;
use crate::image::fields::Fields;
use crate::image::{Extent, Kind, ReadAt, ReadError, read_vec};

const SECTOR: u64 = 512;
/// A bit of a buffer's map stands for so many bytes.
const PIECE: usize = 128;
/// The most inodes that are made.
const CREATED: u32 = 1 << 20;
/// Flags of a buffer item.
const INODES: u16 = 1;

/// A volume with the newer sectors of its log in front.
pub(super) struct Overlay {
    below: Arc<dyn ReadAt>,
    sectors: BTreeMap<u64, Vec<u8>>,
}

/// What a replay gives.
pub(super) struct Replayed {
    pub(super) volume: Arc<dyn ReadAt>,
    pub(super) sectors: Arc<BTreeSet<u64>>,
    pub(super) transactions: usize,
    pub(super) odd: Vec<String>,
}

/// Replays `records`, which follow each other.
pub(super) fn replay(disk: &Disk, records: &[Record]) -> Result<Replayed, ReadError> {
    let mut transactions = Vec::new();
    let mut assembly = Assembly::default();
    for record in records {
        assembly.add(record, &mut |one| {
            transactions.push(one);
            Ok(())
        })?;
    }
    let log = records.iter().fold(0_u64, |sum, record| sum.saturating_add(record.data.len() as u64));
    let overlay = Overlay { below: Arc::clone(&disk.volume), sectors: BTreeMap::new() };
    // A bit of a map stands for a quarter of a sector; new inodes take a few bytes of log for 32 KiB.
    let most = us((log / 512 * 8 + (1 << 16)).min(1 << 19));
    let mut replay = Replay { disk, overlay, most, cancelled: cancelled(&transactions), created: 0, odd: Vec::new() };
    for one in &transactions {
        replay.transaction(one)?;
    }
    let mut odd = replay.odd;
    let waiting = unfinished(&transactions);
    if waiting > 0 {
        odd.push(format!("{waiting} things that the log says were begun were not carried on: free space may differ"));
    }
    let sectors = Arc::new(replay.overlay.sectors.keys().copied().collect());
    Ok(Replayed { volume: Arc::new(replay.overlay), sectors, transactions: transactions.len(), odd })
}

/// Buffers that were thrown away, how often.
fn cancelled(transactions: &[Transaction]) -> HashMap<u64, usize> {
    let mut all = HashMap::new();
    for item in transactions.iter().flat_map(|one| &one.items).filter(|item| item.kind() == BUFFER) {
        if let Ok(buffer) = Buffer::read(item)
            && buffer.flags & CANCEL != 0
        {
            *all.entry(buffer.sector).or_insert(0) += 1;
        }
    }
    all
}

/// Intents without their end.
fn unfinished(transactions: &[Transaction]) -> usize {
    let mut open: HashMap<(u16, u64), i64> = HashMap::new();
    for item in transactions.iter().flat_map(|one| &one.items) {
        let (kind, count) = item.intent();
        // Both name it by the same number: behind their two half words and a count.
        if let (true, Ok(id)) = (count != 0, item.head().u64(8)) {
            *open.entry((kind, id)).or_insert(0) += count;
        }
    }
    open.values().filter(|count| **count > 0).count()
}

/// The description of a buffer item.
struct Buffer {
    flags: u16,
    sector: u64,
    len: usize,
    /// First piece and number of pieces that follow each other.
    runs: Vec<(usize, usize)>,
}

impl Buffer {
    fn read(item: &Item) -> Result<Self, ReadError> {
        let fields = item.head();
        let words = usize::try_from(fields.u32(16)?).unwrap_or(usize::MAX).min(fields.bytes().len() / 4);
        let mut runs: Vec<(usize, usize)> = Vec::new();
        for index in 0..words {
            let word = fields.u32(20 + index * 4)?;
            for bit in (0..32).filter(|bit| word >> bit & 1 != 0).map(|bit| index * 32 + bit) {
                match runs.last_mut().filter(|(first, count)| first + count == bit) {
                    Some((_, count)) => *count += 1,
                    None => runs.push((bit, 1)),
                }
            }
        }
        Ok(Self { flags: fields.u16(4)?, sector: fields.u64(8)?, len: usize::from(fields.u16(6)?) * 512, runs })
    }
}

struct Replay<'a> {
    disk: &'a Disk,
    overlay: Overlay,
    /// Sectors that may be kept.
    most: usize,
    cancelled: HashMap<u64, usize>,
    /// Inodes that were made: an item that makes many is short.
    created: u32,
    odd: Vec<String>,
}

impl Replay<'_> {
    fn transaction(&mut self, one: &Transaction) -> Result<(), ReadError> {
        // As the kernel does: buffers before what lies in them, what is thrown away last.
        let rank = |item: &&Item| match item.kind() {
            BUFFER if Buffer::read(item).is_ok_and(|buffer| buffer.flags & CANCEL != 0) => 2,
            BUFFER | CREATE => 0,
            _ => 1,
        };
        let mut items: Vec<_> = one.items.iter().collect();
        items.sort_by_key(rank);
        for item in items {
            let done = match item.kind() {
                BUFFER => self.buffer(item, one.lsn),
                INODE => self.inode(item, one.lsn),
                CREATE => self.create(item),
                _ => Ok(()),
            };
            if let Err(error) = done {
                self.odd.push(format!("an item of the log was left out: {error}"));
            }
            if self.overlay.sectors.len() > self.most {
                let why = format!("it changes more than {} sectors", self.most);
                return Err(ReadError::unsupported("the xfs log", why));
            }
        }
        Ok(())
    }

    fn buffer(&mut self, item: &Item, lsn: u64) -> Result<(), ReadError> {
        let buffer = Buffer::read(item)?;
        if let Some(count) = self.cancelled.get_mut(&buffer.sector) {
            if buffer.flags & CANCEL != 0 {
                *count -= 1;
                if *count == 0 {
                    self.cancelled.remove(&buffer.sector);
                }
            }
            return Ok(());
        }
        // Of these, only the list of inodes without a name is new.
        if buffer.flags & INODES != 0 {
            return Ok(());
        }
        let at = buffer.sector.saturating_mul(SECTOR);
        if self.newer(at, lsn)? {
            return Ok(());
        }
        for ((first, count), region) in buffer.runs.iter().zip(item.regions.iter().skip(1)) {
            let (from, len) = (first.saturating_mul(PIECE), region.len().min(count * PIECE));
            let new = region.get(..len).filter(|_| from.saturating_add(len) <= buffer.len);
            let Some(new) = new else {
                return Err(item.head().corrupt(20, "pieces inside the buffer", format_args!("piece {first}")));
            };
            self.overlay.write(at.saturating_add(from as u64), new)?;
        }
        Ok(())
    }

    /// Is what stands on the volume at least as new?
    fn newer(&self, at: u64, lsn: u64) -> Result<bool, ReadError> {
        if !self.disk.sb.v5 {
            return Ok(false);
        }
        let head = read_vec(self.disk.volume.as_ref(), at, us(SECTOR))?;
        let fields = Fields::new("xfs metadata", at, &head);
        let (place, uuid) = match (fields.slice(0, 4)?, fields.be16(8)?) {
            (b"AB3B" | b"AB3C" | b"IAB3" | b"FIB3" | b"RMB3" | b"R3FC", _) | (_, 0x3df1 | 0x3dff | 0x3ebe | 0x3bee) => {
                (24, 32)
            }
            (b"BMA3", _) => (32, 40),
            (b"XAGF", _) => (208, 64),
            (b"XAGI", _) => (320, 296),
            (b"XAFL", _) => (24, 8),
            (b"XSLM", _) => (48, 16),
            (b"XDB3" | b"XDD3" | b"XDF3", _) => (16, 24),
            (b"XFSB", _) => (240, 32),
            _ => return Ok(false),
        };
        let there = fields.be64(place)?;
        let own = place == 240 || self.disk.is_own(&fields, uuid);
        Ok(own && there != 0 && there != u64::MAX && there >= lsn)
    }

    /// New inodes: empty, with the little that says what they are.
    fn create(&mut self, item: &Item) -> Result<(), ReadError> {
        let fields = item.head();
        let (group, block) = (fields.be32(4)?, fields.be32(8)?);
        let (count, size, len) = (fields.be32(12)?, fields.be32(16)?, fields.be32(20)?);
        let sb = &self.disk.sb;
        let wanted = u64::from(count) * u64::from(size) == u64::from(len).saturating_mul(sb.block_size);
        if us(u64::from(size)) != sb.inode_size || !wanted || group >= sb.ag_count || count > 1024 {
            return Err(fields.corrupt(4, "blocks full of inodes", format_args!("{count} in {len} blocks")));
        }
        let at = sb.linear(group, block).saturating_mul(sb.block_size);
        if block.checked_add(len).is_none_or(|end| end > sb.ag_len(group)) {
            return Err(fields.corrupt(8, "blocks of the group", block));
        }
        if (0..u64::from(len) * sb.block_size)
            .step_by(512)
            .any(|n| self.cancelled.contains_key(&(at.saturating_add(n) / SECTOR)))
        {
            return Ok(());
        }
        self.created = self.created.saturating_add(count);
        if self.created > CREATED {
            return Err(ReadError::unsupported("the xfs log", format!("it makes more than {CREATED} inodes")));
        }
        let first = block.checked_shl(u32::from(sb.inode_log)).unwrap_or(u32::MAX);
        for index in 0..count {
            let mut raw = vec![0; sb.inode_size];
            put(&mut raw, 0, b"IN");
            put(&mut raw, 4, &[if sb.v5 { 3 } else { 2 }, super::inode::EXTENTS]);
            put(&mut raw, 92, &fields.array::<4>(24)?);
            put(&mut raw, 96, &[0xff; 4]);
            if sb.v5 {
                put(&mut raw, 152, &sb.inode_of(group, first.saturating_add(index)).to_be_bytes());
                put(&mut raw, 160, &sb.uuid);
            }
            self.overlay.write(at.saturating_add(u64::from(index) * u64::from(size)), &raw)?;
        }
        Ok(())
    }

    fn inode(&mut self, item: &Item, lsn: u64) -> Result<(), ReadError> {
        let fields = item.head();
        let changed = fields.u32(4)?;
        let (number, sector) = (fields.u64(16)?, fields.u64(40)?);
        if self.cancelled.contains_key(&sector) {
            return Ok(());
        }
        let place = self.disk.sb.place_of(number);
        let (_, _, at) = place.ok_or_else(|| fields.corrupt(16, "the number of an inode", number))?;
        let mut raw = read_vec(&self.overlay, at, self.disk.sb.inode_size)?;
        let there = Fields::new("xfs inode", at, &raw);
        let v3 = there.u8(4)? == 3;
        if there.slice(0, 2)? != b"IN" {
            return Err(there.corrupt(0, "magic IN", crate::image::hex(there.slice(0, 2)?)));
        }
        let new = if v3 { there.be64(112)? } else { 0 };
        if new != u64::MAX && new > lsn {
            return Ok(());
        }
        super::core::apply(item, changed, v3, lsn, &mut raw)?;
        self.overlay.write(at, &raw)
    }
}

/// Writes `bytes` at `at` if they fit.
pub(super) fn put(raw: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = raw.get_mut(at..at.saturating_add(bytes.len())) {
        place.copy_from_slice(bytes);
    }
}

impl Overlay {
    /// Whole sectors, or a part of one.
    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), ReadError> {
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            let here = at.saturating_add(done as u64);
            let (number, inside) = (here / SECTOR, us(here % SECTOR));
            let part = rest.get(..rest.len().min(us(SECTOR) - inside)).unwrap_or(rest);
            if let Some(sector) = self.sectors.get_mut(&number) {
                put(sector, inside, part);
            } else {
                let mut sector = read_vec(self.below.as_ref(), number.saturating_mul(SECTOR), us(SECTOR))?;
                put(&mut sector, inside, part);
                self.sectors.insert(number, sector);
            }
            done += part.len();
        }
        Ok(())
    }
}

impl ReadAt for Overlay {
    fn len(&self) -> u64 {
        self.below.len()
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> Result<(), ReadError> {
        self.below.read_at(at, into)?;
        let end = at.saturating_add(into.len() as u64);
        for (number, sector) in self.sectors.range(at / SECTOR..end.div_ceil(SECTOR)) {
            let begin = number * SECTOR;
            let (from, to) = (begin.max(at), (begin + SECTOR).min(end));
            if let Some(new) = sector.get(us(from - begin)..us(to - begin)) {
                put(into, us(from - at), new);
            }
        }
        Ok(())
    }

    fn extent(&self, at: u64) -> Result<Extent, ReadError> {
        let below = self.below.extent(at)?;
        if self.sectors.contains_key(&(at / SECTOR)) {
            let len = ((at / SECTOR + 1) * SECTOR).min(self.len()) - at;
            return Ok(Extent { at, len, kind: Kind::Data });
        }
        let next = self.sectors.range(at / SECTOR..).next().map_or(below.end(), |(sector, _)| sector * SECTOR);
        Ok(Extent { at, len: below.end().min(next) - at, kind: below.kind })
    }
}
