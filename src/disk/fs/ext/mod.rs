//! ext2, ext3 and ext4. Kernel Documentation/filesystems/ext4 ("ext4 Data Structures and Algorithms").
//!
//! The journal is replayed in memory unless told otherwise. Checksums that do not fit are said and do not stop the
//! reading; a damaged superblock or group descriptor is taken from one of its copies. Not done: compressed files, journals
//! on another device, fast commits; the last two are said where they matter. Content and names of encrypted files stay as
//! they are on the disk.

mod books;
mod changes;
mod dir;
mod groups;
mod inode;
mod journal;
mod lost;
mod map;
mod superblock;
mod xattr;

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use super::runs::Map;
use super::{Change, FileKind, Filesystem, Listing, Lost, Node, Options, Run};
use crate::disk::us;
use crate::image::cache::Cache;
use crate::image::fields::read_structure;
use crate::image::{InMemory, ReadAt, ReadError, read_vec};
use books::{Part, Tables};
use groups::Groups;
use inode::{INLINE_DATA, Inode};
use journal::{Journal, Overlay, Replay};
use superblock::Superblock;

pub(crate) use superblock::has_copy;

/// Of a file, the most that is kept inline: a block is the most an inode can have.
const INLINE: u64 = 0x1_0000;
/// Bytes of an inode table that are read together: whoever wants one inode mostly wants its neighbours.
const CHUNK: u64 = 1 << 16;
/// Bytes of inode tables that are kept.
const INODES: usize = 16 << 20;
/// The longest link: what Linux allows.
const TARGET: u64 = 4096;

/// See the module.
pub(super) struct Ext {
    volume: Arc<dyn ReadAt>,
    sb: Superblock,
    groups: Groups,
    /// Parts of the inode tables, by [`CHUNK`].
    inodes: Cache,
    tables: OnceLock<Tables>,
    journal: Option<Journal>,
    notes: Vec<(String, String)>,
    odd: Vec<String>,
    /// See [`Filesystem::is_whole`].
    whole: bool,
}

/// Opens the file system on a volume.
pub fn open(volume: Arc<dyn ReadAt>, options: Options) -> Result<Arc<dyn Filesystem>, ReadError> {
    let mut raw = Ext::plain(Arc::clone(&volume))?;
    let Some(journal) = raw.find_journal() else { return Ok(Arc::new(raw)) };
    if !journal.is_dirty() || options.no_journal {
        let dirty = if journal.is_dirty() { "not replayed, as asked" } else { "empty" };
        raw.note("journal", dirty);
        raw.journal = Some(journal);
        return Ok(Arc::new(raw));
    }
    let mut odd = std::mem::take(&mut raw.odd);
    let Replay { newest, fast } = journal.replay(&mut odd)?;
    let blocks = newest.len();
    let overlay = Arc::new(Overlay { below: volume, journal, newest });
    // The superblock itself may be among what was replayed.
    let mut shown = Ext::plain(overlay)?;
    shown.journal = shown.find_journal();
    odd.retain(|line| !shown.odd.contains(line));
    shown.odd.extend(odd);
    shown.note("journal", &format!("{blocks} blocks replayed in memory"));
    if fast {
        shown.odd.push("the journal holds fast commits behind its last transaction; they are not replayed".to_owned());
        shown.whole = false;
    }
    Ok(Arc::new(shown))
}

impl Ext {
    fn plain(volume: Arc<dyn ReadAt>) -> Result<Self, ReadError> {
        let sb = Superblock::read(volume.as_ref())?;
        let mut groups = Groups::new();
        let mut odd = sb.odd.clone();
        odd.extend(groups.check(&volume, &sb));
        let (cache, tables) = (Cache::new(INODES), OnceLock::new());
        Ok(Self { volume, sb, groups, inodes: cache, tables, journal: None, notes: Vec::new(), odd, whole: true })
    }

    fn note(&mut self, name: &str, value: &str) {
        self.notes.push((name.to_owned(), value.to_owned()));
    }

    /// The journal, if there is one and it can be read; why not is odd.
    fn find_journal(&mut self) -> Option<Journal> {
        if let Some(uuid) = self.sb.journal_uuid.clone() {
            self.note("journal", &format!("on another device, {uuid}; not read"));
            if self.sb.needs_recovery() {
                self.odd.push(format!("its journal is on another device ({uuid}) and was not replayed"));
                self.whole = false;
            }
        }
        if self.sb.journal_inode == 0 {
            return None;
        }
        let opened = self
            .inode(u64::from(self.sb.journal_inode))
            .and_then(|inode| self.content_of(&inode, false))
            .and_then(|bytes| Journal::open(bytes, self.sb.block_size));
        match opened {
            Ok(journal) => {
                if self.sb.needs_recovery() && !journal.is_dirty() {
                    self.odd.push("the superblock asks for recovery, and the journal is empty".to_owned());
                }
                Some(journal)
            }
            Err(error) => {
                self.odd.push(format!("the journal cannot be read: {error}"));
                self.whole = false;
                None
            }
        }
    }

    /// Where inode `number` stands.
    fn place_of(&self, number: u64) -> Result<(u32, u64), ReadError> {
        let inode = u32::try_from(number).ok().filter(|n| (1..=self.sb.inodes).contains(n));
        let Some(inode) = inode else {
            return Err(ReadError::caller(format!("read inode {number}"), format!("there are {}", self.sb.inodes)));
        };
        let group = self.groups.get(&self.volume, &self.sb, (inode - 1) / self.sb.inodes_per_group)?;
        let inside = u64::from((inode - 1) % self.sb.inodes_per_group) * u64::from(self.sb.inode_size);
        Ok((inode, group.inode_table.saturating_mul(self.sb.block_size).saturating_add(inside)))
    }

    fn inode(&self, number: u64) -> Result<Inode, ReadError> {
        let (inode, at) = self.place_of(number)?;
        let raw = self.raw_inode(at)?;
        let mut found = Inode::parse(&self.sb, inode, at, raw)?;
        let in_use = self.groups.inode_in_use(&self.volume, &self.sb, inode)?;
        found.node.allocated = in_use && found.node.mode != 0;
        Ok(found)
    }

    /// The bytes of the inode at `at`: with those around it, or by itself where not all of them can be read.
    fn raw_inode(&self, at: u64) -> Result<Vec<u8>, ReadError> {
        let (size, first) = (usize::from(self.sb.inode_size), at / CHUNK * CHUNK);
        let len = CHUNK.min(self.volume.len().saturating_sub(first));
        let around = self.inodes.get(first / CHUNK, || read_vec(self.volume.as_ref(), first, us(len)));
        let from = us(at - first);
        let own = around.ok().and_then(|bytes| bytes.get(from..from.checked_add(size)?).map(<[u8]>::to_vec));
        own.map_or_else(|| read_structure(self.volume.as_ref(), "ext inode", at, size), Ok)
    }

    fn map(&self, inode: &Inode) -> Map {
        if inode.has(INLINE_DATA) || self.is_fast_link(inode) || !has_blocks(inode) {
            return Map::default();
        }
        map::of(self, inode)
    }

    fn is_fast_link(&self, inode: &Inode) -> bool {
        inode.fast_link(self.sb.block_size * self.sb.cluster_blocks / 512)
    }

    /// The longest file: its blocks have numbers of 32 bits.
    fn longest(&self) -> u64 {
        self.sb.block_size << 32
    }

    /// Content; `strict`: what a damaged map does not tell is a gap, not zeros.
    fn content_of(&self, inode: &Inode, strict: bool) -> Result<Arc<dyn ReadAt>, ReadError> {
        let size = inode.node.size;
        if inode.has(INLINE_DATA) {
            let mut all = inode.block.to_vec();
            if size > 60 {
                all.extend(self.inline_rest(inode)?);
            }
            if size > INLINE || us(size) > all.len() {
                let found = all.len();
                return Err(ReadError::corrupt(
                    "ext inline data",
                    inode.node.inode,
                    format_args!("{size} bytes"),
                    found,
                ));
            }
            all.truncate(us(size));
            return Ok(Arc::new(InMemory(all)));
        }
        if self.is_fast_link(inode) {
            let text = inode.block.get(..us(size)).unwrap_or_default();
            return Ok(Arc::new(InMemory(text.to_vec())));
        }
        let longest = self.longest();
        if size > longest {
            return Err(ReadError::corrupt(
                "ext inode",
                inode.node.inode,
                format_args!("at most {longest} bytes"),
                size,
            ));
        }
        Ok(self.map(inode).content(&self.volume, self.sb.block_size, size, strict))
    }
}

/// Devices keep their numbers where others keep their map.
fn has_blocks(inode: &Inode) -> bool {
    matches!(inode.node.kind, Some(FileKind::File | FileKind::Directory | FileKind::Link))
}

impl Filesystem for Ext {
    fn name(&self) -> &'static str {
        self.sb.name()
    }

    fn facts(&self) -> Vec<(String, String)> {
        self.sb.facts.iter().chain(&self.notes).cloned().collect()
    }

    fn odd(&self) -> Vec<String> {
        self.odd.clone()
    }

    fn is_whole(&self) -> bool {
        self.whole
    }

    fn root(&self) -> u64 {
        2
    }

    fn block_size(&self) -> u64 {
        self.sb.block_size
    }

    fn blocks(&self) -> u64 {
        self.sb.blocks
    }

    fn node(&self, inode: u64) -> Result<Node, ReadError> {
        let inode = self.inode(inode)?;
        let mut node = inode.node.clone();
        node.facts = inode.facts();
        for one in self.attributes(&inode, &mut node.odd) {
            if one.label() == "system.data" {
                continue;
            }
            let value = match &one.value {
                Ok(value) => std::str::from_utf8(value)
                    .map_or_else(|_| format!("0x{}", crate::image::hex(value)), ToOwned::to_owned),
                Err(error) => {
                    node.odd.push(error.to_string());
                    continue;
                }
            };
            node.facts.push((format!("xattr {}", one.label()), value));
        }
        Ok(node)
    }

    fn look(&self, inode: u64) -> Result<(Node, bool), ReadError> {
        let inode = self.inode(inode)?;
        let readable = if inode.node.kind != Some(FileKind::File) {
            true
        } else if inode.has(INLINE_DATA) {
            self.content_of(&inode, true).is_ok()
        } else {
            inode.node.size <= self.longest() && self.map(&inode).odd.is_empty()
        };
        Ok((inode.node, readable))
    }

    fn entries(&self, directory: u64, deleted: bool) -> Result<Listing, ReadError> {
        let inode = self.inode(directory)?;
        if inode.node.kind != Some(FileKind::Directory) {
            return Err(ReadError::caller(format!("list inode {directory}"), "it is no directory"));
        }
        self.list(&inode, deleted)
    }

    fn content(&self, inode: u64) -> Result<Arc<dyn ReadAt>, ReadError> {
        let inode = self.inode(inode)?;
        self.content_of(&inode, true)
    }

    fn slack(&self, inode: u64) -> Result<Vec<u8>, ReadError> {
        let inode = self.inode(inode)?;
        self.map(&inode).slack(self.volume.as_ref(), self.sb.block_size, inode.node.size)
    }

    fn target(&self, inode: u64) -> Result<Vec<u8>, ReadError> {
        let inode = self.inode(inode)?;
        if inode.node.kind != Some(FileKind::Link) || inode.node.size > TARGET {
            return Err(ReadError::caller(format!("follow inode {}", inode.node.inode), "it is no symbolic link"));
        }
        let content = self.content_of(&inode, true)?;
        read_vec(content.as_ref(), 0, us(content.len()))
    }

    fn runs(&self, inode: u64) -> Result<Vec<Run>, ReadError> {
        let inode = self.inode(inode)?;
        Ok(self.map(&inode).runs)
    }

    fn own_blocks(&self, inode: u64) -> Result<Vec<u64>, ReadError> {
        let inode = self.inode(inode)?;
        let mut own = self.map(&inode).own;
        own.extend(Some(inode.acl).filter(|block| *block != 0));
        Ok(own)
    }

    fn block_in_use(&self, block: u64) -> Result<bool, ReadError> {
        self.groups.block_in_use(&self.volume, &self.sb, block)
    }

    fn allocation(&self, each: &mut dyn FnMut(Range<u64>, bool) -> Result<(), ReadError>) -> Result<(), ReadError> {
        self.books(each)
    }

    fn purpose(&self, block: u64) -> Option<String> {
        Some(match self.part(block)? {
            Part::Superblock => "superblock".to_owned(),
            Part::Descriptors => "group descriptors".to_owned(),
            Part::BlockBitmap(group) => format!("block bitmap of group {group}"),
            Part::InodeBitmap(group) => format!("inode bitmap of group {group}"),
            Part::InodeTable(group, first) => {
                let last = first + self.sb.inodes_per_block() - 1;
                format!("inode table of group {group}, inodes {first} to {last}")
            }
        })
    }

    fn space(&self) -> Option<Arc<dyn ReadAt>> {
        Some(Arc::clone(&self.volume))
    }

    fn changes(&self, each: &mut dyn FnMut(Change) -> Result<(), ReadError>) -> Result<(), ReadError> {
        changes::all(self, each)
    }

    fn lost(&self) -> Result<Vec<Lost>, ReadError> {
        lost::all(self)
    }
}

/// Bytes of an inode at its place in a copy of a block of the inode table.
fn inside(block: &[u8], index: usize, size: usize) -> Option<Vec<u8>> {
    let from = index.checked_mul(size)?;
    block.get(from..from.checked_add(size)?).map(<[u8]>::to_vec)
}
