//! Directories: the index $I30, in the record ($INDEX_ROOT) and in blocks ($INDEX_ALLOCATION), and what is left behind
//! the end of their entries (linux-ntfs documentation, "Directory", "Index record").
//!
//! All blocks that $BITMAP says are in use are read one after the other, not as the tree leads: a damaged block hides
//! only its own names, and no loop can be made. A name that is taken out leaves its copy behind the end of the block, often without
//! the reference in front of it; a block that is given up keeps all of its names.

use std::collections::HashSet;

use super::Ntfs;
use super::attribute::{BITMAP, INDEX_ALLOCATION, INDEX_ROOT};
use super::info::{FileName, HAS_REPARSE, SYSTEM};
use super::mft::File;
use super::record::{Reference, fix};
use super::reparse;
use crate::disk::fs::{Entry, FileKind, Listing, State};
use crate::disk::us;
use crate::image::fields::Fields;
use crate::image::{Kind, ReadAt, ReadError, map, read_vec};

/// Its name.
pub(super) const I30: &[u8] = b"$I30";
/// Bytes of an entry before its name.
const HEAD: usize = 16;
const HAS_CHILD: u16 = 1;
const LAST: u16 = 2;

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    /// What it names; none if that was written over.
    pub(super) reference: Option<Reference>,
    pub(super) name: FileName,
    pub(super) source: &'static str,
}

/// The names of a directory.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) live: Vec<Named>,
    /// What is left of others; none of them is among the live ones.
    pub(super) deleted: Vec<Named>,
    pub(super) odd: Vec<String>,
}

/// Reads nodes of one directory.
struct Reader {
    directory: u64,
    /// Also what is left of deleted names.
    deleted: bool,
    index: Index,
}

impl Reader {
    /// A node: a header of 16 bytes at `head`, then entries. `live`: those in front are names of today.
    fn node(
        &mut self,
        fields: &Fields<'_>,
        head: usize,
        live: bool,
        source: [&'static str; 2],
    ) -> Result<(), ReadError> {
        let long = |at: usize| fields.u32(at).map(|n| usize::try_from(n).unwrap_or(usize::MAX));
        let (first, end) = (long(head)?.saturating_add(head), long(head + 4)?.saturating_add(head));
        if first < head + HEAD || first > end || end > fields.bytes().len() {
            return Err(fields.corrupt(head, "entries inside their node", format_args!("{first} to {end}")));
        }
        let slack = if live { end } else { first };
        if self.deleted {
            self.slack(fields, slack, source[1]);
        }
        let mut at = first;
        while live && at < end {
            let (len, key, flags) =
                (usize::from(fields.u16(at + 8)?), usize::from(fields.u16(at + 10)?), fields.u16(at + 12)?);
            if flags & LAST != 0 {
                return Ok(());
            }
            let tail = if flags & HAS_CHILD == 0 { 0 } else { 8 };
            if len < HEAD + FileName::FIXED || len % 8 != 0 || at + len > end || HEAD + key + tail > len {
                return Err(fields.corrupt(at + 8, "an entry inside its node", format_args!("{len} bytes")));
            }
            let reference = Some(Reference::of(fields.u64(at)?));
            let name = FileName::parse(fields.slice(at + HEAD, key)?)?;
            self.index.live.push(Named { reference, name, source: source[0] });
            at += len;
        }
        Ok(())
    }

    /// What looks like names of this directory from `from` on.
    fn slack(&mut self, fields: &Fields<'_>, from: usize, source: &'static str) {
        let bytes = fields.bytes();
        let mut at = from.next_multiple_of(8);
        while at + FileName::FIXED < bytes.len() {
            let parent = fields.u64(at).map_or(u64::MAX, |raw| Reference::of(raw).number);
            let found = (parent == self.directory).then(|| FileName::parse(bytes.get(at..).unwrap_or_default()).ok());
            let Some(name) = found.flatten().filter(FileName::is_plausible) else {
                at += 8;
                continue;
            };
            let len = FileName::FIXED + 2 * usize::from(fields.u8(at + 64).unwrap_or(0));
            // The reference stands before the name, unless the end of the entries was written over it.
            let head = at.checked_sub(HEAD).filter(|head| *head >= from);
            let fits = |head: &usize| fields.u16(head + 10).is_ok_and(|key| usize::from(key) == len);
            let reference = head.filter(fits).and_then(|head| fields.u64(head).ok()).map(Reference::of);
            self.index.deleted.push(Named { reference, name, source });
            at += len.next_multiple_of(8);
        }
    }
}

impl Ntfs {
    /// The names of a directory.
    pub(super) fn index(&self, file: &File, deleted: bool) -> Result<Index, ReadError> {
        let root = file.get(INDEX_ROOT, I30).and_then(super::attribute::Attribute::resident).ok_or_else(|| {
            let attempted = format!("list file {}", file.record.number);
            ReadError::caller(attempted, "it is no directory, or has no $INDEX_ROOT")
        })?;
        let mut reader = Reader { directory: file.record.number, deleted, index: Index::default() };
        let fields = Fields::new("NTFS $INDEX_ROOT", file.record.at, root);
        let block = u64::from(fields.u32(8)?);
        if let Err(error) = reader.node(&fields, 16, true, ["$INDEX_ROOT", "$INDEX_ROOT slack"]) {
            reader.index.odd.push(error.to_string());
        }
        if let Some(blocks) = file.get(INDEX_ALLOCATION, I30) {
            if !block.is_power_of_two() || !(512..=1 << 16).contains(&block) {
                return Err(fields.corrupt(8, "index blocks of 512 to 65536 bytes", block));
            }
            let bytes = self.bytes_of(blocks)?;
            if let Err(error) = self.blocks(file, bytes.as_ref(), block, &mut reader) {
                reader.index.odd.push(error.to_string());
            }
        }
        if !file.record.in_use() {
            // None of its names is one of today.
            let live = std::mem::take(&mut reader.index.live);
            reader.index.deleted.extend(live);
        }
        reader.index.tidy(file.record.number);
        Ok(reader.index)
    }

    fn blocks(&self, file: &File, bytes: &dyn ReadAt, block: u64, reader: &mut Reader) -> Result<(), ReadError> {
        let used = match file.get(BITMAP, I30).map(|bitmap| self.bytes_of(bitmap)) {
            Some(Ok(bitmap)) => read_vec(bitmap.as_ref(), 0, us(bitmap.len().min(bytes.len().div_ceil(block))))?,
            Some(Err(error)) => return Err(error),
            None => {
                reader.index.odd.push("it has no $BITMAP; all blocks of the index were taken as in use".to_owned());
                Vec::new()
            }
        };
        let bit = |number: u64| used.get(us(number / 8)).is_none_or(|byte| byte >> (number % 8) & 1 == 1);
        // No directory is longer than the volume, whatever its map says.
        let end = bytes.len().min(self.volume.len()) / block * block;
        for extent in map::walk(bytes, 0..end) {
            let extent = extent?;
            match &extent.kind {
                Kind::Data => {}
                Kind::Zero => continue,
                Kind::Gap(why) => {
                    reader.index.odd.push(format!("blocks at {:#x}: {}", extent.at, crate::image::reason(why)));
                    continue;
                }
            }
            let (first, last) = (extent.at.div_ceil(block), extent.end() / block);
            for number in first..last {
                let live = bit(number);
                if !live && !reader.deleted {
                    continue;
                }
                if let Err(error) = one(bytes, block, number, live, reader)
                    && live
                    && file.record.in_use()
                {
                    reader.index.odd.push(error.to_string());
                }
            }
        }
        Ok(())
    }
}

/// One block. One that was given up is no damage, whatever it holds.
fn one(bytes: &dyn ReadAt, block: u64, number: u64, live: bool, reader: &mut Reader) -> Result<(), ReadError> {
    let at = number * block;
    let mut raw = read_vec(bytes, at, us(block))?;
    let magic = raw.get(..4).unwrap_or_default();
    if magic != b"INDX" {
        return Err(ReadError::corrupt("NTFS index block", at, "INDX", crate::image::hex(magic)));
    }
    fix("NTFS index block", at, &mut raw)?;
    reader.node(&Fields::new("NTFS index block", at, &raw), 24, live, ["$INDEX_ALLOCATION", "$INDEX_ALLOCATION slack"])
}

impl Index {
    /// Leaves out what is no name of its own: the directory itself, short names beside long ones, copies of names that are
    /// still there or were met before.
    fn tidy(&mut self, directory: u64) {
        self.live.retain(|one| one.name.name != b"." && one.name.name != b"..");
        let long = |list: &[Named]| -> HashSet<_> {
            list.iter().filter(|one| !one.name.is_dos()).map(Named::number).collect()
        };
        let live = long(&self.live);
        let all: HashSet<_> = live.union(&long(&self.deleted)).copied().collect();
        self.live.retain(|one| !one.name.is_dos() || !live.contains(&one.number()));
        let mut seen = HashSet::new();
        let mut fresh = |one: &Named| {
            let new = seen.insert((one.name.name.clone(), one.reference));
            seen.insert((one.name.name.clone(), None));
            new
        };
        for one in &self.live {
            fresh(one);
        }
        // A name whose reference is known comes before the same one without.
        self.deleted.sort_by_key(|one| one.reference.is_none());
        self.deleted.retain(|one| {
            let dos = one.name.is_dos() && one.reference.is_some() && all.contains(&one.number());
            let own = one.number() == Some(directory) || one.name.name == b".";
            !dos && !own && fresh(one)
        });
    }

    /// As a directory is listed; `gone`: what a name leads to is another file by now.
    pub(super) fn listing(self, gone: impl Fn(Reference) -> bool) -> Listing {
        let mut listing = Listing { entries: Vec::with_capacity(self.live.len()), odd: self.odd };
        for one in self.live {
            if one.name.name.contains(&b'/') || one.name.name.contains(&0) {
                listing.odd.push(format!("the name of file {} is none", one.reference.map_or(0, |it| it.number)));
            }
            listing.entries.push(one.entry(State::Allocated, &gone));
        }
        listing.entries.extend(self.deleted.into_iter().map(|one| one.entry(State::Deleted, &gone)));
        listing
    }
}

impl Named {
    fn number(&self) -> Option<u64> {
        self.reference.map(|it| it.number)
    }

    fn entry(self, state: State, gone: &impl Fn(Reference) -> bool) -> Entry {
        let there = self.reference.filter(|it| state == State::Allocated || !gone(*it));
        let kind = self.kind();
        Entry { inode: there.map_or(0, |it| it.number), kind, state, source: self.source, name: self.name.name }
    }

    /// What the directory says it is; none if only the file itself can tell.
    fn kind(&self) -> Option<FileKind> {
        let flags = self.name.flags;
        let plain = if self.name.is_directory() { FileKind::Directory } else { FileKind::File };
        match flags & (HAS_REPARSE | SYSTEM) {
            0 => Some(plain),
            SYSTEM if plain == FileKind::Directory => Some(plain),
            SYSTEM => None,
            _ => Some(reparse::kind(self.name.reparse).unwrap_or(plain)),
        }
    }
}
