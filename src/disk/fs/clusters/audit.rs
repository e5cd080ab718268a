//! One walk over all that is there: who owns which cluster.
//!
//! Directories come in the order of their depth, and who comes first owns. So every cluster of a directory is read for one
//! directory only, however entries point at each other, and a listing of everything takes no longer than the volume is large.

use std::collections::{HashMap, VecDeque};

use super::Volume;
use super::bits::Bits;
use super::map::front;
use super::record::Record;
use super::table::{Chain, Link};
use crate::disk::fs::FileKind;

/// See the module.
pub(in crate::disk::fs) struct Audit {
    /// Of files and directories that run into what belongs to another, by the place of their entry: clusters that are theirs.
    pub(super) cut: HashMap<u64, u64>,
    /// Clusters that somebody owns.
    pub(super) owned: Bits,
    /// The first clusters of chains that nobody owns.
    pub(super) heads: Vec<u32>,
    files: u64,
    directories: u64,
    lost: u64,
}

impl Audit {
    pub(super) fn of(volume: &Volume) -> Self {
        let owned = Bits::new(u64::from(volume.shape.clusters) + 2);
        let mut this = Self { cut: HashMap::new(), owned, heads: Vec::new(), files: 0, directories: 0, lost: 0 };
        for chain in &volume.system {
            this.own(0, chain);
        }
        let mut waiting = VecDeque::from([volume.root.0.clone()]);
        while let Some(record) = waiting.pop_front() {
            let chain = volume.clusters_of(&record);
            let own = this.own(record.at, &chain);
            if record.kind != FileKind::Directory {
                this.files += 1;
                continue;
            }
            this.directories += 1;
            let runs = volume.runs_of(&record, &chain);
            let mut below =
                volume.read_directory(&front(&runs, own.saturating_mul(volume.shape.per_cluster)), false).list;
            below.retain(|one| one.live);
            // Files need no place in the queue, so that it stays short.
            for file in below.iter().filter(|one| one.kind != FileKind::Directory) {
                this.own(file.at, &volume.clusters_of(file));
                this.files += 1;
            }
            waiting.extend(below.into_iter().filter(|one| one.kind == FileKind::Directory).map(without_name));
        }
        this.find_heads(volume);
        this
    }

    /// Takes the clusters for the entry at `at` up to the first that is taken already; gives their number. The root
    /// outside the clusters has none to take, and all of it is its own.
    fn own(&mut self, at: u64, chain: &Chain) -> u64 {
        let mut own = 0;
        for cluster in chain.clusters() {
            if !self.owned.set(cluster) {
                self.cut.insert(at, own);
                return own;
            }
            own += 1;
        }
        if chain.len == 0 && at == 0 { u64::MAX } else { own }
    }

    fn find_heads(&mut self, volume: &Volume) {
        let mut before = false;
        for cluster in 2..volume.shape.clusters.saturating_add(2) {
            let lost = volume.used.has(cluster) && !self.owned.has(cluster);
            self.lost += u64::from(lost);
            // A bitmap knows no chains: there a run of clusters is one.
            let head = if volume.dialect.sized { !before } else { !volume.pointed.has(cluster) };
            let bad = matches!(volume.table.get(cluster), Ok(Link::Bad) | Err(_));
            if lost && head && !bad {
                self.heads.push(cluster);
            }
            before = lost;
        }
    }

    pub(super) fn facts(&self) -> Vec<(String, String)> {
        let fact = |name: &str, value: u64| (name.to_owned(), value.to_string());
        vec![
            fact("files", self.files),
            fact("directories", self.directories),
            fact("cross-linked files", self.cut.len() as u64),
            fact("clusters in use without an owner", self.lost),
        ]
    }
}

fn without_name(mut record: Record) -> Record {
    (record.name, record.facts, record.odd) = (Vec::new(), Vec::new(), Vec::new());
    record
}
