//! Files that are no longer there: entries that were deleted, what stands in deleted directories, directories in free
//! clusters that nothing leads to, and chains in use that no entry owns.
//!
//! Whether content is still its own is asked of the table or the bitmap. A cluster that is free now may have been used and
//! freed again in between, which nothing here can tell; two deleted files that claim the same cluster say so of each other.
//! Not found: what is left of a directory behind its first cluster, if that one was given away.

use std::collections::{HashMap, VecDeque};

use super::bits::Bits;
use super::record::{ENTRY, Record, Records};
use super::table::{Chain, Link};
use super::{Volume, root};
use crate::disk::fs::{Confidence, FileKind, Lost, Run, State};
use crate::disk::us;
use crate::disk::walk::join;
use crate::image::{Kind, read_vec};

/// The most pieces of content that are kept for all files together: what comes behind has no map.
const PIECES: usize = 1 << 20;
/// Bytes of a cluster that tell whether it begins a directory.
const HEAD: u64 = 1024;

/// A directory to read: its path, what it tells of itself, whether it is there.
struct Waiting {
    path: Vec<u8>,
    record: Record,
}

struct Search<'a> {
    volume: &'a Volume,
    lost: Vec<Lost>,
    /// The clusters of each.
    chains: Vec<Chain>,
    /// Paths of directories by their first cluster.
    paths: HashMap<u32, Vec<u8>>,
    /// Free clusters that were read as a directory.
    seen: Bits,
    pieces: usize,
}

/// All of them, by number.
pub(super) fn all(volume: &Volume) -> Vec<Lost> {
    let seen = Bits::new(u64::from(volume.shape.clusters) + 2);
    let mut search = Search { volume, lost: Vec::new(), chains: Vec::new(), paths: HashMap::new(), seen, pieces: 0 };
    search.live();
    search.unnamed();
    search.stray();
    search.overlaps();
    search.lost.sort_by_key(|lost| lost.node.inode);
    search.lost
}

impl Search<'_> {
    /// Deleted entries of directories that are there.
    fn live(&mut self) {
        let volume = self.volume;
        let mut waiting = VecDeque::from([Waiting { path: b"/".to_vec(), record: volume.root.0.clone() }]);
        while let Some(Waiting { path, record }) = waiting.pop_front() {
            self.paths.entry(record.first).or_insert_with(|| path.clone());
            let found = volume.read_directory(&volume.own_runs(&record), true);
            for record in found.list {
                let path = join(&path, &record.name);
                if !record.live {
                    self.take(path, record);
                } else if record.kind == FileKind::Directory {
                    waiting.push_back(Waiting { path, record });
                }
            }
        }
    }

    /// A deleted entry, and all below it.
    fn take(&mut self, path: Vec<u8>, record: Record) {
        let mut waiting = VecDeque::from([Waiting { path, record }]);
        while let Some(Waiting { path, mut record }) = waiting.pop_front() {
            record.live = false;
            let mut below = None;
            if record.kind == FileKind::Directory && record.first != 0 {
                below = Some(self.dig(&mut record));
            }
            for record in below.into_iter().flat_map(|(_, found)| found.list).filter(|record| record.at != 0) {
                waiting.push_back(Waiting { path: join(&path, &record.name), record });
            }
            self.put(Some(path), &record, State::Deleted);
        }
    }

    /// What stands in the clusters of a directory that is gone, as far as they still are one.
    fn dig(&mut self, record: &mut Record) -> (u64, Records) {
        self.raise(record);
        let most = if self.volume.dialect.sized { self.volume.clusters_of(record).len } else { u64::MAX };
        let (mut runs, mut cluster) = (Vec::new(), record.first);
        while (runs.len() as u64) < most && self.is_directory(cluster, runs.is_empty()) && self.seen.set(cluster) {
            let shape = self.volume.shape;
            let (logical, physical) = (runs.len() as u64 * shape.per_cluster, shape.at(cluster) / shape.sector);
            runs.push(Run { logical, len: shape.per_cluster, physical, unwritten: false });
            // Behind an entry that is zero, nothing follows.
            let last = self.volume.raw_entry(shape.at(cluster) + shape.cluster() - ENTRY);
            if last.is_ok_and(|raw| raw.first() == Some(&0)) {
                break;
            }
            cluster = cluster.saturating_add(1);
        }
        let clusters = runs.len() as u64;
        if !self.volume.dialect.sized {
            record.size = clusters.max(1).saturating_mul(self.volume.shape.cluster());
            record.valid = record.size;
        }
        (clusters, self.volume.read_directory(&runs, true))
    }

    /// Some drivers clear the upper half of the first cluster when they delete. A directory names its own first cluster, so
    /// that its upper half can be found again.
    fn raise(&self, record: &mut Record) {
        if self.volume.dialect.sized || record.first > 0xffff || self.is_directory(record.first, true) {
            return;
        }
        let halves = 1..=self.volume.shape.clusters >> 16;
        let mut fits = halves.map(|half| record.first | half << 16).filter(|cluster| self.is_directory(*cluster, true));
        if let (Some(first), None) = (fits.next(), fits.next()) {
            record.facts.push(("first cluster".to_owned(), format!("{first}; its upper half was cleared")));
            record.first = first;
        }
    }

    /// A free cluster that begins as a directory does, or goes on as one.
    fn is_directory(&self, cluster: u32, first: bool) -> bool {
        let shape = self.volume.shape;
        if !shape.has(cluster) || self.volume.used.has(cluster) {
            return false;
        }
        let head = read_vec(self.volume.bytes.as_ref(), shape.at(cluster), us(HEAD.min(shape.cluster())));
        head.is_ok_and(|head| (self.volume.dialect.begins)(shape, cluster, &head, first))
    }

    /// Directories in free clusters that nothing led to.
    fn stray(&mut self) {
        let (mut known, mut data) = (0, true);
        for cluster in 2..self.volume.shape.clusters.saturating_add(2) {
            let at = self.volume.shape.at(cluster);
            // Most of a sparse image was never written: nothing is looked for there.
            if at >= known {
                let here = self.volume.bytes.extent(at);
                known = here.as_ref().map_or(at + 1, crate::image::Extent::end);
                data = here.is_ok_and(|here| here.kind == Kind::Data);
            }
            let looked_at = self.volume.used.has(cluster) || self.seen.has(cluster);
            if !data || looked_at || !self.is_directory(cluster, true) {
                continue;
            }
            let mut record = root(cluster, self.volume.shape.cluster());
            record.at = at;
            record.source = "free cluster";
            record.contiguous = true;
            record.live = false;
            record.odd.push("no entry leads to it".to_owned());
            let name = format!("#{}", record.at / ENTRY);
            let above = self.above(cluster).unwrap_or_else(|| b"/".to_vec());
            self.take(join(&above, name.as_bytes()), record);
        }
    }

    /// The path of the directory that `..` in this one leads to. Only FAT has it.
    fn above(&self, cluster: u32) -> Option<Vec<u8>> {
        let raw = self.volume.raw_entry(self.volume.shape.at(cluster) + ENTRY).ok()?;
        let half = |at: usize| Some(u32::from(*raw.get(at)?) | u32::from(*raw.get(at + 1)?) << 8);
        let up = half(26)? | half(20)? << 16;
        if !raw.starts_with(b"..") || self.volume.dialect.sized {
            return None;
        }
        self.paths.get(&up).cloned()
    }

    /// Chains in use that no entry owns.
    fn unnamed(&mut self) {
        let volume = self.volume;
        for &first in &volume.audit().heads {
            let mut record = root(first, 0);
            record.at = volume.shape.at(first);
            record.kind = FileKind::File;
            record.source = "chain without an entry";
            let chain = self.owned_by_nobody(first);
            record.size = chain.len.saturating_mul(volume.shape.cluster());
            record.valid = record.size;
            self.put_chain(None, &record, State::Orphan, chain);
        }
    }

    fn owned_by_nobody(&self, first: u32) -> Chain {
        let (volume, mut chain) = (self.volume, Chain::default());
        let lost = |cluster| volume.used.has(cluster) && !volume.audit().owned.has(cluster);
        let mut here = first;
        while lost(here) && chain.len <= u64::from(volume.shape.clusters) {
            chain.push(here);
            here = match volume.table.get(here) {
                Ok(Link::Next(next)) if volume.shape.has(next) => next,
                Ok(Link::Free) if volume.dialect.sized => here.saturating_add(1),
                _ => break,
            };
        }
        chain
    }

    fn put(&mut self, path: Option<Vec<u8>>, record: &Record, state: State) {
        let chain = self.volume.clusters_of(record);
        self.put_chain(path, record, state, chain);
    }

    fn put_chain(&mut self, path: Option<Vec<u8>>, record: &Record, state: State, chain: Chain) {
        let volume = self.volume;
        let mut node = volume.node_of(record);
        node.allocated = state == State::Orphan;
        node.inode = record.at / ENTRY;
        if record.at == 0 {
            node.kind = None;
        }
        let (need, reused) = if state == State::Orphan { (chain.len, 0) } else { self.books(record, &chain) };
        let confidence = match (need, reused) {
            _ if chain.spans.is_empty() && (node.size > 0 || record.at == 0) => Confidence::NoMap,
            (_, 0) if chain.odd.is_none() => Confidence::Whole,
            (need, reused) if need == reused => Confidence::Reused,
            _ => Confidence::Part,
        };
        if state == State::Deleted && !record.contiguous && chain.len > 1 {
            node.facts.push(("map".to_owned(), how(volume, record, &chain)));
        }
        self.pieces += chain.spans.len();
        let known = confidence != Confidence::NoMap && self.pieces <= PIECES;
        let content = known.then(|| volume.content_along(record, &chain, node.size));
        let per = volume.shape.per_cluster;
        let (blocks, reused) = (need.saturating_mul(per), reused.saturating_mul(per));
        let source = record.source.to_owned();
        let runs = if known { volume.runs_of(record, &chain) } else { Vec::new() };
        self.lost.push(Lost { path, node, state, source, confidence, blocks, reused, runs, content });
        self.chains.push(chain);
    }

    /// Clusters of a deleted file, and how many of them are in use now.
    fn books(&self, record: &Record, chain: &Chain) -> (u64, u64) {
        let reused = self.volume.reused(chain);
        if reused > 0 || self.volume.dialect.sized {
            return (chain.len, reused);
        }
        // A guess that steps over others may be wrong just there.
        self.volume.straight(record)
    }

    /// Says which deleted files claim the same cluster.
    fn overlaps(&mut self) {
        let room = u64::from(self.volume.shape.clusters) + 2;
        let (mut once, mut twice) = (Bits::new(room), Bits::new(room));
        let mut left = room.saturating_mul(16);
        for cluster in self.chains.iter().flat_map(Chain::clusters) {
            if !once.set(cluster) {
                twice.set(cluster);
            }
            left -= 1;
            if left == 0 {
                break;
            }
        }
        for (lost, chain) in self.lost.iter_mut().zip(&self.chains) {
            let shared: u64 = chain.spans.iter().map(|span| u64::from(twice.count(span.first, span.len))).sum();
            if shared > 0 {
                lost.node.odd.push(format!("{shared} of its clusters are claimed by another deleted file as well"));
            }
        }
    }
}

/// How the map of a deleted file came about.
fn how(volume: &Volume, record: &Record, chain: &Chain) -> String {
    if volume.dialect.sized && volume.table.get(record.first).is_ok_and(|link| matches!(link, Link::Next(_))) {
        return "as the table still tells".to_owned();
    }
    let over = if chain.spans.len() > 1 { ", stepping over clusters in use" } else { "" };
    format!("guessed: from its first cluster on{over}")
}
