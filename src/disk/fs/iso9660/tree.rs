//! One walk over all trees: which blocks are in use, and which directories have the blocks of another.
//!
//! Records are hostile: a directory whose blocks belong to one that came before is listed there only, so that the walk ends
//! and takes no longer than the volume is large.

use std::collections::{HashMap, HashSet, VecDeque};

use super::descriptor::Disc;
use super::record::Record;
use super::{Tree, descriptor};
use crate::disk::fs::FileKind;

/// See the module.
#[derive(Default)]
pub(super) struct Books {
    /// Ranges of blocks that are in use, in order and apart.
    used: Vec<(u64, u64)>,
    /// Directories that are listed elsewhere, and where.
    pub(super) shared: HashMap<u64, u64>,
}

impl Books {
    pub(super) fn of(tree: &Tree, others: &[Tree], disc: &Disc) -> Self {
        let mut this = Self::default();
        let per = descriptor::SECTOR / tree.block;
        this.used.push((0, disc.end * per));
        let descriptors = std::iter::once(&disc.primary).chain(&disc.joliet);
        for one in descriptors {
            let (block, len) = one.path_table;
            this.used.push((u64::from(block), u64::from(block) + u64::from(len).div_ceil(one.block)));
        }
        if let Some(catalog) = disc.catalog {
            this.used.push((u64::from(catalog) * per, (u64::from(catalog) + 1) * per));
        }
        this.shared = each(tree, &mut |_, record| this.claim(tree, record));
        for other in others {
            each(other, &mut |_, record| this.claim(other, record));
        }
        this.merge();
        this
    }

    fn claim(&mut self, tree: &Tree, record: &Record) {
        // One range for each section: what lies in the gaps of an interleaved file is most likely another such file.
        for part in &record.parts {
            self.used.push(tree.range(part));
        }
    }

    fn merge(&mut self) {
        self.used.sort_unstable();
        let mut merged: Vec<(u64, u64)> = Vec::new();
        for (from, to) in std::mem::take(&mut self.used) {
            match merged.last_mut() {
                Some(last) if from <= last.1 => last.1 = last.1.max(to),
                _ => merged.push((from, to)),
            }
        }
        self.used = merged;
    }

    pub(super) fn in_use(&self, block: u64) -> bool {
        let behind = self.used.partition_point(|(from, _)| *from <= block);
        behind.checked_sub(1).and_then(|index| self.used.get(index)).is_some_and(|(_, to)| block < *to)
    }
}

/// Hands out every file of a tree with its path, the root first; gives the directories that have the blocks of another, and
/// whose.
pub(super) fn each(tree: &Tree, take: &mut dyn FnMut(&[u8], &Record)) -> HashMap<u64, u64> {
    let (mut shared, mut owner, mut seen) = (HashMap::new(), HashMap::new(), HashSet::new());
    let mut waiting = VecDeque::from([(Vec::new(), tree.root)]);
    while let Some((path, at)) = waiting.pop_front() {
        let Ok(record) = tree.file(at) else { continue };
        take(&path, &record);
        if !seen.insert(at) || !own(tree, &record, &mut owner, &mut shared) {
            continue;
        }
        for below in tree.list(&record, &mut Vec::new()) {
            let path = crate::disk::walk::join(&path, &below.name);
            if below.kind() == FileKind::Directory {
                waiting.push_back((path, below.at));
            } else {
                take(&path, &below);
            }
        }
    }
    shared
}

/// Takes the blocks of a directory; false if one of them is another's.
fn own(tree: &Tree, record: &Record, owner: &mut HashMap<u64, u64>, shared: &mut HashMap<u64, u64>) -> bool {
    let end = tree.volume.len() / tree.block;
    for run in tree.runs(record) {
        for block in run.physical..run.physical.saturating_add(run.len).min(end) {
            if let Some(other) = owner.get(&block) {
                shared.insert(record.at, *other);
                return false;
            }
            owner.insert(block, record.at);
        }
    }
    true
}
