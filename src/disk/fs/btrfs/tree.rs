//! Nodes and leaves, and walking through them in the order of their keys. Kernel include/uapi/linux/btrfs_tree.h,
//! `struct btrfs_header`, `struct btrfs_item`, `struct btrfs_key_ptr`.
//!
//! A child is one level below its parent, so no way through a tree is longer than eight nodes; keys must rise, so no leaf
//! is met twice. A node that cannot be read is told of, and its neighbours still come.

use std::sync::Arc;

use super::pool::Pool;
use crate::disk::us;
use crate::image::ReadError;
use crate::image::fields::Fields;

/// Length of a node's header.
pub(super) const HEADER: usize = 101;
const ITEM: usize = 25;
const POINTER: usize = 33;
/// The highest level of a node: what the kernel allows.
pub(super) const HIGHEST: u8 = 7;

/// What a tree is sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) id: u64,
    pub(super) kind: u8,
    pub(super) offset: u64,
}

impl Key {
    /// Length on the disk.
    pub(super) const LEN: usize = 17;

    pub(super) fn new(id: u64, kind: u8, offset: u64) -> Self {
        Self { id, kind, offset }
    }

    pub(super) fn read(fields: &Fields<'_>, at: usize) -> Result<Self, ReadError> {
        Ok(Self { id: fields.u64(at)?, kind: fields.u8(at + 8)?, offset: fields.u64(at + 9)? })
    }
}

/// Where a node is, and what makes sure that it is the right one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pointer {
    pub(super) at: u64,
    pub(super) generation: u64,
    pub(super) level: u8,
}

/// A tree.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tree {
    pub(super) root: Pointer,
    /// Its number.
    pub(super) id: u64,
}

/// Is this the number of a tree with files?
pub(super) fn has_files(id: u64) -> bool {
    id == super::FS_TREE || (super::FIRST_FREE..=super::LAST_FREE).contains(&id)
}

impl Tree {
    /// May a node of this tree say that it belongs to `owner`? Snapshots share their nodes.
    pub(super) fn takes(self, owner: u64) -> bool {
        owner == self.id || (has_files(self.id) && (has_files(owner) || owner == super::RELOCATION_TREE))
    }
}

/// A node whose checksum fits.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) bytes: Arc<Vec<u8>>,
    pub(super) at: u64,
    pub(super) generation: u64,
    pub(super) owner: u64,
    pub(super) level: u8,
    count: usize,
}

impl Node {
    /// Reads the header; the checksum is the caller's matter.
    pub(super) fn parse(at: u64, bytes: Arc<Vec<u8>>) -> Result<Self, ReadError> {
        let fields = Fields::new("btrfs node", at, &bytes);
        let found = fields.u64(0x30)?;
        if found != at {
            return Err(fields.corrupt(0x30, format_args!("address {at:#x}"), format_args!("{found:#x}")));
        }
        let (generation, owner) = (fields.u64(0x50)?, fields.u64(0x58)?);
        let (count, level) = (us(u64::from(fields.u32(0x60)?)), fields.u8(0x64)?);
        let most = bytes.len().saturating_sub(HEADER) / if level == 0 { ITEM } else { POINTER };
        if count > most {
            return Err(fields.corrupt(0x60, format_args!("at most {most} items"), count));
        }
        if level > HIGHEST {
            return Err(fields.corrupt(0x64, format_args!("a level up to {HIGHEST}"), level));
        }
        Ok(Self { bytes, at, generation, owner, level, count })
    }

    fn fields(&self) -> Fields<'_> {
        Fields::new("btrfs node", self.at, &self.bytes)
    }

    fn place(&self, index: usize) -> usize {
        HEADER + index * if self.level == 0 { ITEM } else { POINTER }
    }

    pub(super) fn key(&self, index: usize) -> Result<Key, ReadError> {
        Key::read(&self.fields(), self.place(index))
    }

    fn child(&self, index: usize) -> Result<Pointer, ReadError> {
        let (fields, at) = (self.fields(), self.place(index) + Key::LEN);
        let level = self.level.saturating_sub(1);
        Ok(Pointer { at: fields.u64(at)?, generation: fields.u64(at + 8)?, level })
    }

    pub(super) fn item(&self, index: usize) -> Result<Item, ReadError> {
        let (fields, at) = (self.fields(), self.place(index) + Key::LEN);
        let from = us(u64::from(fields.u32(at)?)).saturating_add(HEADER);
        let len = us(u64::from(fields.u32(at + 4)?));
        fields.slice(from, len)?;
        Ok(Item { key: self.key(index)?, node: self.clone(), from, len })
    }

    /// All items of a leaf that can be read.
    pub(super) fn items(&self) -> impl Iterator<Item = Item> + '_ {
        let count = if self.level == 0 { self.count } else { 0 };
        (0..count).filter_map(|index| self.item(index).ok())
    }

    /// How many keys come before the first for which `is` does not hold.
    fn first(&self, is: impl Fn(Key) -> bool) -> usize {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low.midpoint(high);
            if self.key(middle).is_ok_and(&is) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}

/// An item of a leaf.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) key: Key,
    node: Node,
    from: usize,
    len: usize,
}

impl Item {
    pub(super) fn data(&self) -> &[u8] {
        self.node.bytes.get(self.from..self.from.saturating_add(self.len)).unwrap_or_default()
    }

    /// The item as a `what`; places are addresses of the file system.
    pub(super) fn fields(&self, what: &'static str) -> Fields<'_> {
        Fields::new(what, self.node.at.saturating_add(self.from as u64), self.data())
    }

    /// The generation of the leaf that it stands in.
    pub(super) fn generation(&self) -> u64 {
        self.node.generation
    }
}

/// Items of a tree from one key to another, in order. After an error it goes on behind what could not be read.
pub(super) struct Range<'a> {
    pool: &'a Pool,
    tree: Tree,
    from: Key,
    to: Key,
    root: Option<Pointer>,
    way: Vec<(Node, usize)>,
    last: Option<Key>,
    left: u64,
}

impl<'a> Range<'a> {
    pub(super) fn new(pool: &'a Pool, tree: Tree, from: Key, to: Key) -> Self {
        let left = pool.most_nodes();
        Self { pool, tree, from, to, root: Some(tree.root), way: Vec::new(), last: None, left }
    }

    fn enter(&mut self, pointer: Pointer) -> Result<(), ReadError> {
        let Some(left) = self.left.checked_sub(1) else {
            self.way.clear();
            let most = self.pool.most_nodes();
            return Err(ReadError::corrupt(
                "btrfs tree",
                self.tree.root.at,
                format_args!("at most {most} nodes"),
                "more",
            ));
        };
        self.left = left;
        let node = self.pool.node(pointer, self.tree)?;
        let from = self.from;
        let index = if node.level == 0 {
            node.first(|key| key < from)
        } else {
            node.first(|key| key <= from).saturating_sub(1)
        };
        self.way.push((node, index));
        Ok(())
    }

    fn take(&mut self, node: &Node, index: usize) -> Option<Result<Item, ReadError>> {
        let item = match node.item(index) {
            Ok(item) => item,
            Err(error) => return Some(Err(error)),
        };
        if item.key > self.to {
            self.way.clear();
            return None;
        }
        if self.last.is_some_and(|last| item.key <= last) {
            self.way.clear();
            let found = format!("{:?} behind {:?}", item.key, self.last);
            return Some(Err(ReadError::corrupt("btrfs leaf", node.at, "keys that rise", found)));
        }
        self.last = Some(item.key);
        Some(Ok(item))
    }
}

impl Iterator for Range<'_> {
    type Item = Result<Item, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(root) = self.root.take()
            && let Err(error) = self.enter(root)
        {
            return Some(Err(error));
        }
        loop {
            let (node, index) = self.way.last_mut()?;
            if *index >= node.count {
                self.way.pop();
                continue;
            }
            let (node, here) = (node.clone(), *index);
            *index += 1;
            if node.level == 0 {
                return self.take(&node, here);
            }
            let child = node.key(here).and_then(|key| (key <= self.to).then(|| node.child(here)).transpose());
            let entered = match child {
                Ok(Some(child)) => self.enter(child),
                Ok(None) => {
                    self.way.clear();
                    return None;
                }
                Err(error) => Err(error),
            };
            if let Err(error) = entered {
                return Some(Err(error));
            }
        }
    }
}

impl Pool {
    /// Items of `tree` from one key to another, both included.
    pub(super) fn range(&self, tree: Tree, from: Key, to: Key) -> Range<'_> {
        Range::new(self, tree, from, to)
    }

    /// All items of one kind of one object.
    pub(super) fn of(&self, tree: Tree, id: u64, kind: u8) -> Range<'_> {
        self.range(tree, Key::new(id, kind, 0), Key::new(id, kind, u64::MAX))
    }

    /// The leaf in which `key` stands or would stand.
    pub(super) fn leaf(&self, tree: Tree, key: Key) -> Result<Node, ReadError> {
        let mut node = self.node(tree.root, tree)?;
        while node.level > 0 {
            let index = node.first(|one| one <= key).saturating_sub(1);
            node = self.node(node.child(index)?, tree)?;
        }
        Ok(node)
    }

    /// The last item whose key is not above `key`.
    pub(super) fn before(&self, tree: Tree, key: Key) -> Result<Option<Item>, ReadError> {
        let leaf = self.leaf(tree, key)?;
        leaf.first(|one| one <= key).checked_sub(1).map(|index| leaf.item(index)).transpose()
    }
}
