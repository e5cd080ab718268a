//! The tree of trees: subvolumes and snapshots, and what they are called. Kernel include/uapi/linux/btrfs_tree.h,
//! `struct btrfs_root_item`, `btrfs_root_ref`.

use std::collections::{BTreeMap, HashSet};

use jiff::Timestamp;

use super::inode::{self, INODE_EXTREF, INODE_REF, ROOT_ITEM, known, time};
use super::pool::Pool;
use super::tree::{Item, Key, Pointer, Tree, has_files};
use super::{FIRST_FREE, FS_TREE, ROOT_TREE};
use crate::disk::fs::words::uuid;
use crate::disk::walk::join;
use crate::image::ReadError;
use crate::image::fields::Fields;

const ROOT_BACKREF: u8 = 144;
const DIR_ITEM: u8 = 84;
/// The directory of the root tree, where the default subvolume is named.
const ROOT_DIRECTORY: u64 = 6;
/// The most directories up to the root.
pub(super) const DEEP: usize = 1024;
const RDONLY: u64 = 1;

/// A tree as the root tree tells of it.
#[derive(Debug, Clone)]
pub(super) struct Root {
    pub(super) tree: Tree,
    /// None: it is being deleted.
    pub(super) refs: u32,
    flags: u64,
    /// Own, of what it is a snapshot, of what it was received.
    uuids: [[u8; 16]; 3],
    /// Changed and made.
    times: [Option<Timestamp>; 2],
}

impl Root {
    pub(super) fn parse(item: &Item) -> Result<Self, ReadError> {
        let fields = item.fields("btrfs root item");
        let root = Pointer { at: fields.u64(176)?, generation: fields.u64(160)?, level: fields.u8(238)? };
        // Older kernels wrote less.
        let long = fields.bytes().len() >= 439 && fields.u64(239)? == root.generation;
        let uuid = |at: usize| if long { fields.array(at) } else { Ok([0; 16]) };
        let mut odd = Vec::new();
        let mut when = |at| if long { Ok(time(&fields, at, &mut odd)?.filter(known)) } else { Ok(None) };
        Ok(Self {
            times: [when(327)?, when(339)?],
            tree: Tree { root, id: item.key.id },
            refs: fields.u32(216)?,
            flags: fields.u64(208)?,
            uuids: [uuid(247)?, uuid(263)?, uuid(279)?],
        })
    }
}

/// Where a subvolume hangs.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) parent: u64,
    pub(super) directory: u64,
    pub(super) name: Vec<u8>,
}

impl Place {
    pub(super) fn parse(item: &Item) -> Result<Self, ReadError> {
        let fields: Fields<'_> = item.fields("btrfs root reference");
        let len = usize::from(fields.u16(16)?);
        Ok(Self { parent: item.key.offset, directory: fields.u64(0)?, name: fields.slice(18, len)?.to_vec() })
    }
}

/// What the root tree tells.
#[derive(Debug, Clone, Default)]
pub(super) struct Roots {
    pub(super) all: BTreeMap<u64, Root>,
    pub(super) places: BTreeMap<u64, Place>,
    default: Option<u64>,
    pub(super) odd: Vec<String>,
}

impl Roots {
    pub(super) fn read(pool: &Pool, root: Pointer) -> Self {
        let mut this = Self::default();
        let tree = Tree { root, id: ROOT_TREE };
        for item in pool.range(tree, Key::new(0, 0, 0), Key::new(u64::MAX, u8::MAX, u64::MAX)) {
            if let Err(error) = item.and_then(|item| this.learn(&item)) {
                this.odd.push(error.to_string());
            }
        }
        this
    }

    /// Takes what an item says in; a later one of the same tree counts.
    pub(super) fn learn(&mut self, item: &Item) -> Result<(), ReadError> {
        match item.key.kind {
            ROOT_ITEM => drop(self.all.insert(item.key.id, Root::parse(item)?)),
            ROOT_BACKREF => drop(self.places.insert(item.key.id, Place::parse(item)?)),
            DIR_ITEM if item.key.id == ROOT_DIRECTORY => {
                let entry = inode::entries(item)?.into_iter().find(|entry| entry.name == b"default");
                self.default = entry.map(|entry| entry.target.id).or(self.default);
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn tree(&self, id: u64) -> Option<Tree> {
        self.all.get(&id).map(|root| root.tree)
    }

    /// The subvolumes that are there, without the top.
    pub(super) fn subvolumes(&self) -> impl Iterator<Item = &Root> {
        let mine = |root: &&Root| has_files(root.tree.id) && root.tree.id != FS_TREE && root.refs > 0;
        self.all.values().filter(mine)
    }

    /// The path of a subvolume from the top, without a `/` in front. What is not known is its number.
    pub(super) fn path(&self, pool: &Pool, id: u64) -> Vec<u8> {
        let mut parts = Vec::new();
        let mut seen = HashSet::new();
        let mut here = id;
        while here != FS_TREE {
            let Some(place) = self.places.get(&here).filter(|_| seen.insert(here)) else {
                parts.push(format!("#{here}").into_bytes());
                break;
            };
            let above = self.tree(place.parent).and_then(|tree| path_of(pool, tree, place.directory));
            let above = above.unwrap_or_else(|| format!("/#{}", place.directory).into_bytes());
            let own = join(&above, &place.name);
            parts.push(own.strip_prefix(b"/").unwrap_or(&own).to_vec());
            here = place.parent;
        }
        parts.reverse();
        parts.join(&b'/')
    }

    /// What is to be said of a subvolume.
    pub(super) fn facts(&self, pool: &Pool, root: &Root) -> Vec<(String, String)> {
        let mut facts = Vec::new();
        let mut fact = |name: &str, value: String| facts.push((name.to_owned(), value));
        let [own, of, received] = root.uuids;
        fact("subvolume", root.tree.id.to_string());
        if let Some(place) = self.places.get(&root.tree.id) {
            fact("in subvolume", place.parent.to_string());
        }
        fact("uuid of the subvolume", uuid(&own));
        if of != [0; 16] {
            let source = self.all.values().find(|one| one.uuids[0] == of);
            let name = source.map(|one| String::from_utf8_lossy(&self.path(pool, one.tree.id)).into_owned());
            let known = source.zip(name).map(|(one, name)| format!("subvolume {} {name}", one.tree.id));
            fact("snapshot of", known.unwrap_or_else(|| uuid(&of)));
        }
        if received != [0; 16] {
            fact("received from", uuid(&received));
        }
        fact("read-only", if root.flags & RDONLY != 0 { "yes" } else { "no" }.to_owned());
        fact("generation of the subvolume", root.tree.root.generation.to_string());
        for (name, time) in ["changed", "made"].into_iter().zip(root.times) {
            if let Some(time) = time {
                fact(&format!("subvolume {name}"), time.to_string());
            }
        }
        facts
    }

    /// The subvolume that is mounted if none is named.
    pub(super) fn mounted(&self) -> u64 {
        // It is named as the tree itself where nobody changed it.
        self.default.filter(|id| has_files(*id)).unwrap_or(FS_TREE)
    }
}

/// The path of an inode by its first name and those of its directories; none where one is missing.
pub(super) fn path_of(pool: &Pool, tree: Tree, inode: u64) -> Option<Vec<u8>> {
    let mut names = Vec::new();
    let mut here = inode;
    while here != FIRST_FREE {
        let range = pool.range(tree, Key::new(here, INODE_REF, 0), Key::new(here, INODE_EXTREF, u64::MAX));
        let name = range.flatten().find_map(|item| inode::names(&item).into_iter().next())?;
        if names.len() >= DEEP {
            return None;
        }
        here = name.directory;
        names.push(name.bytes);
    }
    Some(names.iter().rev().fold(b"/".to_vec(), |path, name| join(&path, name)))
}
