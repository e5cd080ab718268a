//! What leaves of the past tell of files that are no longer in their tree.

use std::collections::{BTreeMap, HashSet};

use super::extents::{self, EXTENT_DATA, Piece};
use super::history::{History, Leaf};
use super::inode::{self, DIR_INDEX, INODE_EXTREF, INODE_ITEM, INODE_REF, Inode, Name, XATTR_ITEM};
use super::pool::Pool;
use super::roots::{DEEP, path_of};
use super::tree::{Item, Key, Tree};
use super::{FIRST_FREE, LAST_FREE};
use crate::disk::fs::FileKind;
use crate::disk::walk::join;

/// A file as it last was.
#[derive(Debug, Default)]
pub(super) struct Old {
    /// With the transaction that wrote it.
    pub(super) inode: Option<(u64, Inode)>,
    /// The transaction that wrote each, and the name.
    names: Vec<(u64, Name)>,
    pub(super) pieces: Vec<Piece>,
    /// Extents that could not be understood.
    pub(super) odd: Option<String>,
    attributes: BTreeMap<String, String>,
}

impl Old {
    /// Its metadata; not in use any more.
    pub(super) fn inode(&self) -> Option<(u64, Inode)> {
        let (generation, mut inode) = self.inode.clone()?;
        inode.node.allocated = false;
        inode.node.facts.extend(self.attributes.clone());
        Some((generation, inode))
    }

    fn name(&self) -> Option<&Name> {
        self.names.iter().max_by_key(|(generation, _)| *generation).map(|(_, name)| name)
    }
}

/// The files of one subvolume that are no longer there, by number.
#[derive(Debug, Default)]
pub(super) struct Olds {
    pub(super) all: BTreeMap<u64, Old>,
}

impl Olds {
    /// Reads all leaves of subvolume `id`. `now`: its tree, if it is still there.
    pub(super) fn read(history: &History, id: u64, now: Option<Tree>) -> Self {
        let pool = &history.pool;
        let mut this = Self::default();
        let mut living = Living { pool, tree: now, last: None };
        for leaf in history.of(id) {
            let Ok(node) = leaf.read(pool) else { continue };
            if now.is_some_and(|tree| is_current(pool, tree, leaf, node.key(0).ok())) {
                continue;
            }
            for item in node.items() {
                this.learn(pool, &mut living, &item);
            }
        }
        this
    }

    fn learn(&mut self, pool: &Pool, living: &mut Living<'_>, item: &Item) {
        let (number, generation) = (item.key.id, item.generation());
        if item.key.kind == DIR_INDEX {
            return self.learn_names(living, item);
        }
        let wanted = matches!(item.key.kind, INODE_ITEM | INODE_REF | INODE_EXTREF | XATTR_ITEM | EXTENT_DATA);
        if !wanted || !(FIRST_FREE..=LAST_FREE).contains(&number) || living.has(number) {
            return;
        }
        let old = self.all.entry(number).or_default();
        match item.key.kind {
            INODE_ITEM => {
                let Ok(inode) = Inode::parse(number, &item.fields("btrfs inode")) else { return };
                // While it was deleted it had no names any more: as it was before tells more.
                let rank = |links: u32, generation: u64| (links > 0, generation);
                let best = old.inode.as_ref().is_none_or(|(known, before)| {
                    rank(before.node.links, *known) <= rank(inode.node.links, generation)
                });
                if best && inode.node.kind.is_some() {
                    old.inode = Some((generation, inode));
                }
            }
            XATTR_ITEM => old.attributes.extend(inode::entries(item).iter().flatten().map(inode::attribute)),
            EXTENT_DATA => match Piece::parse(pool, item) {
                Ok(piece) => extents::put(&mut old.pieces, piece),
                Err(error) => old.odd = Some(error.to_string()),
            },
            _ => old.names.extend(inode::names(item).into_iter().map(|name| (generation, name))),
        }
    }

    /// Names of files that are gone, in a directory.
    fn learn_names(&mut self, living: &mut Living<'_>, item: &Item) {
        for entry in inode::entries(item).into_iter().flatten() {
            let number = entry.target.id;
            let file = entry.target.kind == INODE_ITEM && (FIRST_FREE..=LAST_FREE).contains(&number);
            if file && !living.has(number) {
                let name = Name { directory: item.key.id, bytes: entry.name, index: item.key.offset };
                self.all.entry(number).or_default().names.push((item.generation(), name));
            }
        }
    }

    /// Numbers and names of what was in a directory, each once.
    pub(super) fn names_in(&self, directory: u64) -> Vec<(u64, Vec<u8>, Option<FileKind>)> {
        let mut all = Vec::new();
        for (number, old) in &self.all {
            let mut names: Vec<_> = old
                .names
                .iter()
                .filter(|(_, name)| name.directory == directory)
                .map(|(_, name)| name.bytes.clone())
                .collect();
            names.sort();
            names.dedup();
            let kind = old.inode.as_ref().and_then(|(_, inode)| inode.node.kind);
            all.extend(names.into_iter().map(|name| (*number, name, kind)));
        }
        all
    }

    /// The last path of a file, as far as it is known.
    pub(super) fn path(&self, pool: &Pool, now: Option<Tree>, number: u64) -> Option<Vec<u8>> {
        let mut names = Vec::new();
        let mut seen = HashSet::new();
        let mut here = number;
        let above = loop {
            if here == FIRST_FREE {
                break b"/".to_vec();
            }
            if here != number
                && let Some(path) = now.and_then(|tree| path_of(pool, tree, here))
            {
                break path;
            }
            let name = self.all.get(&here).and_then(Old::name);
            match name.filter(|_| names.len() < DEEP && seen.insert(here)) {
                Some(name) => {
                    names.push(name.bytes.clone());
                    here = name.directory;
                }
                None if here == number => return None,
                None => break format!("/#{here}").into_bytes(),
            }
        };
        Some(names.iter().rev().fold(above, |path, name| join(&path, name)))
    }
}

/// Is this leaf where its tree leads to now?
fn is_current(pool: &Pool, tree: Tree, leaf: &Leaf, first: Option<Key>) -> bool {
    let now = first.and_then(|key| pool.leaf(tree, key).ok());
    now.is_some_and(|now| (now.at, now.generation) == (leaf.at, leaf.generation))
}

/// Which inodes a tree has now; the last answer is kept, since items of a file follow each other.
struct Living<'a> {
    pool: &'a Pool,
    tree: Option<Tree>,
    last: Option<(u64, bool)>,
}

impl Living<'_> {
    fn has(&mut self, number: u64) -> bool {
        let Some(tree) = self.tree else { return false };
        if let Some((last, answer)) = self.last
            && last == number
        {
            return answer;
        }
        let key = Key::new(number, INODE_ITEM, 0);
        // What cannot be read may be there.
        let answer = self.pool.range(tree, key, key).next().is_some();
        self.last = Some((number, answer));
        answer
    }
}
