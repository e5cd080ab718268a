//! Directory entries, live ones and what is left of deleted ones. Kernel Documentation/filesystems/ext4, "Directory
//! Entries".
//!
//! An htree is walked as the list of blocks that it also is: its inner nodes look like one empty entry. An entry is
//! deleted by making the one before it longer, so old names stand in the gaps. Linux 5.13 and later wipes them; then only
//! the journal has them.

use super::Ext;
use super::inode::{INDEX, INLINE_DATA, Inode};
use super::superblock::{FILETYPE, checksum};
use crate::disk::fs::{Entry, FileKind, Listing, State};
use crate::image::ReadError;
use crate::image::fields::Fields;

/// The most that is read of one directory, in bytes.
const LONGEST: u64 = 1 << 31;

/// One entry as it stands there.
struct Raw<'a> {
    inode: u32,
    len: usize,
    name: &'a [u8],
    kind: u8,
}

/// What is read of a block of a directory.
pub(super) struct Reader {
    /// Entries have a kind.
    pub(super) kinds: bool,
    /// The highest inode number.
    pub(super) inodes: u32,
    /// Look into the gaps.
    pub(super) deleted: bool,
    /// The first block of an indexed directory: behind `..` stands the index.
    pub(super) index: bool,
    /// Where the entries are said to come from.
    pub(super) source: [&'static str; 2],
}

impl Reader {
    fn raw<'a>(&self, fields: &Fields<'a>, at: usize) -> Result<Raw<'a>, ReadError> {
        let block = fields.bytes().len();
        let len = match fields.u16(at + 4)? {
            0 | 0xffff if block >= 0x1_0000 => 0x1_0000,
            // Blocks of 64 KiB keep two bits of the length in the low ones.
            len => usize::from(len & 0xfffc) | usize::from(len & 3) << 16,
        };
        let (low, high) = (fields.u8(at + 6)?, fields.u8(at + 7)?);
        // Without the feature the kind is the upper half of the length of the name, and always 0.
        let kind = if self.kinds { high & 7 } else { 0 };
        if len < 8 || len > block - at || usize::from(low) + 8 > len {
            return Err(fields.corrupt(at + 4, "an entry that fits its block", format_args!("{len} bytes")));
        }
        Ok(Raw { inode: fields.u32(at)?, len, name: fields.slice(at + 8, usize::from(low))?, kind })
    }

    fn entry(raw: &Raw<'_>, state: State, source: &'static str) -> Entry {
        Entry {
            name: raw.name.to_vec(),
            inode: u64::from(raw.inode),
            kind: FileKind::of_entry(raw.kind),
            state,
            source,
        }
    }

    /// The entries of one block (or of one part of an inline directory).
    pub(super) fn block(&self, at: u64, bytes: &[u8], into: &mut Listing) {
        let fields = Fields::new("ext directory block", at, bytes);
        let mut here = 0;
        while here + 8 <= bytes.len() {
            let raw = match self.raw(&fields, here) {
                Ok(raw) => raw,
                Err(error) => {
                    into.odd.push(error.to_string());
                    return;
                }
            };
            let used = if raw.inode == 0 { 0 } else { (8 + raw.name.len()).next_multiple_of(4) };
            let dots = raw.name == b"." || raw.name == b"..";
            if raw.inode != 0 && !dots && !raw.name.is_empty() {
                if raw.inode > self.inodes || raw.name.contains(&b'/') || raw.name.contains(&0) {
                    into.odd.push(format!(
                        "the entry at {:#x} names inode {}, or its name is none",
                        at + here as u64,
                        raw.inode
                    ));
                }
                if raw.inode <= self.inodes {
                    into.entries.push(Self::entry(&raw, State::Allocated, self.source[0]));
                }
            }
            let index = self.index && raw.name == b"..";
            let inner = here == 0 && raw.inode == 0 && raw.len == bytes.len() && raw.name.is_empty();
            if self.deleted && !index && !inner {
                self.gap(&fields, here + used, here + raw.len, into);
            }
            here += raw.len;
        }
    }

    /// What looks like an entry between two others.
    fn gap(&self, fields: &Fields<'_>, from: usize, to: usize, into: &mut Listing) {
        let mut here = from;
        while here + 12 <= to {
            let good = self.raw(fields, here).ok().filter(|raw| self.plausible(raw, here, to));
            let step = good.as_ref().map_or(4, |raw| (8 + raw.name.len()).next_multiple_of(4));
            into.entries.extend(good.map(|raw| Self::entry(&raw, State::Deleted, self.source[1])));
            here += step;
        }
    }

    fn plausible(&self, raw: &Raw<'_>, here: usize, to: usize) -> bool {
        let text = !raw.name.is_empty() && !raw.name.contains(&b'/') && !raw.name.contains(&0);
        let dots = raw.name == b"." || raw.name == b"..";
        let kind = !self.kinds || (1..=7).contains(&raw.kind);
        text && !dots
            && kind
            && raw.inode <= self.inodes
            && raw.len.is_multiple_of(4)
            && here + 8 + raw.name.len() <= to
    }
}

impl Ext {
    pub(super) fn reader(&self, deleted: bool, source: [&'static str; 2]) -> Reader {
        let kinds = self.sb.incompat & FILETYPE != 0;
        Reader { kinds, inodes: self.sb.inodes, deleted, index: false, source }
    }

    /// All entries of a directory.
    pub(super) fn list(&self, inode: &Inode, deleted: bool) -> Result<Listing, ReadError> {
        let mut reader = self.reader(deleted, ["directory", "directory slack"]);
        let mut listing = Listing::default();
        if inode.has(INLINE_DATA) {
            // The parent's number stands in front; the second half is an attribute.
            let own = inode.block.get(4..).unwrap_or_default();
            reader.block(0, own, &mut listing);
            let rest = self.inline_rest(inode)?;
            reader.block(0, &rest, &mut listing);
            return Ok(listing);
        }
        let map = self.map(inode);
        listing.odd.extend(map.odd.iter().cloned());
        let blocks = inode.node.size.min(LONGEST) / self.sb.block_size;
        for run in map.runs.iter().filter(|run| !run.unwritten) {
            for index in 0..run.len.min(blocks.saturating_sub(run.logical)) {
                let at = run.physical.saturating_add(index).saturating_mul(self.sb.block_size);
                reader.index = inode.has(INDEX) && run.logical + index == 0;
                let mut bytes = vec![0; self.sb.block_len()];
                if let Err(error) = self.volume.read_at(at, &mut bytes) {
                    listing.odd.push(error.to_string());
                    break;
                }
                if self.sb.has_csum() && tail_differs(inode.seed, &bytes) {
                    listing.odd.push(format!("the checksum of the directory block at {at:#x} does not fit"));
                }
                reader.block(at, &bytes, &mut listing);
            }
        }
        Ok(listing)
    }
}

/// The last entry of a block looks empty and holds a checksum; inner nodes of an index keep theirs elsewhere.
fn tail_differs(seed: u32, bytes: &[u8]) -> bool {
    let Some((body, tail)) = bytes.len().checked_sub(12).and_then(|at| bytes.split_at_checked(at)) else {
        return false;
    };
    tail.get(..8) == Some(&[0, 0, 0, 0, 12, 0, 0, 0xde]) && tail.get(8..) != Some(&checksum(seed, body).to_le_bytes())
}
