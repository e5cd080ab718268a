//! XFS of version 4 and 5. XFS Algorithms & Data Structures, 3rd edition, and the kernel's Documentation/filesystems/xfs.
//!
//! The log is replayed in memory unless told otherwise. Checksums that do not fit are said and do not stop the reading. Not
//! done: files of the realtime section, a log on another device, quotas; trees of owners and of references are not read.

mod attr;
mod core;
mod dir;
mod disk;
mod group;
mod inode;
mod items;
mod log;
mod lost;
mod map;
mod replay;
mod superblock;

use std::collections::BTreeSet;
use std::sync::Arc;

use super::runs::Map;
use super::{Change, FileKind, Filesystem, Listing, Lost, Node, Options, Run};
use crate::disk::us;
use crate::image::fields::Fields;
use crate::image::{InMemory, ReadAt, ReadError, read_vec};
use dir::Reader;
use disk::Disk;
use group::Groups;
use inode::{BTREE, EXTENTS, Inode};
use items::Assembly;
use log::{Left, Log};
use superblock::Superblock;

/// The longest link: what Linux allows of XFS.
const TARGET: u64 = 1024;
/// The longest file.
const LONGEST: u64 = i64::MAX.cast_unsigned();

/// See the module.
pub(super) struct Xfs {
    disk: Disk,
    groups: Groups,
    notes: Vec<(String, String)>,
    odd: Vec<String>,
    /// See [`Filesystem::is_whole`].
    whole: bool,
}

/// Opens the file system on a volume.
pub fn open(volume: Arc<dyn ReadAt>, options: Options) -> Result<Arc<dyn Filesystem>, ReadError> {
    let mut raw = Xfs::plain(volume, Arc::default())?;
    let (left, broken) = match Log::open(&raw.disk).and_then(|log| log.left()) {
        Ok(Left::Empty | Left::Clean) => {
            raw.note("log", "clean");
            return Ok(Arc::new(raw));
        }
        Ok(Left::Dirty(records)) => (records, false),
        Ok(Left::Broken(records)) => (records, true),
        Err(error) => {
            raw.outdated(format!("the log cannot be read: {error}"));
            return Ok(Arc::new(raw));
        }
    };
    if options.no_journal {
        raw.note("log", "dirty, not replayed, as asked");
        return Ok(Arc::new(raw));
    }
    let replayed = match replay::replay(&raw.disk, &left) {
        Ok(replayed) => replayed,
        Err(error) => {
            raw.outdated(format!("the log is dirty and was not replayed: {error}"));
            return Ok(Arc::new(raw));
        }
    };
    // The superblock itself may be among what was replayed.
    let mut shown = Xfs::plain(replayed.volume, replayed.sectors)?;
    // Newer kernels log it without the inodes of the realtime section, and write them to their place nevertheless.
    shown.disk.sb.own_inodes.append(&mut raw.disk.sb.own_inodes);
    shown.note("log", &format!("{} transactions replayed in memory", replayed.transactions));
    shown.odd.extend(replayed.odd);
    if broken {
        shown.outdated("the log is damaged before its end: later changes are not shown".to_owned());
    }
    Ok(Arc::new(shown))
}

impl Xfs {
    fn plain(volume: Arc<dyn ReadAt>, replayed: Arc<BTreeSet<u64>>) -> Result<Self, ReadError> {
        let sb = Superblock::read(&volume)?;
        let mut odd = sb.odd.clone();
        let (disk, groups) = (Disk { volume, sb, replayed }, Groups::default());
        // Looked at once, so that damage is said.
        for number in 0..disk.groups_there() {
            odd.extend(groups.get(&disk, number).odd.iter().cloned());
        }
        Ok(Self { disk, groups, notes: Vec::new(), odd, whole: true })
    }

    fn note(&mut self, name: &str, value: &str) {
        self.notes.push((name.to_owned(), value.to_owned()));
    }

    /// What stands there may be out of date, and this is why.
    fn outdated(&mut self, why: String) {
        self.odd.push(why);
        self.whole = false;
    }

    fn inode(&self, number: u64) -> Result<Inode, ReadError> {
        let Some((group, inside, at)) = self.disk.sb.place_of(number) else {
            let why = "no allocation group has such a number";
            return Err(ReadError::caller(format!("read inode {number}"), why));
        };
        let raw = self.disk.structure("xfs inode", at, self.disk.sb.inode_size)?;
        let mut inode = Inode::parse(&self.disk, number, at, &raw)?;
        let in_use = self.groups.get(&self.disk, group).inode_in_use(inside);
        inode.node.allocated = in_use.unwrap_or(true) && inode.node.mode != 0;
        if in_use.is_none() {
            inode.node.odd.push("the tree of inodes is damaged: nobody knows whether this one is in use".to_owned());
        }
        Ok(inode)
    }

    /// The map of the content.
    fn map(&self, inode: &Inode) -> Result<Map, ReadError> {
        if inode.realtime && inode.node.kind == Some(FileKind::File) {
            let what = format!("inode {}", inode.node.inode);
            return Err(ReadError::unsupported(what, "its content is in the realtime section, on another device"));
        }
        Ok(map::of(&self.disk, &inode.data))
    }

    fn content_of(&self, inode: &Inode) -> Result<Arc<dyn ReadAt>, ReadError> {
        if let Some(local) = inode.local() {
            return Ok(Arc::new(InMemory(local?.to_vec())));
        }
        if inode.node.kind == Some(FileKind::Link) {
            return Ok(Arc::new(InMemory(self.remote_target(inode)?)));
        }
        let size = inode.node.size;
        if size > LONGEST {
            let number = inode.node.inode;
            return Err(ReadError::corrupt("xfs inode", number, format_args!("at most {LONGEST} bytes"), size));
        }
        let map = self.map(inode)?;
        Ok(map.content(&self.disk.volume, self.disk.sb.block_size, size, true))
    }

    /// A link in blocks of its own: from version 5 on, each run of them has a head.
    fn remote_target(&self, inode: &Inode) -> Result<Vec<u8>, ReadError> {
        let size = inode.node.size;
        if size > TARGET || !matches!(inode.data.format, EXTENTS | BTREE) {
            let number = inode.node.inode;
            return Err(ReadError::corrupt("xfs link", number, format_args!("at most {TARGET} bytes"), size));
        }
        let map = self.map(inode)?;
        if let Some(why) = map.odd.first() {
            return Err(ReadError::corrupt("xfs link", inode.node.inode, "a sound map", why));
        }
        let (block, mut target) = (self.disk.sb.block_size, Vec::new());
        for run in map.runs {
            let (at, len) = (run.physical.saturating_mul(block), run.len.min(4).saturating_mul(block));
            let bytes = self.disk.structure("xfs link", at, us(len))?;
            let fields = Fields::new("xfs link", at, &bytes);
            let left = us(size) - target.len();
            let (head, here) = if self.disk.sb.v5 { (56, fields.be32(8)?) } else { (0, u32::MAX) };
            if self.disk.sb.v5 && fields.slice(0, 4)? != b"XSLM" {
                return Err(fields.corrupt(0, "magic XSLM", crate::image::hex(fields.slice(0, 4)?)));
            }
            target.extend_from_slice(fields.slice(head, us(u64::from(here)).min(left).min(bytes.len() - head))?);
        }
        if target.len() != us(size) {
            return Err(ReadError::corrupt("xfs link", inode.node.inode, format_args!("{size} bytes"), target.len()));
        }
        Ok(target)
    }

    /// Blocks in use of a range of the volume.
    fn used(&self, range: std::ops::Range<u64>) -> Result<u64, ReadError> {
        let (mut at, mut used) = (range.start, 0);
        while at < range.end {
            let each = u64::from(self.disk.sb.ag_blocks);
            let end = ((at / each + 1) * each).min(range.end);
            let group = u32::try_from(at / each).unwrap_or(u32::MAX);
            let (first, len) = (u32::try_from(at % each).unwrap_or(0), u32::try_from(end - at).unwrap_or(0));
            used += (end - at).saturating_sub(self.groups.get(&self.disk, group).free_of(first, len)?);
            at = end;
        }
        Ok(used)
    }
}

impl Filesystem for Xfs {
    fn name(&self) -> &'static str {
        "xfs"
    }

    fn facts(&self) -> Vec<(String, String)> {
        self.disk.sb.facts.iter().chain(&self.notes).cloned().collect()
    }

    fn odd(&self) -> Vec<String> {
        self.odd.clone()
    }

    fn is_whole(&self) -> bool {
        self.whole
    }

    fn root(&self) -> u64 {
        self.disk.sb.root
    }

    fn block_size(&self) -> u64 {
        self.disk.sb.block_size
    }

    fn blocks(&self) -> u64 {
        self.disk.sb.blocks
    }

    fn node(&self, inode: u64) -> Result<Node, ReadError> {
        let inode = self.inode(inode)?;
        let mut node = inode.node.clone();
        for one in attr::all(&self.disk, &inode, &mut node.odd) {
            match &one.value {
                Ok(value) => {
                    let text = std::str::from_utf8(value).map(ToOwned::to_owned);
                    let text = text.unwrap_or_else(|_| format!("0x{}", crate::image::hex(value)));
                    node.facts.push((format!("xattr {}", one.label()), text));
                }
                Err(error) => node.odd.push(error.to_string()),
            }
        }
        Ok(node)
    }

    fn entries(&self, directory: u64, deleted: bool) -> Result<Listing, ReadError> {
        let inode = self.inode(directory)?;
        if inode.node.kind != Some(FileKind::Directory) {
            return Err(ReadError::caller(format!("list inode {directory}"), "it is no directory"));
        }
        Reader::new(&self.disk, directory, deleted).list(&inode)
    }

    fn content(&self, inode: u64) -> Result<Arc<dyn ReadAt>, ReadError> {
        self.content_of(&self.inode(inode)?)
    }

    fn slack(&self, inode: u64) -> Result<Vec<u8>, ReadError> {
        let inode = self.inode(inode)?;
        if let Some(local) = inode.local() {
            let used = local?.len();
            return Ok(inode.data.bytes.get(used..).unwrap_or_default().to_vec());
        }
        self.map(&inode)?.slack(self.disk.volume.as_ref(), self.disk.sb.block_size, inode.node.size)
    }

    fn target(&self, inode: u64) -> Result<Vec<u8>, ReadError> {
        let inode = self.inode(inode)?;
        if inode.node.kind != Some(FileKind::Link) || inode.node.size > TARGET {
            return Err(ReadError::caller(format!("follow inode {}", inode.node.inode), "it is no symbolic link"));
        }
        let content = self.content_of(&inode)?;
        read_vec(content.as_ref(), 0, us(content.len()))
    }

    fn runs(&self, inode: u64) -> Result<Vec<Run>, ReadError> {
        Ok(self.map(&self.inode(inode)?)?.runs)
    }

    fn block_in_use(&self, block: u64) -> Result<bool, ReadError> {
        if block >= self.disk.sb.blocks {
            let why = format!("there are {}", self.disk.sb.blocks);
            return Err(ReadError::caller(format!("look at block {block}"), why));
        }
        Ok(self.used(block..block + 1)? > 0)
    }

    fn space(&self) -> Option<Arc<dyn ReadAt>> {
        Some(Arc::clone(&self.disk.volume))
    }

    fn lost(&self) -> Result<Vec<Lost>, ReadError> {
        lost::all(self)
    }

    fn changes(&self, each: &mut dyn FnMut(Change) -> Result<(), ReadError>) -> Result<(), ReadError> {
        let (log, mut assembly) = (Log::open(&self.disk)?, Assembly::default());
        log.history(&mut |record| assembly.add(record, &mut |one| lost::tell(self, &one, each)))
    }
}
