//! One subvolume as a file system.

use std::sync::{Arc, OnceLock};

use super::content::Content;
use super::extents::{self, EXTENT_DATA, Piece, What};
use super::inode::{self, DIR_INDEX, INODE_ITEM, Inode, ROOT_ITEM, XATTR_ITEM};
use super::log::Log;
use super::old::{Old, Olds};
use super::sums::Sums;
use super::tree::{Item, Key, Tree};
use super::usage::used;
use super::{EXTENT_TREE, FIRST_FREE, FS_TREE, SUM_TREE, Shared, lost};
use crate::disk::fs::{Entry, FileKind, Filesystem, Listing, Lost, Node, Run, State, Subvolume, Times};
use crate::disk::us;
use crate::image::{ReadAt, ReadError, read_vec};

/// The number of a directory that is a subvolume: this and the number of the subvolume.
const SUBVOLUME: u64 = 1 << 62;
/// The longest link: what Linux allows.
const TARGET: u64 = 4096;

/// See the module.
pub(super) struct View {
    pub(super) shared: Arc<Shared>,
    pub(super) tree: Tree,
    facts: Vec<(String, String)>,
    log: Option<Arc<Log>>,
    olds: OnceLock<Olds>,
}

impl View {
    pub(super) fn top(shared: Arc<Shared>, tree: Tree) -> Self {
        let facts = shared.facts.clone();
        Self::new(shared, tree, facts)
    }

    fn new(shared: Arc<Shared>, tree: Tree, facts: Vec<(String, String)>) -> Self {
        let log = shared.logs.get(&tree.id).cloned();
        Self { shared, tree, facts, log, olds: OnceLock::new() }
    }

    /// The files that are no longer there; searched for once, when first asked.
    pub(super) fn olds(&self) -> &Olds {
        let shared = &self.shared;
        self.olds.get_or_init(|| Olds::read(shared.history(), self.tree.id, Some(self.tree)))
    }

    fn items(&self, inode: u64) -> Result<Vec<Item>, ReadError> {
        let (from, to) = (Key::new(inode, INODE_ITEM, 0), Key::new(inode, XATTR_ITEM, u64::MAX));
        self.shared.pool.range(self.tree, from, to).collect()
    }

    /// Metadata without attributes.
    pub(super) fn inode(&self, number: u64) -> Result<Inode, ReadError> {
        let key = Key::new(number, INODE_ITEM, 0);
        let item = self.shared.pool.range(self.tree, key, key).next().transpose()?;
        let inode = item.map(|item| Inode::parse(number, &item.fields("btrfs inode"))).transpose()?;
        self.with_log(number, inode).ok_or_else(|| none(number))
    }

    fn with_log(&self, number: u64, inode: Option<Inode>) -> Option<Inode> {
        let Some(log) = &self.log else { return inode };
        let mut inode = log.inode(number, inode)?;
        if inode.node.kind == Some(FileKind::Directory) && log.changes(number) {
            // The length of a directory is that of its names, twice.
            let names = self.list(number).0.iter().map(|(_, entry)| entry.name.len() as u64).sum::<u64>();
            inode.node.size = names.saturating_mul(2);
        }
        Some(inode)
    }

    /// Entries of a directory by their index, and what could not be read.
    fn list(&self, directory: u64) -> (Vec<(u64, inode::Entry)>, Vec<String>) {
        let (mut all, mut odd) = (Vec::new(), Vec::new());
        for item in self.shared.pool.of(self.tree, directory, DIR_INDEX) {
            let parsed = item.and_then(|item| Ok((item.key.offset, inode::entries(&item)?)));
            match parsed {
                Ok((index, entries)) => all.extend(entries.into_iter().map(|entry| (index, entry))),
                Err(error) => odd.push(error.to_string()),
            }
        }
        if let Some(log) = &self.log {
            let is = |number: u64| self.items(number).is_ok_and(|items| !items.is_empty());
            all = log.entries(directory, all, &is);
        }
        (all, odd)
    }

    /// Where the content is, and why some may be missing.
    pub(super) fn pieces(&self, number: u64) -> (Vec<Piece>, Option<String>) {
        let (mut pieces, mut damaged) = (Vec::new(), None);
        for item in self.shared.pool.of(self.tree, number, EXTENT_DATA) {
            match item.and_then(|item| Piece::parse(&self.shared.pool, &item)) {
                Ok(piece) => extents::put(&mut pieces, piece),
                Err(error) => damaged = damaged.or_else(|| Some(error.to_string())),
            }
        }
        if let Some(log) = &self.log {
            pieces = log.pieces(self.block_size(), number, pieces);
        }
        (pieces, damaged)
    }

    fn sums(&self, inode: &Inode) -> Option<Tree> {
        self.shared.roots.tree(SUM_TREE).filter(|_| inode.has_sums())
    }

    fn content_of(&self, inode: &Inode) -> Result<Content, ReadError> {
        let number = inode.node.inode;
        if !matches!(inode.node.kind, Some(FileKind::File | FileKind::Link)) {
            return Err(ReadError::caller(format!("read the content of inode {number}"), "it is no file"));
        }
        let (pieces, damaged) = self.pieces(number);
        let pool = Arc::clone(&self.shared.pool);
        Ok(Content::new(pool, self.sums(inode), pieces, inode.node.size, damaged))
    }

    /// The directory where a subvolume hangs, which holds nothing here. A snapshot keeps it when the subvolume is gone.
    fn hung(&self, number: u64) -> Result<Node, ReadError> {
        let id = number - SUBVOLUME;
        let roots = &self.shared.roots;
        let Some(root) = roots.all.get(&id) else {
            let facts = vec![("subvolume".to_owned(), format!("{id}, which is no longer there"))];
            return Ok(Node {
                inode: number,
                generation: 0,
                kind: Some(FileKind::Directory),
                mode: 0o040_755,
                uid: 0,
                gid: 0,
                size: 0,
                links: 1,
                times: Times::default(),
                allocated: true,
                facts,
                odd: Vec::new(),
            });
        };
        let view = Self::new(Arc::clone(&self.shared), root.tree, Vec::new());
        let mut node = view.inode(FIRST_FREE)?.node;
        let path = roots.path(&self.shared.pool, id);
        node.inode = number;
        node.facts.push(("subvolume".to_owned(), format!("{id} {}", String::from_utf8_lossy(&path))));
        Ok(node)
    }

    /// An inode that is no longer there, as it was.
    fn gone(&self, number: u64) -> Result<Node, ReadError> {
        let old = self.olds().all.get(&number).and_then(Old::inode);
        let (generation, inode) = old.ok_or_else(|| none(number))?;
        let mut node = inode.node;
        node.odd.push(format!("it is no longer there; this is how it was in transaction {generation}"));
        Ok(node)
    }

    /// What is now where its content was.
    fn gone_content(&self, number: u64) -> Result<Arc<dyn ReadAt>, ReadError> {
        let old = self.olds().all.get(&number);
        let (old, (_, inode)) = old.and_then(|old| Some((old, old.inode()?))).ok_or_else(|| none(number))?;
        Ok(Arc::new(lost::content(&self.shared.history().pool, old, inode.node.size)))
    }

    fn entry(one: inode::Entry) -> Entry {
        let number = if one.target.kind == ROOT_ITEM { SUBVOLUME.saturating_add(one.target.id) } else { one.target.id };
        let kind = FileKind::of_entry(one.kind & !inode::ENCRYPTED);
        Entry { name: one.name, inode: number, kind, state: State::Allocated, source: "directory" }
    }
}

fn none(number: u64) -> ReadError {
    ReadError::caller(format!("read inode {number}"), "there is none")
}

impl Filesystem for View {
    fn name(&self) -> &'static str {
        "btrfs"
    }

    fn facts(&self) -> Vec<(String, String)> {
        self.facts.clone()
    }

    fn odd(&self) -> Vec<String> {
        self.shared.odd.clone()
    }

    fn is_whole(&self) -> bool {
        self.shared.whole
    }

    fn root(&self) -> u64 {
        FIRST_FREE
    }

    fn block_size(&self) -> u64 {
        self.shared.pool.sb.sector
    }

    fn blocks(&self) -> u64 {
        self.shared.pool.volume.len() / self.block_size()
    }

    fn node(&self, number: u64) -> Result<Node, ReadError> {
        if number >= SUBVOLUME {
            return self.hung(number);
        }
        let items = self.items(number)?;
        let first = items.first().filter(|item| item.key.kind == INODE_ITEM);
        let inode = first.map(|item| Inode::parse(number, &item.fields("btrfs inode"))).transpose()?;
        let Some(inode) = self.with_log(number, inode) else { return self.gone(number) };
        let mut node = inode.node;
        if let Some(attributes) = self.log.as_ref().and_then(|log| log.attributes(number)) {
            node.facts.extend(attributes.iter().map(inode::attribute));
            return Ok(node);
        }
        for item in items.iter().filter(|item| item.key.kind == XATTR_ITEM) {
            match inode::entries(item) {
                Ok(all) => node.facts.extend(all.iter().map(inode::attribute)),
                Err(error) => node.odd.push(error.to_string()),
            }
        }
        Ok(node)
    }

    fn entries(&self, directory: u64, deleted: bool) -> Result<Listing, ReadError> {
        if directory >= SUBVOLUME {
            return Ok(Listing::default());
        }
        let inode = self.inode(directory)?;
        if inode.node.kind != Some(FileKind::Directory) {
            return Err(ReadError::caller(format!("list inode {directory}"), "it is no directory"));
        }
        let (all, odd) = self.list(directory);
        let entries = all.into_iter().map(|(_, one)| Self::entry(one)).collect();
        let mut listing = Listing { entries, odd };
        if deleted {
            let gone = self.olds().names_in(directory).into_iter();
            let entry = |(inode, name, kind)| Entry { name, inode, kind, state: State::Deleted, source: "older leaf" };
            listing.entries.extend(gone.map(entry));
        }
        Ok(listing)
    }

    fn content(&self, number: u64) -> Result<Arc<dyn ReadAt>, ReadError> {
        let inode = match self.inode(number) {
            Err(ReadError::Caller { .. }) => return self.gone_content(number),
            inode => inode?,
        };
        Ok(Arc::new(self.content_of(&inode)?))
    }

    /// What the last block of a stored extent holds behind the end of the file. Inline and compressed content has none.
    fn slack(&self, number: u64) -> Result<Vec<u8>, ReadError> {
        let inode = self.inode(number)?;
        let (size, sector) = (inode.node.size, self.block_size());
        let last = size / sector * sector;
        let (pieces, _) = self.pieces(number);
        let piece = pieces.iter().find(|piece| piece.at <= last && last < piece.end());
        let Some((What::Stored(extent), at)) = piece.filter(|_| last < size).map(|piece| (&piece.what, piece.at))
        else {
            return Ok(Vec::new());
        };
        if extent.packing.is_some() {
            return Ok(Vec::new());
        }
        let address = extent.at.saturating_add(extent.from).saturating_add(last - at);
        let mut block = vec![0; us(sector)];
        let sums =
            self.sums(&inode).map_or_else(Sums::none, |tree| Sums::read(&self.shared.pool, tree, address, sector));
        if self.shared.pool.sectors(address, &mut block, &sums) != [true] {
            let why = impound_backends::Why::Unreadable(self.shared.pool.why(address));
            return Err(ReadError::Gap { at: size, len: last + sector - size, why });
        }
        Ok(block.split_off(us(size - last)))
    }

    fn target(&self, number: u64) -> Result<Vec<u8>, ReadError> {
        let inode = self.inode(number)?;
        if inode.node.kind != Some(FileKind::Link) || inode.node.size > TARGET {
            return Err(ReadError::caller(format!("follow inode {number}"), "it is no symbolic link"));
        }
        let content = self.content_of(&inode)?;
        read_vec(&content, 0, us(content.len()))
    }

    fn runs(&self, number: u64) -> Result<Vec<Run>, ReadError> {
        if number >= SUBVOLUME {
            return Ok(Vec::new());
        }
        self.inode(number)?;
        Ok(extents::runs(&self.shared.pool, &self.pieces(number).0))
    }

    /// As the extent tree says. A block that belongs to no chunk is free, parity is not.
    fn block_in_use(&self, block: u64) -> Result<bool, ReadError> {
        let (pool, size) = (&self.shared.pool, self.block_size());
        let at = block.saturating_mul(size);
        let len = super::superblock::LEN as u64;
        if super::superblock::PLACES.iter().any(|place| at < place + len && at + size > *place) {
            return Ok(true);
        }
        let Some((address, _)) = pool.chunks.address(at) else { return Ok(false) };
        let missing = || ReadError::caller("tell which blocks are in use", "the extent tree is missing");
        let tree = self.shared.roots.tree(EXTENT_TREE).ok_or_else(missing)?;
        Ok(!used(pool, tree, address, size)?.is_empty())
    }

    fn lost(&self) -> Result<Vec<Lost>, ReadError> {
        lost::all(self)
    }

    fn subvolumes(&self) -> Result<Vec<Subvolume>, ReadError> {
        if self.tree.id != FS_TREE {
            return Ok(Vec::new());
        }
        let (pool, roots) = (&self.shared.pool, &self.shared.roots);
        let all = roots.subvolumes().map(|root| {
            let facts = roots.facts(pool, root);
            let mut own = self.shared.facts.clone();
            own.extend(facts.iter().cloned());
            let view = Self::new(Arc::clone(&self.shared), root.tree, own);
            Subvolume { name: roots.path(pool, root.tree.id), facts, fs: Arc::new(view) }
        });
        Ok(all.collect())
    }
}
