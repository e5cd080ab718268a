//! Directories: in the inode, or in blocks of entries. XFS Algorithms & Data Structures, "Directories".
//!
//! Blocks of entries are all that is read: the hash index of larger directories stands behind them and names nothing more.
//! An entry that is taken away loses the upper half of its inode number to a mark of free space; the rest stays until it
//! is needed.

use super::disk::Disk;
use super::inode::Inode;
use super::map;
use crate::disk::fs::{Entry, FileKind, Listing, State};
use crate::image::ReadError;
use crate::image::fields::Fields;

/// Where the hash index begins, in bytes of the directory.
const INDEX: u64 = 1 << 35;
/// The most that is read of one directory, in bytes.
const LONGEST: u64 = 1 << 31;
/// Mark of free space.
const FREE: u16 = 0xffff;

/// Reads entries of one directory.
pub(super) struct Reader<'a> {
    pub(super) disk: &'a Disk,
    /// The directory itself: what is left of a number is completed like its own.
    pub(super) inode: u64,
    /// Also what is left.
    pub(super) deleted: bool,
    /// Where the entries are said to come from.
    pub(super) source: [&'static str; 2],
}

impl<'a> Reader<'a> {
    pub(super) fn new(disk: &'a Disk, inode: u64, deleted: bool) -> Self {
        Self { disk, inode, deleted, source: ["directory", "directory slack"] }
    }

    /// All entries of a directory.
    pub(super) fn list(&self, inode: &Inode) -> Result<Listing, ReadError> {
        let mut listing = Listing::default();
        match inode.local() {
            Some(Ok(used)) => self.short(used, &inode.data.bytes, &mut listing),
            Some(Err(error)) => return Err(error),
            None => self.blocks(inode, &mut listing),
        }
        Ok(listing)
    }

    fn blocks(&self, inode: &Inode, into: &mut Listing) {
        let map = map::of(self.disk, &inode.data);
        into.odd.extend(map.odd.iter().cloned());
        let (block, runs) = (self.disk.sb.block_size, map.runs.clone());
        let content = map.content(&self.disk.volume, block, INDEX, true);
        let size = self.disk.sb.dir_block as u64;
        let (mut next, mut read) = (0, 0);
        for run in runs {
            let begin = run.logical.saturating_mul(block);
            let end = begin.saturating_add(run.len.saturating_mul(block)).min(INDEX);
            let mut at = (begin / size * size).max(next);
            while at < end && read < LONGEST {
                let mut bytes = vec![0; self.disk.sb.dir_block];
                match content.read_at(at, &mut bytes) {
                    Ok(()) => self.block(
                        run.physical.saturating_mul(block).saturating_add(at.saturating_sub(begin)),
                        &bytes,
                        into,
                    ),
                    Err(error) => into.odd.push(error.to_string()),
                }
                (at, read) = (at + size, read + size);
            }
            next = next.max(at);
        }
        if read >= LONGEST {
            into.odd.push(format!("only the first {LONGEST} bytes of the directory were read"));
        }
    }

    /// One block of entries, found at `at`.
    pub(super) fn block(&self, at: u64, bytes: &[u8], into: &mut Listing) {
        let fields = Fields::new("xfs directory block", at, bytes);
        let magic = bytes.get(..4).unwrap_or_default();
        let v5 = self.disk.sb.v5;
        let (head, whole) = match magic {
            b"XDB3" if v5 => (64, true),
            b"XDD3" if v5 => (64, false),
            b"XD2B" if !v5 => (16, true),
            b"XD2D" if !v5 => (16, false),
            other => {
                let found = crate::image::hex(other);
                into.odd.push(fields.corrupt(0, "a block of entries", found).to_string());
                return;
            }
        };
        if v5 && !self.disk.sound(at, bytes, 4) {
            into.odd.push(format!("the checksum of the directory block at {at:#x} does not fit"));
        }
        // A directory of one block has its index at its end.
        let count = bytes.len().checked_sub(8).and_then(|at| fields.be32(at).ok()).filter(|_| whole).unwrap_or(0);
        let index =
            usize::try_from(count).unwrap_or(usize::MAX).saturating_mul(8).saturating_add(if whole { 8 } else { 0 });
        let Some(end) = bytes.len().checked_sub(index).filter(|end| *end >= head) else {
            into.odd.push(
                fields.corrupt(bytes.len() - 8, "an index that fits", format_args!("{count} entries")).to_string(),
            );
            return;
        };
        if let Err(error) = self.entries(&fields, head, end, into) {
            into.odd.push(error.to_string());
        }
    }

    fn entries(&self, fields: &Fields<'_>, mut at: usize, end: usize, into: &mut Listing) -> Result<(), ReadError> {
        while at + 16 <= end {
            if fields.be16(at)? == FREE {
                let len = usize::from(fields.be16(at + 2)?);
                if len < 8 || !len.is_multiple_of(8) || at + len > end {
                    return Err(fields.corrupt(at + 2, "free space that fits the block", len));
                }
                if self.deleted {
                    self.gap(fields, at, at + len, into);
                }
                at += len;
                continue;
            }
            let (entry, len) = self.entry(fields, at, fields.be64(at)?, State::Allocated)?;
            if at + len > end || usize::from(fields.be16(at + len - 2)?) != at {
                return Err(fields.corrupt(at, "an entry with its tag", format_args!("{len} bytes")));
            }
            let bad = entry.name.is_empty() || entry.name.contains(&b'/') || entry.name.contains(&0);
            if bad || self.disk.sb.place_of(entry.inode).is_none() {
                into.odd.push(format!(
                    "the entry at byte {at} of a block names inode {}, or its name is none",
                    entry.inode
                ));
            } else if entry.name != b"." && entry.name != b".." {
                into.entries.push(entry);
            }
            at += len;
        }
        Ok(())
    }

    /// An entry and its length.
    fn entry(&self, fields: &Fields<'_>, at: usize, inode: u64, state: State) -> Result<(Entry, usize), ReadError> {
        let len = usize::from(fields.u8(at + 8)?);
        let name = fields.slice(at + 9, len)?.to_vec();
        let kind = if self.disk.sb.ftype { FileKind::of_entry(fields.u8(at + 9 + len)?) } else { None };
        let source = if state == State::Allocated { self.source[0] } else { self.source[1] };
        let size = (9 + len + usize::from(self.disk.sb.ftype) + 2).next_multiple_of(8);
        Ok((Entry { name, inode, kind, state, source }, size))
    }

    /// What looks like an entry in free space. Its tag may be the mark of a larger free space now.
    fn gap(&self, fields: &Fields<'_>, from: usize, to: usize, into: &mut Listing) {
        let mut at = from;
        while at + 16 <= to {
            let found = self.left(fields, at).filter(|(_, len)| at + len <= to);
            at += found.as_ref().map_or(8, |(_, len)| *len);
            into.entries.extend(found.map(|(entry, _)| entry));
        }
    }

    fn left(&self, fields: &Fields<'_>, at: usize) -> Option<(Entry, usize)> {
        let (high, low) = (u64::from(fields.be32(at).ok()?), u64::from(fields.be32(at + 4).ok()?));
        let own = self.inode >> 32;
        let highs = if high >> 16 == u64::from(FREE) { [own, 0] } else { [high, high] };
        let inode = highs.into_iter().map(|high| high << 32 | low).find(|n| self.disk.sb.place_of(*n).is_some())?;
        let (entry, len) = self.entry(fields, at, inode, State::Deleted).ok()?;
        (self.plausible(&entry)).then_some((entry, len))
    }

    fn plausible(&self, entry: &Entry) -> bool {
        let text = !entry.name.is_empty() && !entry.name.contains(&b'/') && !entry.name.contains(&0);
        text && entry.name != b"." && entry.name != b".." && (entry.kind.is_some() || !self.disk.sb.ftype)
    }

    /// A directory in an inode: `used` of the `room` it has.
    pub(super) fn short(&self, used: &[u8], room: &[u8], into: &mut Listing) {
        let fields = Fields::new("xfs directory in an inode", 0, room);
        let done = self.short_entries(&fields, used.len(), into);
        let end = done.unwrap_or_else(|error| {
            into.odd.push(error.to_string());
            room.len()
        });
        let mut at = end;
        let wide = room.get(1).is_some_and(|wide| *wide != 0);
        while self.deleted && at < room.len() {
            let found = self.short_entry(&fields, at, wide, State::Deleted).ok();
            let found =
                found.filter(|(entry, _)| self.plausible(entry) && self.disk.sb.place_of(entry.inode).is_some());
            at += found.as_ref().map_or(1, |(_, len)| *len);
            into.entries.extend(found.map(|(entry, _)| entry));
        }
    }

    /// Gives where they end.
    fn short_entries(&self, fields: &Fields<'_>, used: usize, into: &mut Listing) -> Result<usize, ReadError> {
        let (count, wide) = (fields.u8(0)?, fields.u8(1)? != 0);
        let mut at = if wide { 10 } else { 6 };
        for _ in 0..count {
            let (entry, len) = self.short_entry(fields, at, wide, State::Allocated)?;
            if at + len > used {
                return Err(fields.corrupt(at, "an entry inside the directory", format_args!("{len} bytes")));
            }
            let bad = entry.name.is_empty() || entry.name.contains(&b'/') || entry.name.contains(&0);
            if bad || self.disk.sb.place_of(entry.inode).is_none() {
                into.odd.push(format!("the entry at byte {at} names inode {}, or its name is none", entry.inode));
            } else {
                into.entries.push(entry);
            }
            at += len;
        }
        Ok(at)
    }

    fn short_entry(
        &self,
        fields: &Fields<'_>,
        at: usize,
        wide: bool,
        state: State,
    ) -> Result<(Entry, usize), ReadError> {
        let len = usize::from(fields.u8(at)?);
        let name = fields.slice(at + 3, len)?.to_vec();
        let mut here = at + 3 + len;
        let kind = if self.disk.sb.ftype { FileKind::of_entry(fields.u8(here)?) } else { None };
        here += usize::from(self.disk.sb.ftype);
        let inode = if wide { fields.be64(here)? } else { u64::from(fields.be32(here)?) };
        here += if wide { 8 } else { 4 };
        let source = if state == State::Allocated { self.source[0] } else { self.source[1] };
        Ok((Entry { name, inode, kind, state, source }, here - at))
    }
}
