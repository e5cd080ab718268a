//! Files that are no longer there: inodes that were given back, inodes of chunks that were given back, and what the log
//! still knows of both.
//!
//! A file that is deleted loses its size and the number of its extents; the extents themselves mostly stay where they
//! were, in the room of the inode. Old copies of inodes in the log have all of it. Chunks of 64 inodes that are all free
//! are given back, often before the emptied inodes were written: whoever still looks like an inode of this file system
//! there is one that was. Whether content is still its own is asked of the free space tree: blocks that are free now may
//! have been used and freed again in between, which nothing here can tell.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::inode::{BTREE, EXTENTS, Fork, Inode, LOCAL};
use super::items::{Assembly, INODE, Item, Transaction};
use super::map::{self, RECORD};
use super::{Xfs, core};
use crate::disk::fs::runs::Map;
use crate::disk::fs::{Change, Confidence, FileKind, Listing, Lost, State};
use crate::disk::walk::{self, How, join};
use crate::image::fields::Fields;
use crate::image::{InMemory, Kind, ReadAt, ReadError, read_vec};

/// The most names up to the root.
const DEEP: usize = 256;
/// The most inodes of which older states are kept.
const MOST: usize = 1 << 20;

/// An older state of an inode, and where it was found.
struct Old {
    inode: Inode,
    source: String,
}

#[derive(Default)]
struct Known {
    /// Paths of the directories that are there.
    paths: HashMap<u64, Vec<u8>>,
    /// Inodes with a name.
    named: HashSet<u64>,
    /// Names that are gone: directory and name.
    names: HashMap<u64, (u64, Vec<u8>)>,
    /// Older states, newest first, one for each generation.
    old: BTreeMap<u64, Vec<Old>>,
}

/// All of them, by number.
pub(super) fn all(fs: &Xfs) -> Result<Vec<Lost>, ReadError> {
    let mut known = live(fs)?;
    from_log(fs, &mut known);
    in_free_space(fs, &mut known);
    let mut numbers: Vec<u64> = known.old.keys().copied().collect();
    for group in 0..fs.disk.groups_there() {
        for (first, chunk) in &fs.groups.get(&fs.disk, group).chunks {
            let there = (0..super::group::CHUNK).filter(|bit| chunk.holes >> bit & 1 == 0);
            let there = there.map(|bit| fs.disk.sb.inode_of(group, first.saturating_add(bit)));
            let on_volume = |at: u64| at < fs.disk.volume.len();
            numbers.extend(there.filter(|number| fs.disk.sb.place_of(*number).is_some_and(|(_, _, at)| on_volume(at))));
        }
    }
    numbers.sort_unstable();
    numbers.dedup();
    let mut lost = Vec::new();
    for number in numbers {
        states(fs, &known, number, &mut lost);
    }
    Ok(lost)
}

/// What of one number is lost.
fn states(fs: &Xfs, known: &Known, number: u64, lost: &mut Vec<Lost>) {
    let now = fs.inode(number).ok();
    let mut told = HashSet::new();
    if let Some(now) = now.as_ref().filter(|now| now.node.allocated) {
        told.insert(now.node.generation);
        if !known.named.contains(&number) && !now.is_metadata && !fs.disk.sb.own_inodes.contains(&number) {
            lost.push(one(fs, known, now, State::Orphan, "inode".to_owned()));
        }
    }
    for Old { inode, source } in known.old.get(&number).map(Vec::as_slice).unwrap_or_default() {
        if told.insert(inode.node.generation) {
            lost.push(one(fs, known, inode, State::Deleted, source.clone()));
        }
    }
    let Some(now) = now.filter(|now| !now.node.allocated) else { return };
    // A generation ends with the inode: what is free already has the next one.
    if told.contains(&now.node.generation) || told.contains(&now.node.generation.wrapping_sub(1)) {
        return;
    }
    if let Some(left) = left_in_place(fs, now) {
        lost.push(one(fs, known, &left, State::Deleted, "inode".to_owned()));
    }
}

/// A freed inode with the extents that are still in its room, if there are some.
fn left_in_place(fs: &Xfs, mut inode: Inode) -> Option<Inode> {
    let fields = Fields::new("xfs extents in an inode", 0, &inode.literal);
    let (mut count, mut end) = (0, 0);
    while let Ok(Some(run)) = map::extent(&fs.disk, &fields, count * RECORD) {
        if run.logical < end {
            break;
        }
        end = run.logical.saturating_add(run.len);
        count += 1;
    }
    if count == 0 {
        return None;
    }
    inode.data = Fork { format: EXTENTS, extents: count as u64, bytes: inode.literal.clone() };
    inode.attr = None;
    inode.node.size = end.saturating_mul(fs.disk.sb.block_size).min(super::LONGEST);
    inode.node.odd.push("its size is gone: what is shown ends with its last block".to_owned());
    Some(inode)
}

/// What is there now: paths, names, and what is left of names.
fn live(fs: &Xfs) -> Result<Known, ReadError> {
    let mut known = Known::default();
    let root = fs.disk.sb.root;
    known.paths.insert(root, Vec::new());
    known.named.insert(root);
    let mut numbers = HashMap::from([(Vec::new(), root)]);
    let how = How { recursive: true, deleted: true };
    walk::walk::<ReadError>(fs, (root, b"/"), how, &mut |_| {}, &mut |found| {
        let number = found.entry.inode;
        if found.entry.state == State::Allocated {
            known.named.insert(number);
            if found.node.is_ok_and(|node| node.kind == Some(FileKind::Directory)) {
                numbers.entry(found.path.clone()).or_insert(number);
                known.paths.entry(number).or_insert(found.path);
            }
        } else {
            let cut = found.path.len().saturating_sub(found.entry.name.len() + 1);
            // A directory comes before what is in it.
            let parent = numbers.get(found.path.get(..cut).unwrap_or_default()).copied().unwrap_or(root);
            known.names.entry(number).or_insert((parent, found.entry.name));
        }
        Ok(())
    })?;
    Ok(known)
}

/// Older states of inodes, and names in directories that stood in their inodes.
fn from_log(fs: &Xfs, known: &mut Known) {
    let Ok(log) = super::Log::open(&fs.disk) else { return };
    let mut assembly = Assembly::default();
    // Oldest first; a record that cannot be read is one that tells nothing.
    let _ = log.history(&mut |record| {
        let done = assembly.add(record, &mut |transaction| {
            for item in transaction.items.iter().filter(|item| item.kind() == INODE) {
                learn(fs, item, transaction.lsn, known);
            }
            Ok(())
        });
        drop(done);
        Ok(())
    });
}

/// What a transaction changed, item by item.
pub(super) fn tell(
    fs: &Xfs,
    transaction: &Transaction,
    each: &mut dyn FnMut(Change) -> Result<(), ReadError>,
) -> Result<(), ReadError> {
    for item in &transaction.items {
        let mut change = item.change(transaction.at, transaction.lsn, fs.disk.sb.block_size);
        if let (INODE, Ok(Some(mut raw))) = (item.kind(), core::fixed(item)) {
            raw.resize(fs.disk.sb.inode_size, 0);
            if let Ok(Inode { node, .. }) = Inode::parse(&fs.disk, change.inode.unwrap_or(0), 0, &raw) {
                change.time = node.times.changed;
                let kind = node.kind.map_or("free", FileKind::name);
                change.note = format!("{kind}, {} bytes, {} names; {}", node.size, node.links, change.note);
            }
        }
        each(change)?;
    }
    Ok(())
}

/// One inode as a transaction left it.
fn learn(fs: &Xfs, item: &Item, lsn: u64, known: &mut Known) -> Option<()> {
    let number = item.head().u64(16).ok()?;
    let mut raw = core::fixed(item).ok()??;
    raw.resize(fs.disk.sb.inode_size, 0);
    let (format, bytes) = core::data_fork(item).unwrap_or((raw.get(5).copied()?, &[]));
    let head = if raw.get(4) == Some(&3) { 176 } else { 100 };
    let mut inode = Inode::parse(&fs.disk, number, 0, &raw).ok()?;
    inode.node.odd.clear();
    let room = raw.len().saturating_sub(head);
    let states = known.old.get(&number);
    let same = |old: &&Old| old.inode.node.generation == inode.node.generation;
    // What did not change is not in the log: an earlier item, or the place itself, has it.
    let before = states.and_then(|states| states.iter().find(same)).map(|old| old.inode.data.clone());
    inode.attr = None;
    inode.data = if bytes.is_empty() {
        let mut before = before.or_else(|| at_its_place(fs, number, &inode))?;
        (before.format, before.extents) = (format, inode.data.extents);
        before
    } else {
        Fork { format, extents: inode.data.extents, bytes: bytes.get(..bytes.len().min(room))?.to_vec() }
    };
    inode.literal.clone_from(&inode.data.bytes);
    if inode.node.kind == Some(FileKind::Directory) && format == LOCAL {
        names(fs, &inode, known);
    }
    // An unlinked file is emptied step by step; the last state with content is the one that is wanted.
    let useful = inode.node.kind.is_some() && (inode.node.links > 0 || inode.node.size > 0 && inode.data.extents > 0);
    if useful && (known.old.len() < MOST || known.old.contains_key(&number)) {
        let states = known.old.entry(number).or_default();
        states.retain(|old| old.inode.node.generation != inode.node.generation);
        states.insert(0, Old { inode, source: format!("log record {}:{}", lsn >> 32, lsn & 0xffff_ffff) });
    }
    Some(())
}

/// The data fork on the volume, if the inode there is still of this generation.
fn at_its_place(fs: &Xfs, number: u64, inode: &Inode) -> Option<Fork> {
    let there = fs.inode(number).ok()?;
    (there.node.generation == inode.node.generation).then_some(there.data)
}

fn names(fs: &Xfs, inode: &Inode, known: &mut Known) {
    let mut listing = Listing::default();
    let reader = super::Reader::new(&fs.disk, inode.node.inode, false);
    if let Some(Ok(used)) = inode.local() {
        reader.short(used, &inode.data.bytes, &mut listing);
    }
    for entry in listing.entries {
        known.names.insert(entry.inode, (inode.node.inode, entry.name));
    }
}

/// Inodes in blocks that are free now: from version 5 on they say themselves who they are.
fn in_free_space(fs: &Xfs, known: &mut Known) {
    let (sb, size) = (&fs.disk.sb, fs.disk.sb.inode_size);
    if !sb.v5 {
        return;
    }
    for group in 0..fs.disk.groups_there() {
        let groups = fs.groups.get(&fs.disk, group);
        for (first, len) in groups.free_ranges() {
            let (mut block, end) = (first, first.saturating_add(len).min(sb.ag_len(group)));
            while block < end {
                let at = sb.linear(group, block).saturating_mul(sb.block_size);
                let Ok(extent) = fs.disk.volume.extent(at) else { break };
                if extent.kind == Kind::Data {
                    carve(fs, group, block, at, size, known);
                    block += 1;
                } else {
                    let skip = (extent.len / sb.block_size).max(1);
                    block = block.saturating_add(u32::try_from(skip).unwrap_or(u32::MAX));
                }
            }
        }
    }
}

fn carve(fs: &Xfs, group: u32, block: u32, at: u64, size: usize, known: &mut Known) {
    let sb = &fs.disk.sb;
    let mut magic = [0; 2];
    if fs.disk.volume.read_at(at, &mut magic).is_err() || &magic != b"IN" {
        return;
    }
    let Ok(bytes) = read_vec(fs.disk.volume.as_ref(), at, sb.block_len()) else { return };
    for (slot, raw) in (0_u32..).zip(bytes.chunks(size)) {
        let inside = (block << sb.inode_log).saturating_add(slot);
        let number = sb.inode_of(group, inside);
        let Ok(inode) = Inode::parse(&fs.disk, number, at, raw) else { continue };
        if inode.node.odd.is_empty() && inode.node.kind.is_some() && known.old.len() < MOST {
            let states = known.old.entry(number).or_default();
            if !states.iter().any(|old| old.inode.node.generation == inode.node.generation) {
                states.push(Old { inode, source: "inode in free space".to_owned() });
            }
        }
    }
}

/// The path that an inode had.
fn path_of(known: &Known, number: u64) -> Option<Vec<u8>> {
    let (mut directory, name) = known.names.get(&number).map(|(directory, name)| (*directory, name.clone()))?;
    let mut below = name;
    for _ in 0..DEEP {
        if let Some(path) = known.paths.get(&directory) {
            return Some(join(path, &below));
        }
        let Some((parent, name)) = known.names.get(&directory) else {
            return Some(join(format!("/#{directory}").as_bytes(), &below));
        };
        below = join(name, &below);
        directory = *parent;
    }
    Some(join(b"/#deep", &below))
}

fn one(fs: &Xfs, known: &Known, inode: &Inode, state: State, source: String) -> Lost {
    let path = path_of(known, inode.node.inode);
    let mut node = inode.node.clone();
    node.allocated = state == State::Orphan;
    let kept = matches!(inode.data.format, LOCAL | EXTENTS | BTREE)
        && matches!(node.kind, None | Some(FileKind::File | FileKind::Directory | FileKind::Link));
    if !kept || inode.data.format == LOCAL {
        let local =
            inode.local().and_then(Result::ok).map(|local| Arc::new(InMemory(local.to_vec())) as Arc<dyn ReadAt>);
        let (confidence, runs) = (Confidence::Whole, Vec::new());
        return Lost { path, node, state, source, confidence, blocks: 0, reused: 0, runs, content: local };
    }
    let map = if inode.realtime { Map::default() } else { map::of(&fs.disk, &inode.data) };
    let used = |range: std::ops::Range<u64>| {
        let len = range.end - range.start;
        fs.used(range).unwrap_or(len)
    };
    let (blocks, reused) = if state == State::Orphan { (map.blocks(), 0) } else { map.books(fs.disk.sb.blocks, used) };
    let sparse = node.size > 0 && inode.data.extents > 0;
    let confidence = map.confidence((blocks, reused), sparse);
    let runs = map.runs.clone();
    let content =
        (confidence != Confidence::NoMap).then(|| map.content(&fs.disk.volume, fs.disk.sb.block_size, node.size, true));
    Lost { path, node, state, source, confidence, blocks, reused, runs, content }
}
