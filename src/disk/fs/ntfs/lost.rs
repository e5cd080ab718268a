//! Files that are no longer there: records of $MFT that are not in use, files in use that no directory names, and names in
//! the slack of directories whose record is another file's by now.
//!
//! A record that is given up keeps its names, times and map until it is given out again. Its path is that of its parents,
//! as far as they are still the ones it means: `/#12-3/name` has lost its parent, record 12 in its third use. Whether
//! content is still its own is asked of $Bitmap: a cluster that is free now may have been used in between, which nothing
//! here can tell.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::attribute::{Attribute, Value};
use super::index::Named;
use super::info::FileName;
use super::mft::File;
use super::record::{Record, Reference};
use super::{Ntfs, ROOT, node};
use crate::disk::fs::{Confidence, FileKind, Lost, Node, State};
use crate::image::{ReadAt, ReadError};

/// The most names up to the root.
const DEEP: usize = 256;
/// Records before this one are the file system's own, and some of them have no name.
const FIRST: u64 = 24;

/// A directory, in use or not.
struct Directory {
    reference: Reference,
    parent: Reference,
    name: Vec<u8>,
}

/// What one pass over $MFT finds.
#[derive(Default)]
struct Known {
    directories: BTreeMap<u64, Directory>,
    /// Of each record the sequence number, if a file begins there that is in use and has not been met by name; else 0.
    unnamed: Vec<u16>,
    /// Files that are not in use.
    dead: Vec<u64>,
    /// Of each record the sequence number of names that lead to the file that it holds, or held last; 0 for none.
    sequences: Vec<u16>,
    /// Parents and names of the dead, for slack that has lost the reference.
    names: HashSet<(u64, Vec<u8>)>,
    /// Records that cannot be read, and why.
    broken: Vec<(u64, ReadError)>,
}

/// All of them, by number.
pub(super) fn all(ntfs: &Ntfs) -> Result<Vec<Lost>, ReadError> {
    let mut known = scan(ntfs);
    let slack = names(ntfs, &mut known);
    let orphans = (FIRST..).zip(known.unnamed.iter().skip(crate::disk::us(FIRST)));
    let orphans: Vec<u64> = orphans.filter(|(_, sequence)| **sequence != 0).map(|(number, _)| number).collect();
    let mut lost = Vec::new();
    for (numbers, state) in [(&known.dead, State::Deleted), (&orphans, State::Orphan)] {
        for number in numbers {
            let file = ntfs.mft.file(*number)?;
            lost.extend(of_file(ntfs, &known, &file, state));
        }
    }
    lost.extend(slack.iter().map(|one| of_name(&known, one)));
    lost.extend(known.broken.iter().map(|(number, error)| of_damage(*number, error)));
    lost.sort_by(|one, other| (one.node.inode, &one.path).cmp(&(other.node.inode, &other.path)));
    Ok(lost)
}

/// The name that tells most: a long one.
fn best(file: &File) -> Option<FileName> {
    file.names().find(|name| !name.is_dos()).or_else(|| file.names().next())
}

fn scan(ntfs: &Ntfs) -> Known {
    let mut known = Known::default();
    for number in 0..ntfs.mft.len() {
        known.unnamed.push(0);
        known.sequences.push(0);
        match ntfs.mft.used(number) {
            Ok(Some(record)) if record.base.number == 0 && record.base.sequence == 0 => {
                known.add(ntfs, record);
            }
            Ok(_) => {}
            Err(error) => known.broken.push((number, error)),
        }
    }
    known
}

impl Known {
    fn add(&mut self, ntfs: &Ntfs, record: Record) {
        let (number, reference, in_use) = (record.number, record.reference(), record.in_use());
        let directory = record.is_directory();
        if let Some(last) = self.unnamed.last_mut().filter(|_| in_use) {
            *last = reference.sequence;
        }
        if let Some(last) = self.sequences.last_mut() {
            *last = reference.sequence;
        }
        if in_use && !directory {
            return;
        }
        let file = ntfs.mft.gather(record);
        let name = best(&file);
        // Records that are kept ready have never been a file.
        if !in_use && !file.attributes.is_empty() && (name.is_some() || number >= FIRST) {
            self.dead.push(number);
            self.names.extend(name.iter().map(|name| (name.parent.number, name.name.clone())));
        }
        if let Some(FileName { parent, name, .. }) = name.filter(|_| directory) {
            self.directories.insert(number, Directory { reference, parent, name });
        }
    }

    /// The path of a name, as far as it can be followed.
    fn path(&self, name: &FileName) -> Vec<u8> {
        let (mut parts, mut at) = (vec![name.name.clone()], name.parent);
        while at.number != ROOT {
            let parent = self.directories.get(&at.number);
            let Some(parent) = parent.filter(|parent| parent.reference == at && parts.len() < DEEP) else {
                parts.push(format!("#{at}").into_bytes());
                break;
            };
            parts.push(parent.name.clone());
            at = parent.parent;
        }
        parts.iter().rev().flat_map(|part| [b"/", part.as_slice()].concat()).collect()
    }
}

/// Looks through all directories: strikes out the files that have a name, and gives the names that lead nowhere.
fn names(ntfs: &Ntfs, known: &mut Known) -> Vec<Named> {
    let mut slack = Vec::new();
    let numbers: Vec<u64> = known.directories.keys().copied().collect();
    for number in numbers {
        // What cannot be read of a directory is said where it is listed.
        let Ok(index) = ntfs.mft.file(number).and_then(|file| ntfs.index(&file, true)) else { continue };
        for reference in index.live.iter().filter_map(|one| one.reference) {
            if let Some(unnamed) = known.unnamed.get_mut(crate::disk::us(reference.number))
                && *unnamed == reference.sequence
            {
                *unnamed = 0;
            }
        }
        slack.extend(index.deleted.into_iter().filter(|one| match one.reference {
            Some(it) => known.sequences.get(crate::disk::us(it.number)) != Some(&it.sequence),
            None => !known.names.contains(&(number, one.name.name.clone())),
        }));
    }
    slack
}

/// A file and its streams.
fn of_file(ntfs: &Ntfs, known: &Known, file: &File, state: State) -> Vec<Lost> {
    let path = best(file).map(|name| known.path(&name));
    let mut node = node::node(file);
    node.allocated = state == State::Orphan;
    let content = match ntfs.content_of(file) {
        _ if node.kind == Some(FileKind::Directory) => None,
        Ok(content) => Some(content),
        Err(error) => {
            node.odd.push(error.to_string());
            None
        }
    };
    let streams: Vec<_> = node::streams(file).collect();
    let rest = streams.into_iter().map(|stream| {
        let path = path.as_ref().map(|path| [path.as_slice(), b":", &stream.name].concat());
        let node = Node { kind: Some(FileKind::File), size: stream.size(), ..node.clone() };
        one(ntfs, (path, node, state), Some(stream), Some(ntfs.stream_of(stream)))
    });
    let rest: Vec<_> = rest.collect();
    std::iter::once(one(ntfs, (path, node, state), file.main(), content)).chain(rest).collect()
}

fn one(
    ntfs: &Ntfs,
    (path, node, state): (Option<Vec<u8>>, Node, State),
    value: Option<&Attribute>,
    content: Option<Arc<dyn ReadAt>>,
) -> Lost {
    let (mut blocks, mut reused) = (0_u64, 0_u64);
    let mut map = value.is_some();
    let mut whole = true;
    if let Some(Attribute { value: Value::Mapped(mapping), .. }) = value {
        for run in &mapping.runs {
            blocks = blocks.saturating_add(run.len);
            reused = reused.saturating_add(ntfs.bitmap.used(run.physical, run.len));
        }
        whole = mapping.damaged.is_none();
        map = whole || blocks > 0;
    }
    if state == State::Orphan {
        reused = 0;
    }
    let confidence = match (blocks, reused) {
        _ if !map => Confidence::NoMap,
        (_, 0) if whole => Confidence::Whole,
        (blocks, reused) if blocks == reused => Confidence::Reused,
        _ => Confidence::Part,
    };
    let content = content.filter(|_| map);
    let runs = match value.map(|attribute| &attribute.value) {
        Some(Value::Mapped(mapping)) => mapping.runs.clone(),
        _ => Vec::new(),
    };
    Lost { path, node, state, source: "$MFT".to_owned(), confidence, blocks, reused, runs, content }
}

/// A name of which the record is another file's by now: the directory still has its times and length.
fn of_name(known: &Known, one: &Named) -> Lost {
    let kind = if one.name.is_directory() { FileKind::Directory } else { FileKind::File };
    let node = Node {
        inode: one.reference.map_or(0, |reference| reference.number),
        generation: one.reference.map_or(0, |reference| u32::from(reference.sequence)),
        size: one.name.size,
        times: one.name.times,
        links: 1,
        ..nothing(Some(kind))
    };
    let path = Some(known.path(&one.name));
    let source = one.source.to_owned();
    Lost {
        path,
        node,
        state: State::Deleted,
        source,
        confidence: Confidence::NoMap,
        blocks: 0,
        reused: 0,
        runs: Vec::new(),
        content: None,
    }
}

/// A record that cannot be read: in use or not, nobody knows.
fn of_damage(number: u64, error: &ReadError) -> Lost {
    let node = Node { inode: number, odd: vec![error.to_string()], ..nothing(None) };
    let source = "$MFT".to_owned();
    let (state, confidence) = (State::Orphan, Confidence::NoMap);
    Lost { path: None, node, state, source, confidence, blocks: 0, reused: 0, runs: Vec::new(), content: None }
}

fn nothing(kind: Option<FileKind>) -> Node {
    Node {
        inode: 0,
        generation: 0,
        kind,
        mode: 0,
        uid: 0,
        gid: 0,
        size: 0,
        links: 0,
        times: crate::disk::fs::Times::default(),
        allocated: false,
        facts: Vec::new(),
        odd: Vec::new(),
    }
}
