//! The journal (jbd2): replayed in memory, and searched for what blocks held before. Kernel
//! Documentation/filesystems/ext4, "Journal (jbd2)".
//!
//! Nothing is written: blocks that the journal holds newer copies of are shown from there. Fast commits are not
//! replayed; whether there are some is told.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::Timestamp;

use super::superblock::checksum;
use crate::disk::us;
use crate::image::fields::Fields;
use crate::image::{Extent, Kind, ReadAt, ReadError, read_vec};

const MAGIC: u32 = 0xc03b_3998;
const DESCRIPTOR: u32 = 1;
const COMMIT: u32 = 2;
const REVOKE: u32 = 5;
/// Tags.
const ESCAPED: u32 = 1;
const SAME_UUID: u32 = 2;
const LAST: u32 = 8;
/// Incompatible features.
const WIDE: u32 = 2;
const CSUM2: u32 = 8;
const CSUM3: u32 = 0x10;
const FAST: u32 = 0x20;
/// First tag of a fast commit (fs/ext4/fast_commit.h).
const FAST_HEAD: u16 = 9;

/// A copy of a block in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Copy {
    /// Transaction that wrote it.
    pub(super) sequence: u32,
    /// The block of the file system.
    pub(super) block: u64,
    /// The block of the journal.
    pub(super) at: u32,
    escaped: bool,
    checksum: u32,
}

/// See the module.
pub(super) struct Journal {
    bytes: Arc<dyn ReadAt>,
    block: u64,
    first: u32,
    last: u32,
    start: u32,
    sequence: u32,
    incompat: u32,
    seed: u32,
}

impl Journal {
    /// Reads the superblock of the journal whose content is `bytes`.
    pub(super) fn open(bytes: Arc<dyn ReadAt>, block: u64) -> Result<Self, ReadError> {
        let head = crate::image::fields::read_structure(bytes.as_ref(), "jbd2 superblock", 0, 1024)?;
        let fields = Fields::new("jbd2 superblock", 0, &head);
        let kind = fields.be32(4)?;
        if fields.be32(0)? != MAGIC || !(3..=4).contains(&kind) {
            return Err(fields.corrupt(0, "a superblock of a journal", format_args!("kind {kind}")));
        }
        if u64::from(fields.be32(0xc)?) != block {
            return Err(fields.corrupt(0xc, format_args!("blocks of {block}"), fields.be32(0xc)?));
        }
        let incompat = if kind == 4 { fields.be32(0x28)? } else { 0 };
        if incompat & !0x3f != 0 {
            return Err(ReadError::unsupported("journal", format!("it uses unknown features {incompat:#x}")));
        }
        let there = u32::try_from(bytes.len() / block).unwrap_or(u32::MAX);
        let mut last = fields.be32(0x10)?.min(there);
        if incompat & FAST != 0 {
            let fast = fields.be32(0x54)?;
            last = last.saturating_sub(if fast == 0 { 256 } else { fast });
        }
        let first = fields.be32(0x14)?;
        let start = fields.be32(0x1c)?;
        if first == 0 || first >= last || (start != 0 && !(first..last).contains(&start)) {
            return Err(fields.corrupt(0x14, format_args!("a beginning before block {last}"), first.max(start)));
        }
        let seed = checksum(!0, fields.slice(0x30, 16)?);
        Ok(Self { bytes, block, first, last, start, sequence: fields.be32(0x18)?, incompat, seed })
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.start != 0
    }

    fn checked(&self) -> bool {
        self.incompat & (CSUM2 | CSUM3) != 0
    }

    fn read(&self, at: u32) -> Result<Vec<u8>, ReadError> {
        read_vec(self.bytes.as_ref(), u64::from(at) * self.block, us(self.block))
    }

    /// The content of a copy.
    pub(super) fn content(&self, copy: &Copy) -> Result<Vec<u8>, ReadError> {
        let mut block = self.read(copy.at)?;
        if let Some(magic) = block.get_mut(..4).filter(|_| copy.escaped) {
            magic.copy_from_slice(&MAGIC.to_be_bytes());
        }
        Ok(block)
    }

    /// The content of a copy is what its tag says. Without checksums, it is as long as it is no part of the log itself.
    pub(super) fn holds(&self, copy: &Copy) -> bool {
        let Ok(block) = self.read(copy.at) else { return false };
        if !self.checked() {
            return block.get(..4) != Some(&MAGIC.to_be_bytes());
        }
        let found = checksum(checksum(self.seed, &copy.sequence.to_be_bytes()), &block);
        if self.incompat & CSUM3 != 0 { found == copy.checksum } else { found & 0xffff == copy.checksum }
    }

    fn next(&self, at: u32) -> u32 {
        if at + 1 >= self.last { self.first } else { at + 1 }
    }

    /// Tags of a descriptor block at `at`.
    fn tags(&self, at: u32, sequence: u32, block: &[u8]) -> Result<Vec<Copy>, ReadError> {
        let fields = Fields::new("jbd2 descriptor", u64::from(at) * self.block, block);
        let wide = self.incompat & WIDE != 0;
        let size = match (self.incompat & CSUM3 != 0, self.incompat & CSUM2 != 0, wide) {
            (true, ..) => 16,
            (_, csum, wide) => 8 + if csum { 2 } else { 0 } + if wide { 4 } else { 0 },
        };
        let end = block.len() - if self.checked() { 4 } else { 0 };
        let (mut from, mut place, mut tags) = (12, at, Vec::new());
        while from + size <= end {
            let low = u64::from(fields.be32(from)?);
            let (flags, high, sum) = if size == 16 {
                (fields.be32(from + 4)?, fields.be32(from + 8)?, fields.be32(from + 12)?)
            } else {
                let high = if wide { fields.be32(from + 8)? } else { 0 };
                (u32::from(fields.be16(from + 6)?), high, u32::from(fields.be16(from + 4)?))
            };
            place = self.next(place);
            let number = low | if wide { u64::from(high) << 32 } else { 0 };
            tags.push(Copy { sequence, block: number, at: place, escaped: flags & ESCAPED != 0, checksum: sum });
            from += size + if flags & SAME_UUID == 0 { 16 } else { 0 };
            if flags & LAST != 0 {
                break;
            }
        }
        Ok(tags)
    }

    /// Head of a block of the log: kind and sequence.
    fn head(block: &[u8]) -> Option<(u32, u32)> {
        let fields = Fields::new("jbd2 block", 0, block);
        let magic = fields.be32(0).ok()?;
        Some((fields.be32(4).ok()?, fields.be32(8).ok()?)).filter(|_| magic == MAGIC)
    }

    /// The newest copy of each block of the transactions that were committed and not yet written to their place.
    pub(super) fn replay(&self, odd: &mut Vec<String>) -> Result<Replay, ReadError> {
        let mut log = Log { at: self.start, sequence: self.sequence, ..Log::default() };
        while log.at != 0 && log.walked < self.last && self.step(&mut log, odd)? {}
        let mut newest = BTreeMap::new();
        for copy in log.committed {
            let later = |by: &u32| copy.sequence.wrapping_sub(*by).cast_signed() <= 0;
            if log.revoked.get(&copy.block).is_some_and(later) {
                continue;
            }
            if self.checked() && !self.holds(&copy) {
                odd.push(format!("the journal's copy of block {} is damaged and was left out", copy.block));
                continue;
            }
            newest.insert(copy.block, copy);
        }
        Ok(Replay { newest, fast: self.has_fast_commit(log.sequence) })
    }

    /// One block of the log, and what it describes. False where the log ends.
    fn step(&self, log: &mut Log, odd: &mut Vec<String>) -> Result<bool, ReadError> {
        let block = self.read(log.at)?;
        let Some((kind, _)) = Self::head(&block).filter(|(_, found)| *found == log.sequence) else { return Ok(false) };
        let mut passed = 1;
        match kind {
            DESCRIPTOR => {
                let tags = self.tags(log.at, log.sequence, &block)?;
                passed += u32::try_from(tags.len()).unwrap_or(u32::MAX);
                log.pending.extend(tags);
            }
            REVOKE => log.revokes.extend(self.revokes(log.at, &block)?),
            COMMIT if self.checked() && !self.commit_holds(&block) => {
                let sequence = log.sequence;
                odd.push(format!("journal transaction {sequence} has a damaged commit; the replay ends before"));
                return Ok(false);
            }
            COMMIT => log.commit(),
            _ => return Ok(false),
        }
        log.walked = log.walked.saturating_add(passed);
        for _ in 0..passed.min(self.last) {
            log.at = self.next(log.at);
        }
        Ok(true)
    }

    /// Behind the log, does a fast commit stand that goes on from transaction `sequence`?
    fn has_fast_commit(&self, sequence: u32) -> bool {
        let block = if self.incompat & FAST == 0 { None } else { self.read(self.last).ok() };
        let fields = Fields::new("ext4 fast commit", 0, block.as_deref().unwrap_or_default());
        fields.u16(0).is_ok_and(|tag| tag == FAST_HEAD) && fields.u32(8).is_ok_and(|tid| tid == sequence)
    }

    /// The blocks of the log as they follow each other on the disk, of any transaction.
    pub(super) fn records(&self) -> impl Iterator<Item = Record> {
        (self.first..self.last).map_while(|at| self.read(at).ok().map(|block| (at, block))).filter_map(|(at, block)| {
            let (kind, sequence) = Self::head(&block)?;
            let what = match kind {
                DESCRIPTOR => What::Descriptor(self.tags(at, sequence, &block).unwrap_or_default()),
                COMMIT => What::Commit(commit_time(&block), !self.checked() || self.commit_holds(&block)),
                REVOKE => What::Revoke(self.revokes(at, &block).unwrap_or_default()),
                _ => return None,
            };
            Some(Record { at, sequence, what })
        })
    }

    /// Does a transaction wait to be written to its place?
    pub(super) fn is_waiting(&self, sequence: u32) -> bool {
        self.is_dirty() && sequence.wrapping_sub(self.sequence).cast_signed() >= 0
    }

    fn commit_holds(&self, block: &[u8]) -> bool {
        let mut copy = block.to_vec();
        let stored = block.get(16..20).map(<[u8]>::to_vec).unwrap_or_default();
        if let Some(field) = copy.get_mut(16..20) {
            field.fill(0);
        }
        checksum(self.seed, &copy).to_be_bytes() == *stored
    }

    fn revokes(&self, at: u32, block: &[u8]) -> Result<Vec<u64>, ReadError> {
        let fields = Fields::new("jbd2 revoke block", u64::from(at) * self.block, block);
        let wide = self.incompat & WIDE != 0;
        let (size, end) = (if wide { 8 } else { 4 }, us(u64::from(fields.be32(12)?)).min(block.len()));
        let (mut from, mut all) = (16, Vec::new());
        while from + size <= end {
            all.push(if wide { fields.be64(from)? } else { u64::from(fields.be32(from)?) });
            from += size;
        }
        Ok(all)
    }

    /// Every copy that is still whole, of any transaction, oldest first.
    pub(super) fn history(&self) -> Vec<Copy> {
        let mut all = Vec::new();
        for record in self.records() {
            if let What::Descriptor(tags) = record.what {
                all.extend(tags.into_iter().filter(|copy| self.holds(copy)));
            }
        }
        all.sort_by_key(|copy| (copy.sequence, copy.at));
        all
    }
}

/// What is still true only in the journal.
pub(super) struct Replay {
    pub(super) newest: BTreeMap<u64, Copy>,
    /// Fast commits follow, which were not looked into.
    pub(super) fast: bool,
}

/// How far a replay is.
#[derive(Default)]
struct Log {
    at: u32,
    sequence: u32,
    walked: u32,
    committed: Vec<Copy>,
    pending: Vec<Copy>,
    revokes: Vec<u64>,
    revoked: HashMap<u64, u32>,
}

impl Log {
    fn commit(&mut self) {
        self.committed.append(&mut self.pending);
        self.revoked.extend(self.revokes.drain(..).map(|block| (block, self.sequence)));
        self.sequence = self.sequence.wrapping_add(1);
    }
}

/// A block of the log that is no copy of another.
pub(super) struct Record {
    /// The block of the journal.
    pub(super) at: u32,
    pub(super) sequence: u32,
    pub(super) what: What,
}

/// What it tells.
pub(super) enum What {
    Descriptor(Vec<Copy>),
    /// When, and whether its checksum fits.
    Commit(Option<Timestamp>, bool),
    /// Blocks of which no older copy may be replayed.
    Revoke(Vec<u64>),
}

/// Seconds and nanoseconds of a commit block; none if it has none.
fn commit_time(block: &[u8]) -> Option<Timestamp> {
    let fields = Fields::new("jbd2 commit", 0, block);
    let seconds = fields.be64(48).ok().filter(|seconds| *seconds != 0)?;
    let nanos = fields.be32(56).ok()?.min(999_999_999);
    Timestamp::new(i64::try_from(seconds).ok()?, i32::try_from(nanos).ok()?).ok()
}

/// A volume with the newer blocks of its journal in front.
pub(super) struct Overlay {
    pub(super) below: Arc<dyn ReadAt>,
    pub(super) journal: Journal,
    pub(super) newest: BTreeMap<u64, Copy>,
}

impl ReadAt for Overlay {
    fn len(&self) -> u64 {
        self.below.len()
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> Result<(), ReadError> {
        self.below.read_at(at, into)?;
        let (size, end) = (self.journal.block, at.saturating_add(into.len() as u64));
        for (number, copy) in self.newest.range(at / size..end.div_ceil(size)) {
            let block = self.journal.content(copy)?;
            let begin = number * size;
            let (from, to) = (begin.max(at), (begin + size).min(end));
            let source = block.get(us(from - begin)..us(to - begin));
            if let (Some(source), Some(target)) = (source, into.get_mut(us(from - at)..us(to - at))) {
                target.copy_from_slice(source);
            }
        }
        Ok(())
    }

    fn extent(&self, at: u64) -> Result<Extent, ReadError> {
        let (below, size) = (self.below.extent(at)?, self.journal.block);
        if self.newest.contains_key(&(at / size)) {
            let len = ((at / size + 1) * size).min(self.len()) - at;
            return Ok(Extent { at, len, kind: Kind::Data });
        }
        let next = self.newest.range(at / size..).next().map_or(below.end(), |(block, _)| block * size);
        Ok(Extent { at, len: below.end().min(next) - at, kind: below.kind })
    }
}
