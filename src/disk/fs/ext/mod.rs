//! ext2, ext3 and ext4. Kernel Documentation/filesystems/ext4 ("ext4 Data Structures and Algorithms").
//!
//! The journal is replayed in memory unless told otherwise. Checksums that do not fit are said and do not stop the
//! reading. Not done: compressed files, journals on another device, fast commits; content and names of encrypted files
//! stay as they are on the disk.

mod dir;
mod groups;
mod inode;
mod journal;
mod lost;
mod map;
mod superblock;
mod xattr;

use std::sync::Arc;

use super::runs::Map;
use super::{FileKind, Filesystem, Listing, Lost, Node, Options, Run};
use crate::disk::us;
use crate::image::fields::read_structure;
use crate::image::{InMemory, ReadAt, ReadError, read_vec};
use groups::Groups;
use inode::{INLINE_DATA, Inode};
use journal::{Journal, Overlay};
use superblock::Superblock;

/// Of a file, the most that is kept inline: a block is the most an inode can have.
const INLINE: u64 = 0x1_0000;
/// The longest link: what Linux allows.
const TARGET: u64 = 4096;

/// See the module.
pub(super) struct Ext {
    volume: Arc<dyn ReadAt>,
    sb: Superblock,
    groups: Groups,
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
    let newest = journal.replay(&mut odd)?;
    let blocks = newest.len();
    let overlay = Arc::new(Overlay { below: volume, journal, newest });
    // The superblock itself may be among what was replayed.
    let mut shown = Ext::plain(overlay)?;
    shown.journal = shown.find_journal();
    odd.retain(|line| !shown.odd.contains(line));
    shown.odd.extend(odd);
    shown.note("journal", &format!("{blocks} blocks replayed in memory"));
    if shown.sb.fast_commit() {
        shown.odd.push("the journal may hold fast commits; they are not replayed".to_owned());
    }
    Ok(Arc::new(shown))
}

impl Ext {
    fn plain(volume: Arc<dyn ReadAt>) -> Result<Self, ReadError> {
        let sb = Superblock::read(volume.as_ref())?;
        let mut odd = sb.odd.clone();
        let groups = Groups::new();
        let (mut bad, mut first) = (0_u32, None);
        // Looked at once, so that damage is said; a volume that is cut short need not be read to its end.
        for group in 0..sb.groups() {
            match groups.get(&volume, &sb, group) {
                Ok((_, false)) => {}
                Ok((_, true)) => {
                    bad += 1;
                    first = first.or(Some(group));
                }
                Err(error) => {
                    odd.push(error.to_string());
                    break;
                }
            }
        }
        if let Some(first) = first {
            odd.push(format!("{bad} group descriptors have a checksum that does not fit, the first is {first}"));
        }
        Ok(Self { volume, sb, groups, journal: None, notes: Vec::new(), odd, whole: true })
    }

    fn note(&mut self, name: &str, value: &str) {
        self.notes.push((name.to_owned(), value.to_owned()));
    }

    /// The journal, if there is one and it can be read; why not is odd.
    fn find_journal(&mut self) -> Option<Journal> {
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
        let (group, _) = self.groups.get(&self.volume, &self.sb, (inode - 1) / self.sb.inodes_per_group)?;
        let inside = u64::from((inode - 1) % self.sb.inodes_per_group) * u64::from(self.sb.inode_size);
        Ok((inode, group.inode_table.saturating_mul(self.sb.block_size).saturating_add(inside)))
    }

    fn inode(&self, number: u64) -> Result<Inode, ReadError> {
        let (inode, at) = self.place_of(number)?;
        let raw = read_structure(self.volume.as_ref(), "ext inode", at, usize::from(self.sb.inode_size))?;
        let mut inode = Inode::parse(&self.sb, inode, at, raw)?;
        let in_use = self.groups.inode_in_use(&self.volume, &self.sb, u32::try_from(number).unwrap_or(0))?;
        inode.node.allocated = in_use && inode.node.mode != 0;
        Ok(inode)
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
        // Blocks of a file have numbers of 32 bits.
        let longest = self.sb.block_size << 32;
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

    fn block_in_use(&self, block: u64) -> Result<bool, ReadError> {
        self.groups.block_in_use(&self.volume, &self.sb, block)
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
