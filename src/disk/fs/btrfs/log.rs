//! The log of what was synced after the last commit. It is replayed over a subvolume, in memory. Kernel fs/btrfs/tree-log.c.
//!
//! The log holds items as they are to be in the subvolume: inodes, names, attributes, extents, and ranges of directories of
//! which it knows every entry. A log that cannot be read to its end is not replayed at all: half of it would be a state that
//! never was.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::extents::{self, EXTENT_DATA, Piece, What};
use super::inode::{self, DIR_INDEX, Entry, INODE_EXTREF, INODE_ITEM, INODE_REF, Inode, Name, ROOT_ITEM, XATTR_ITEM};
use super::pool::Pool;
use super::roots::Root;
use super::tree::{Item, Key, Pointer, Tree};
use super::{FIRST_FREE, LAST_FREE, LOG_TREE};
use crate::disk::fs::FileKind;
use crate::image::ReadError;

/// A range of a directory of which the log has every entry.
const DIR_LOG_INDEX: u8 = 72;

/// What the log has of one inode.
#[derive(Debug, Default)]
struct Logged {
    inode: Option<Inode>,
    /// By directory: all names there.
    names: BTreeMap<u64, Vec<Name>>,
    attributes: Vec<Entry>,
    pieces: Vec<Piece>,
    entries: Vec<(u64, Entry)>,
    /// First and last index.
    known: Vec<(u64, u64)>,
}

/// The log of one subvolume.
#[derive(Debug, Default)]
pub(super) struct Log {
    all: BTreeMap<u64, Logged>,
    /// Names in the log by their directory, with the inode.
    by_directory: HashMap<u64, Vec<(u64, Name)>>,
}

/// The logs of all subvolumes, by their number.
pub(super) fn read(pool: &Pool, root: Pointer) -> Result<BTreeMap<u64, Arc<Log>>, ReadError> {
    let mut all = BTreeMap::new();
    for item in pool.of(Tree { root, id: LOG_TREE }, LOG_TREE, ROOT_ITEM) {
        let item = item?;
        let tree = Tree { root: Root::parse(&item)?.tree.root, id: LOG_TREE };
        all.insert(item.key.offset, Arc::new(Log::read(pool, tree)?));
    }
    Ok(all)
}

impl Log {
    fn read(pool: &Pool, tree: Tree) -> Result<Self, ReadError> {
        let mut this = Self::default();
        for item in pool.range(tree, Key::new(FIRST_FREE, 0, 0), Key::new(LAST_FREE, u8::MAX, u64::MAX)) {
            let item = item?;
            this.all.entry(item.key.id).or_default().learn(pool, &item)?;
        }
        // A file that never had a name is not brought back.
        this.all.retain(|_, one| one.inode.as_ref().is_none_or(|inode| inode.node.links > 0));
        for (number, one) in &this.all {
            // The root directory names itself.
            for name in one.names.values().flatten().filter(|name| name.directory != *number) {
                this.by_directory.entry(name.directory).or_default().push((*number, name.clone()));
            }
        }
        Ok(this)
    }

    /// Inodes that it has something of.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Does it bring this inode?
    fn has(&self, number: u64) -> bool {
        self.all.get(&number).is_some_and(|one| one.inode.is_some())
    }

    /// An inode as it is with the log.
    pub(super) fn inode(&self, number: u64, now: Option<Inode>) -> Option<Inode> {
        let Some(new) = self.all.get(&number).and_then(|one| one.inode.clone()) else { return now };
        match now {
            // Without a generation only the length counts, and none means that only its being there was logged.
            Some(mut old) if new.made == 0 => {
                if new.node.kind == Some(FileKind::File) && new.node.size != 0 {
                    old.node.size = new.node.size;
                }
                Some(old)
            }
            _ => Some(new),
        }
    }

    /// Attributes: those of the log instead of those of the subvolume.
    pub(super) fn attributes(&self, number: u64) -> Option<&[Entry]> {
        self.all.get(&number).filter(|one| one.inode.is_some()).map(|one| &one.attributes[..])
    }

    /// Does it change what this directory lists?
    pub(super) fn changes(&self, directory: u64) -> bool {
        let own = self.all.get(&directory).is_some_and(|one| !one.entries.is_empty() || !one.known.is_empty());
        own || self.by_directory.contains_key(&directory)
    }

    /// Content: extents of the log over those of the subvolume, which end with the file.
    pub(super) fn pieces(&self, sector: u64, number: u64, now: Vec<Piece>) -> Vec<Piece> {
        let Some(one) = self.all.get(&number) else { return now };
        let mut pieces = now;
        if let Some(inode) = one.inode.as_ref().filter(|inode| inode.made != 0 || inode.node.size != 0) {
            let end = inode.node.size.checked_next_multiple_of(sector).unwrap_or(u64::MAX);
            pieces = pieces.iter().filter_map(|piece| piece.cut(0, end)).collect();
        }
        for piece in &one.pieces {
            // What is inline takes the place of whole blocks.
            if let What::Inline(..) = piece.what {
                pieces.retain(|old| old.at >= piece.len.next_multiple_of(sector));
                pieces.insert(0, piece.clone());
            } else {
                extents::put(&mut pieces, piece.clone());
            }
        }
        pieces
    }

    /// Entries of a directory with the log, by their index; `is` tells which inodes the subvolume has.
    pub(super) fn entries(
        &self,
        directory: u64,
        now: Vec<(u64, Entry)>,
        is: &dyn Fn(u64) -> bool,
    ) -> Vec<(u64, Entry)> {
        let mut all = now;
        let none = Logged::default();
        let one = self.all.get(&directory).unwrap_or(&none);
        if one.inode.is_some() {
            let told: BTreeSet<_> = one.entries.iter().map(|(index, entry)| (*index, &entry.name)).collect();
            let inside = |index: u64| one.known.iter().any(|(from, to)| (*from..=*to).contains(&index));
            all.retain(|(index, entry)| !inside(*index) || told.contains(&(*index, &entry.name)));
        }
        for (index, entry) in &one.entries {
            let target = entry.target.id;
            if entry.target.kind == ROOT_ITEM || self.has(target) || is(target) {
                place(&mut all, *index, entry.clone());
            }
        }
        self.apply_names(directory, &mut all);
        all.sort_by_key(|(index, _)| *index);
        all
    }

    /// Names that the log gives to inodes: where it has some in a directory, it has all of them there.
    fn apply_names(&self, directory: u64, all: &mut Vec<(u64, Entry)>) {
        let named = self.by_directory.get(&directory).map(Vec::as_slice).unwrap_or_default();
        let told: HashMap<u64, BTreeSet<&[u8]>> = named.iter().fold(HashMap::new(), |mut told, (number, name)| {
            told.entry(*number).or_insert_with(BTreeSet::new).insert(&name.bytes[..]);
            told
        });
        all.retain(|(_, entry)| {
            let file = entry.target.kind == INODE_ITEM;
            let names = told.get(&entry.target.id).filter(|_| file);
            names.is_none_or(|names| names.contains(&entry.name[..]))
        });
        for (number, name) in named {
            let kind = self.all.get(number).and_then(|one| one.inode.as_ref()).and_then(|inode| inode.node.kind);
            let old = all.iter().find(|(_, entry)| entry.target.id == *number).map(|(_, entry)| entry.kind);
            let kind = kind.map(inode::number).or(old).unwrap_or(0);
            let target = Key::new(*number, INODE_ITEM, 0);
            place(all, name.index, Entry { target, kind, name: name.bytes.clone(), value: Vec::new() });
        }
    }
}

/// Puts an entry in, instead of whatever has its index or its name.
fn place(all: &mut Vec<(u64, Entry)>, index: u64, entry: Entry) {
    all.retain(|(other, old)| *other != index && old.name != entry.name);
    all.push((index, entry));
}

impl Logged {
    fn learn(&mut self, pool: &Pool, item: &Item) -> Result<(), ReadError> {
        match item.key.kind {
            INODE_ITEM => self.inode = Some(Inode::parse(item.key.id, &item.fields("btrfs inode"))?),
            INODE_REF | INODE_EXTREF => {
                for name in inode::names(item) {
                    self.names.entry(name.directory).or_default().push(name);
                }
            }
            XATTR_ITEM => self.attributes.extend(inode::entries(item)?),
            EXTENT_DATA => self.pieces.push(Piece::parse(pool, item)?),
            DIR_INDEX => self.entries.extend(inode::entries(item)?.into_iter().map(|entry| (item.key.offset, entry))),
            DIR_LOG_INDEX => self.known.push((item.key.offset, item.fields("btrfs directory log").u64(0)?)),
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::fields::Fields;

    /// A file of a length that the log has, with one name in directory 256.
    fn log(size: u64, name: &[u8]) -> Log {
        let mut raw = vec![0; 160];
        raw[0] = 7;
        raw[16..24].copy_from_slice(&size.to_le_bytes());
        raw[40] = 1;
        raw[52..56].copy_from_slice(&0o100_644_u32.to_le_bytes());
        let inode = Inode::parse(300, &Fields::new("test", 0, &raw)).unwrap();
        let name = Name { directory: 256, bytes: name.to_vec(), index: 3 };
        let one =
            Logged { inode: Some(inode), names: BTreeMap::from([(256, vec![name.clone()])]), ..Logged::default() };
        Log { all: BTreeMap::from([(300, one)]), by_directory: HashMap::from([(256, vec![(300, name)])]) }
    }

    fn entry(index: u64, number: u64, name: &[u8]) -> (u64, Entry) {
        let target = Key::new(number, INODE_ITEM, 0);
        (index, Entry { target, kind: 1, name: name.to_vec(), value: Vec::new() })
    }

    #[test]
    fn names_that_the_log_does_not_have_are_gone_and_those_of_others_stay() {
        let now = vec![entry(2, 300, b"old"), entry(4, 301, b"other"), entry(5, 302, b"new")];
        let all = log(0, b"new").entries(256, now, &|_| true);
        let all: Vec<_> = all.into_iter().map(|(index, entry)| (index, entry.target.id, entry.name)).collect();
        assert_eq!(all, [(3, 300, b"new".to_vec()), (4, 301, b"other".to_vec())]);
    }

    #[test]
    fn content_ends_with_the_length_in_the_log() {
        let piece = |at: u64, len: u64| Piece { at, len, what: What::Zero(None) };
        let pieces =
            log(10_000, b"new").pieces(4096, 300, vec![piece(0, 8192), piece(8192, 8192), piece(65_536, 4096)]);
        assert_eq!(pieces, [piece(0, 8192), piece(8192, 4096)]);
        assert_eq!(log(0, b"new").pieces(4096, 301, vec![piece(0, 8192)]), [piece(0, 8192)]);
    }
}
