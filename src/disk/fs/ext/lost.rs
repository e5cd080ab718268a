//! Files that are no longer there: deleted inodes, orphans, and what the journal still knows of both.
//!
//! ext4 empties the map of a file that it deletes; the journal keeps the blocks of the inode table as they were before,
//! and blocks of directories with the names. A copy counts if its checksum fits (or, without checksums, if it is no part
//! of the log). Whether content is still its own is asked of the block bitmap: a block that is free now may have been used
//! and freed again in between, which nothing here can tell. "Whole" means that nobody has its blocks now.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::books::Part;
use super::inode::{INLINE_DATA, Inode};
use super::{Ext, has_blocks, inside};
use crate::disk::fs::{Confidence, FileKind, Filesystem, Listing, Lost, State};
use crate::disk::us;
use crate::disk::walk::{self, How, join};
use crate::image::ReadError;

/// The most names up to the root.
const DEEP: usize = 256;

/// A name that an inode had, where, and when the journal saw it.
struct Name {
    directory: u64,
    bytes: Vec<u8>,
    sequence: u32,
}

#[derive(Default)]
struct Known {
    /// Paths of the directories that are there.
    paths: HashMap<u64, Vec<u8>>,
    /// Inodes with a name.
    named: HashSet<u64>,
    /// Names that are gone.
    names: HashMap<u64, Vec<Name>>,
    /// Which directory a block belongs to.
    blocks: BTreeMap<u64, u64>,
}

/// An older state of an inode.
struct Old {
    inode: Inode,
    sequence: u32,
}

/// All of them, by number.
pub(super) fn all(ext: &Ext) -> Result<Vec<Lost>, ReadError> {
    let mut known = live(ext)?;
    let mut old = BTreeMap::new();
    let history = ext.journal.as_ref().map(super::journal::Journal::history).unwrap_or_default();
    inodes_of(ext, &history, &mut old);
    for (number, states) in &old {
        for state in states.iter().filter(|state| state.inode.node.kind == Some(FileKind::Directory)) {
            learn_blocks(ext, &state.inode, *number, &mut known.blocks);
        }
    }
    names_of(ext, &history, &mut known);
    let mut lost = Vec::new();
    for number in numbers(ext) {
        let states = old.remove(&number).unwrap_or_default();
        of_inode(ext, &known, number, states, &mut lost);
    }
    Ok(lost)
}

/// What an inode is and was: its own state if that is a lost file, and the older ones of other generations.
fn of_inode(ext: &Ext, known: &Known, number: u64, states: Vec<Old>, lost: &mut Vec<Lost>) {
    let now = ext.inode(number).ok();
    let live = now.as_ref().filter(|now| now.node.allocated && now.node.links > 0).map(|now| now.node.generation);
    let mut told = Vec::new();
    if let Some(now) = now.filter(|now| now.node.mode != 0) {
        let orphan = now.node.allocated && !known.named.contains(&number);
        let better = states.iter().any(|state| state.inode.node.generation == now.node.generation);
        let empty = now.node.size == 0 && ext.map(&now).runs.is_empty();
        if (live.is_none() || orphan) && !(empty && better) {
            let state = if orphan { State::Orphan } else { State::Deleted };
            told.push(now.node.generation);
            lost.push(one(ext, known, &now, u32::MAX, state, "inode table".to_owned()));
        }
    }
    for Old { inode, sequence } in states {
        let generation = inode.node.generation;
        if live != Some(generation) && !told.contains(&generation) {
            told.push(generation);
            let source = format!("journal transaction {sequence}");
            lost.push(one(ext, known, &inode, sequence, State::Deleted, source));
        }
    }
}

/// Which directory, of those that are there, a block belongs to.
pub(super) fn directory_blocks(ext: &Ext) -> Result<BTreeMap<u64, u64>, ReadError> {
    live(ext).map(|known| known.blocks)
}

/// Inodes that are not the file system's own, of the groups whose table is on the volume: a superblock may claim
/// any number of them.
fn numbers(ext: &Ext) -> impl Iterator<Item = u64> {
    let per_group = u64::from(ext.sb.inodes_per_group);
    let last = u64::from(ext.sb.inodes);
    let groups = (0..u64::from(ext.sb.groups())).map(move |group| group * per_group + 1);
    // Descriptors follow each other: behind the first that is not there, none is.
    let there = groups.map_while(|first| ext.place_of(first).ok().map(|(_, at)| (first, at)));
    let there = there.filter(|(_, at)| *at < ext.volume.len());
    let all = there.flat_map(move |(first, _)| first..=(first + per_group - 1).min(last));
    all.skip_while(|number| *number < u64::from(first_inode(ext)))
}

/// The first inode that is not the file system's own.
fn first_inode(ext: &Ext) -> u32 {
    11.min(ext.sb.inodes)
}

/// What is there now: paths, names, and the names in the gaps.
fn live(ext: &Ext) -> Result<Known, ReadError> {
    let mut known = Known::default();
    known.paths.insert(2, Vec::new());
    let mut directories = vec![2];
    let mut numbers = HashMap::from([(Vec::new(), 2)]);
    let how = How { recursive: true, deleted: true };
    walk::walk::<ReadError>(ext, (2, b"/"), how, &mut |_| {}, &mut |found| {
        let number = found.entry.inode;
        let cut = found.path.len().saturating_sub(found.entry.name.len() + 1);
        if found.entry.state == State::Allocated {
            known.named.insert(number);
            if found.node.is_ok_and(|node| node.kind == Some(FileKind::Directory)) {
                numbers.entry(found.path.clone()).or_insert(number);
                known.paths.entry(number).or_insert(found.path);
                directories.push(number);
            }
        } else if number != 0 {
            let parent = found.path.get(..cut).unwrap_or_default();
            // A directory comes before what is in it.
            let directory = numbers.get(parent).copied().unwrap_or(2);
            let name = Name { directory, bytes: found.entry.name, sequence: 0 };
            known.names.entry(number).or_default().push(name);
        }
        Ok(())
    })?;
    for number in directories {
        if let Ok(inode) = ext.inode(number) {
            learn_blocks(ext, &inode, number, &mut known.blocks);
        }
    }
    Ok(known)
}

fn learn_blocks(ext: &Ext, inode: &Inode, number: u64, into: &mut BTreeMap<u64, u64>) {
    for run in ext.map(inode).runs {
        for block in run.physical..run.physical.saturating_add(run.len.min(1 << 16)) {
            into.entry(block).or_insert(number);
        }
    }
}

/// Newest first, the states of each inode that the journal knows: one for each generation.
fn inodes_of(ext: &Ext, history: &[super::journal::Copy], into: &mut BTreeMap<u64, Vec<Old>>) {
    let Some(journal) = &ext.journal else { return };
    for copy in history.iter().rev() {
        let Some(Part::InodeTable(_, first)) = ext.part(copy.block) else { continue };
        let Ok(block) = journal.content(copy) else { continue };
        for index in 0..us(ext.sb.inodes_per_block()) {
            let raw = inside(&block, index, usize::from(ext.sb.inode_size));
            let (Some(raw), Ok(number)) = (raw, u32::try_from(first.saturating_add(index as u64))) else { continue };
            let Ok(inode) = Inode::parse(&ext.sb, number, copy.block.saturating_mul(ext.sb.block_size), raw) else {
                continue;
            };
            let useful = inode.node.kind.is_some() && inode.node.links > 0 && inode.node.times.deleted.is_none();
            let states = into.entry(u64::from(number)).or_default();
            if useful && !states.iter().any(|state| state.inode.node.generation == inode.node.generation) {
                states.push(Old { inode, sequence: copy.sequence });
            }
        }
    }
}

/// Names in old copies of blocks of directories.
fn names_of(ext: &Ext, history: &[super::journal::Copy], known: &mut Known) {
    let Some(journal) = &ext.journal else { return };
    let reader = ext.reader(true, ["journal", "journal"]);
    for copy in history {
        let (Some(directory), Ok(block)) = (known.blocks.get(&copy.block).copied(), journal.content(copy)) else {
            continue;
        };
        let mut listing = Listing::default();
        reader.block(0, &block, &mut listing);
        for entry in listing.entries.into_iter().filter(|entry| entry.inode != 0) {
            let names = known.names.entry(entry.inode).or_default();
            match names.iter_mut().find(|one| one.directory == directory && one.bytes == entry.name) {
                Some(one) => one.sequence = copy.sequence,
                None => names.push(Name { directory, bytes: entry.name, sequence: copy.sequence }),
            }
        }
    }
}

/// The last path that an inode had before or at `sequence`.
fn path_of(known: &Known, number: u64, sequence: u32, deep: usize) -> Option<Vec<u8>> {
    let names = known.names.get(&number)?;
    let before = names.iter().filter(|name| name.sequence <= sequence).max_by_key(|name| name.sequence);
    let name = before.or_else(|| names.iter().min_by_key(|name| name.sequence))?;
    let parent = match known.paths.get(&name.directory) {
        Some(path) => path.clone(),
        None if deep < DEEP => path_of(known, name.directory, sequence, deep + 1)
            .unwrap_or_else(|| format!("/#{}", name.directory).into_bytes()),
        None => b"/#deep".to_vec(),
    };
    Some(join(&parent, &name.bytes))
}

fn one(ext: &Ext, known: &Known, inode: &Inode, sequence: u32, state: State, source: String) -> Lost {
    let path = path_of(known, inode.node.inode, sequence, 0);
    let mut node = inode.node.clone();
    node.allocated = state == State::Orphan;
    let in_place = inode.has(INLINE_DATA) || ext.is_fast_link(inode) || !has_blocks(inode);
    if in_place {
        let content = ext.content_of(inode, true).ok();
        let (confidence, runs) = (Confidence::Whole, Vec::new());
        return Lost { path, node, state, source, confidence, blocks: 0, reused: 0, runs, content };
    }
    let map = ext.map(inode);
    let used =
        |range: std::ops::Range<u64>| range.map(|block| u64::from(ext.block_in_use(block).unwrap_or(true))).sum();
    let (blocks, reused) = if state == State::Orphan { (map.blocks(), 0) } else { map.books(ext.sb.blocks, used) };
    let confidence = map.confidence((blocks, reused), node.size > 0 || node.times.deleted.is_some());
    let runs = map.runs.clone();
    let content =
        (confidence != Confidence::NoMap).then(|| map.content(&ext.volume, ext.sb.block_size, node.size, true));
    Lost { path, node, state, source, confidence, blocks, reused, runs, content }
}
