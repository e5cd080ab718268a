//! Which clusters a file has: as the table tells, or, for a deleted one whose chain is gone, as it most likely was.
//!
//! Deleting a file frees its chain, and only the first cluster and the length stay in the entry. Files are mostly written in
//! one piece, or around what was in the way: from the first cluster on, the clusters that are free now are taken until
//! there are enough. If the first one itself was given away, so were probably the next ones: then what is there
//! now is taken as it stands. exFAT says of most files that they are in one piece, and leaves the chains of others as they were.

use super::Volume;
use super::record::Record;
use super::table::{Chain, Span};
use crate::disk::fs::{FileKind, Run};

/// The most pieces that a deleted file is thought to have been in.
const PIECES: usize = 1 << 12;

impl Volume {
    /// Clusters that a length needs, at most all.
    fn need(&self, size: u64) -> u64 {
        size.div_ceil(self.shape.cluster()).min(u64::from(self.shape.clusters))
    }

    /// The clusters of a file, or of a directory.
    pub(super) fn clusters_of(&self, record: &Record) -> Chain {
        let directory = record.kind == FileKind::Directory;
        if record.first == 0 {
            let odd =
                (record.size > 0 && !directory && record.at != 0).then(|| "nothing says where it begins".to_owned());
            return Chain { odd, ..Chain::default() };
        }
        if record.contiguous {
            return self.piece(record.first, self.need(record.size));
        }
        if record.live {
            return self.table.chain(record.first, u64::MAX);
        }
        let need = if directory && !self.dialect.sized { 1 } else { self.need(record.size) };
        if self.dialect.sized {
            let chain = self.table.chain(record.first, need.saturating_add(1));
            if chain.odd.is_none() && chain.len == need {
                return chain;
            }
        }
        self.guess(record.first, need)
    }

    /// Clusters one after the other.
    fn piece(&self, first: u32, need: u64) -> Chain {
        if !self.shape.has(first) {
            let odd = Some(format!("it begins at cluster {first}, and there are {}", self.shape.clusters));
            return Chain { odd, ..Chain::default() };
        }
        let there = u64::from(self.shape.clusters) + 2 - u64::from(first);
        let len = need.min(there);
        let odd = (len < need).then(|| "it goes on behind the last cluster".to_owned());
        let spans = vec![Span { first, len: u32::try_from(len).unwrap_or(u32::MAX) }];
        Chain { spans, len, odd }
    }

    /// See the module.
    fn guess(&self, first: u32, need: u64) -> Chain {
        let straight = self.piece(first, need);
        if self.used.has(first) || self.reused(&straight) == 0 {
            return straight;
        }
        let mut chain = Chain::default();
        for cluster in first..self.shape.clusters.saturating_add(2) {
            if chain.len == need || chain.spans.len() > PIECES {
                break;
            }
            if !self.used.has(cluster) {
                chain.push(cluster);
            }
        }
        if chain.len < need {
            chain.odd = Some("not enough clusters are free behind its first one".to_owned());
        }
        chain
    }

    /// Of these clusters, in use now.
    pub(super) fn reused(&self, chain: &Chain) -> u64 {
        chain.spans.iter().map(|span| u64::from(self.used.count(span.first, span.len))).sum()
    }

    /// Of the clusters that a deleted file would have in one piece: how many, and how many are in use now.
    pub(super) fn straight(&self, record: &Record) -> (u64, u64) {
        let chain = self.piece(record.first, self.need(record.size));
        (chain.len, self.reused(&chain))
    }

    /// Length of a directory.
    pub(super) fn length_of(&self, record: &Record, chain: &Chain) -> u64 {
        match &self.root.1 {
            Some(run) if record.at == 0 => run.len * self.shape.sector,
            _ if self.dialect.sized && record.at != 0 => record.size,
            _ => chain.len.saturating_mul(self.shape.cluster()),
        }
    }

    /// As runs of sectors. What was never written is set apart.
    pub(super) fn runs_of(&self, record: &Record, chain: &Chain) -> Vec<Run> {
        if let Some(run) = self.root.1.filter(|_| record.at == 0) {
            return vec![run];
        }
        let per = self.shape.per_cluster;
        let written = if record.valid < record.size { record.valid.div_ceil(self.shape.sector) } else { u64::MAX };
        let (mut logical, mut runs) = (0, Vec::new());
        for span in &chain.spans {
            let (len, physical) = (u64::from(span.len) * per, self.shape.sector_of(span.first));
            let data = written.saturating_sub(logical).min(len);
            if data > 0 {
                runs.push(Run { logical, len: data, physical, unwritten: false });
            }
            if data < len {
                let (logical, physical) = (logical + data, physical + data);
                runs.push(Run { logical, len: len - data, physical, unwritten: true });
            }
            logical += len;
        }
        runs
    }

    /// Runs of a directory that is there, as far as they are its own.
    pub(super) fn own_runs(&self, record: &Record) -> Vec<Run> {
        let runs = self.runs_of(record, &self.clusters_of(record));
        let own = self.audit().cut.get(&record.at).map_or(u64::MAX, |own| own.saturating_mul(self.shape.per_cluster));
        front(&runs, own)
    }
}

/// The first `len` sectors of runs.
pub(super) fn front(runs: &[Run], len: u64) -> Vec<Run> {
    let cut = |run: &Run| Run { len: run.len.min(len.saturating_sub(run.logical)), ..*run };
    runs.iter().map(cut).filter(|run| run.len > 0).collect()
}
