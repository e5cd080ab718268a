//! What FAT and exFAT share: clusters with a table of which follows which, and directories of 32-byte entries.
//!
//! A block is a sector, because clusters need not begin at a multiple of their size. Neither file system numbers its
//! files: the inode here is the place of a file's first directory entry on the volume in bytes, divided by 32, and the root
//! is [`ROOT`] (sector 0 holds no entry, so nothing else can have that number). It stays the same as long as the entry does.
//! Neither keeps owners or permissions, so a mode has its kind only.
//!
//! Directories are read once in full before the first is listed ([`audit`]): that finds clusters with two owners, and a
//! directory that another one runs into is listed by the first of them only.

mod audit;
pub(super) mod bits;
mod lost;
mod map;
pub(super) mod record;
pub(super) mod table;
mod written;

use std::sync::{Arc, OnceLock};

use super::content::Content;
use super::{Entry, FileKind, Filesystem, Listing, Lost, Node, Run, State, Times};
use crate::disk::us;
use crate::image::{ReadAt, ReadError, read_vec};
use audit::Audit;
use bits::Bits;
use record::{ENTRY, Reader, Record, Records};
use table::{Chain, Table};
use written::Written;

/// Number of the root directory.
pub(super) const ROOT: u64 = 2;
/// Entries of the longest set.
const SET: usize = 32;
/// Bytes of a directory that are read at a time: whole sectors of every size.
const PIECE: u64 = 1 << 16;

/// An entry and its place, or why a part of a directory cannot be read.
type Raw<'a> = Result<(u64, &'a [u8; 32]), String>;

/// Where things are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// Bytes of a sector.
    pub(super) sector: u64,
    /// Sectors of the volume.
    pub(super) sectors: u64,
    /// Sectors of a cluster.
    pub(super) per_cluster: u64,
    /// The sector of cluster 2.
    pub(super) heap: u64,
    /// Clusters, numbered from 2.
    pub(super) clusters: u32,
}

impl Shape {
    /// Bytes of a cluster.
    pub(super) fn cluster(&self) -> u64 {
        self.sector * self.per_cluster
    }

    /// Is there such a cluster?
    pub(super) fn has(&self, cluster: u32) -> bool {
        cluster >= 2 && cluster - 2 < self.clusters
    }

    /// The first sector of a cluster.
    fn sector_of(&self, cluster: u32) -> u64 {
        self.heap + u64::from(cluster.saturating_sub(2)) * self.per_cluster
    }

    /// The first byte of a cluster.
    pub(super) fn at(&self, cluster: u32) -> u64 {
        self.sector_of(cluster) * self.sector
    }

    /// The cluster that holds a byte of the volume.
    fn cluster_at(&self, at: u64) -> Option<u32> {
        let index = (at / self.sector).checked_sub(self.heap)? / self.per_cluster;
        u32::try_from(index).ok()?.checked_add(2).filter(|cluster| self.has(*cluster))
    }
}

/// What FAT and exFAT do not share.
pub(super) struct Dialect {
    pub(super) name: &'static str,
    /// A reader of directories, also for deleted entries if asked.
    pub(super) reader: fn(Shape, bool) -> Box<dyn Reader>,
    /// Does a cluster that begins so begin a directory, or (`false`) go on with one?
    pub(super) begins: fn(Shape, u32, &[u8], bool) -> bool,
    /// Directories say how long they are, and the table keeps the chains of deleted files.
    pub(super) sized: bool,
    /// The longest directory in bytes.
    pub(super) longest: u64,
}

/// See the module.
pub(super) struct Volume {
    pub(super) bytes: Arc<dyn ReadAt>,
    pub(super) shape: Shape,
    pub(super) table: Table,
    /// Clusters that are in use.
    pub(super) used: Bits,
    /// Clusters that another one leads to.
    pub(super) pointed: Bits,
    /// The root directory: its record, and the sectors it has if it lies outside the clusters.
    pub(super) root: (Record, Option<Run>),
    /// Clusters that belong to the file system itself.
    pub(super) system: Vec<Chain>,
    pub(super) dialect: &'static Dialect,
    pub(super) facts: Vec<(String, String)>,
    pub(super) odd: Vec<String>,
    pub(super) whole: bool,
    pub(super) audit: OnceLock<Audit>,
}

/// The record of a root directory.
pub(super) fn root(first: u32, size: u64) -> Record {
    Record {
        at: 0,
        name: Vec::new(),
        kind: FileKind::Directory,
        live: true,
        source: "boot sector",
        first,
        size,
        valid: size,
        contiguous: false,
        times: Times::default(),
        facts: Vec::new(),
        odd: Vec::new(),
    }
}

impl Volume {
    fn audit(&self) -> &Audit {
        self.audit.get_or_init(|| Audit::of(self))
    }

    /// What the entry with this number tells.
    fn record(&self, inode: u64) -> Result<Record, ReadError> {
        if inode == ROOT {
            return Ok(self.root.0.clone());
        }
        let at = inode.saturating_mul(ENTRY);
        let cluster = self.shape.cluster_at(at);
        let none = || ReadError::caller(format!("read inode {inode}"), "no entry of a directory stands there");
        if cluster.is_none() && !self.in_root_area(at) {
            return Err(none());
        }
        // An entry set may go on in another cluster: which, the table tells, or else it is the next one.
        let mut found = self.read_set(at, true)?;
        if found.as_ref().is_none_or(|found| !found.odd.is_empty()) {
            let other = self.read_set(at, false)?;
            found = other.filter(|other| other.odd.is_empty()).or(found);
        }
        let mut found = found.ok_or_else(none)?;
        // A directory that is gone leaves entries behind that look live.
        found.live &= cluster.is_none_or(|cluster| self.used.has(cluster));
        Ok(found)
    }

    fn in_root_area(&self, at: u64) -> bool {
        let sector = at / self.shape.sector;
        self.root.1.is_some_and(|run| (run.physical..run.physical.saturating_add(run.len)).contains(&sector))
    }

    /// Reads entries from `at` on until there is a record.
    fn read_set(&self, at: u64, by_table: bool) -> Result<Option<Record>, ReadError> {
        let mut reader = (self.dialect.reader)(self.shape, true);
        let (mut here, mut found) = (at, Records::default());
        for _ in 0..SET {
            let raw = self.raw_entry(here)?;
            reader.entry(here, &raw, &mut found);
            if let Some(record) = found.list.pop() {
                return Ok(Some(record).filter(|record| record.at == at));
            }
            let Some(next) = self.following(here, by_table) else { break };
            here = next;
        }
        reader.cut(&mut found);
        Ok(found.list.pop().filter(|record| record.at == at))
    }

    fn raw_entry(&self, at: u64) -> Result<[u8; 32], ReadError> {
        let mut raw = [0; 32];
        self.bytes.read_at(at, &mut raw)?;
        Ok(raw)
    }

    /// Where the entry behind the one at `at` stands.
    fn following(&self, at: u64, by_table: bool) -> Option<u64> {
        let next = at + ENTRY;
        let Some(cluster) = self.shape.cluster_at(at) else { return self.in_root_area(next).then_some(next) };
        if self.shape.cluster_at(next) == Some(cluster) {
            return Some(next);
        }
        let after = match self.table.get(cluster) {
            Ok(table::Link::Next(after)) if by_table => after,
            _ => cluster.checked_add(1)?,
        };
        self.shape.has(after).then(|| self.shape.at(after))
    }

    /// What stands in a directory that has these runs.
    fn read_directory(&self, runs: &[Run], deleted: bool) -> Records {
        let mut reader = (self.dialect.reader)(self.shape, deleted);
        let mut found = Records::default();
        self.each_entry(runs, &mut |entry| match entry {
            Ok((at, raw)) => reader.entry(at, raw, &mut found),
            Err(why) => {
                reader.cut(&mut found);
                found.odd.push(why);
                true
            }
        });
        reader.cut(&mut found);
        found
    }

    /// Hands out the entries of the root directory until `take` has enough.
    pub(super) fn each_root_entry(&self, take: &mut dyn FnMut(&[u8; 32]) -> bool) {
        let runs = self.runs_of(&self.root.0, &self.clusters_of(&self.root.0));
        self.each_entry(&runs, &mut |entry| entry.map_or(true, |(_, raw)| take(raw)));
    }

    /// Hands out entries and their places, and what cannot be read, until `take` has enough.
    fn each_entry(&self, runs: &[Run], take: &mut dyn FnMut(Raw<'_>) -> bool) {
        let mut left = self.dialect.longest;
        for run in runs {
            let (mut at, end) = (run.physical * self.shape.sector, (run.physical + run.len) * self.shape.sector);
            while at < end {
                let len = (end - at).min(PIECE);
                if left < len {
                    take(Err(format!("it is longer than {} bytes and was read so far", self.dialect.longest)));
                    return;
                }
                left -= len;
                match read_vec(self.bytes.as_ref(), at, us(len)) {
                    Ok(piece) => {
                        for (raw, place) in piece.as_chunks::<32>().0.iter().zip((at..).step_by(32)) {
                            if !take(Ok((place, raw))) {
                                return;
                            }
                        }
                    }
                    Err(error) => {
                        if !take(Err(error.to_string())) {
                            return;
                        }
                    }
                }
                at += len;
            }
        }
    }

    fn node_of(&self, record: &Record) -> Node {
        let chain = self.clusters_of(record);
        let mut odd = record.odd.clone();
        odd.extend(chain.odd.clone());
        if record.live {
            odd.extend(self.misfit(record, &chain));
        }
        let size = if record.kind == FileKind::Directory { self.length_of(record, &chain) } else { record.size };
        let mode = if record.kind == FileKind::Directory { 0o040_000 } else { 0o100_000 };
        Node {
            inode: if record.at == 0 { ROOT } else { record.at / ENTRY },
            generation: 0,
            kind: Some(record.kind),
            mode,
            uid: 0,
            gid: 0,
            size,
            links: 1,
            times: record.times,
            allocated: record.live,
            facts: record.facts.clone(),
            odd,
        }
    }

    /// What is wrong with the chain of a file that is there.
    fn misfit(&self, record: &Record, chain: &Chain) -> Vec<String> {
        let mut odd = Vec::new();
        let sized = self.dialect.sized || record.kind == FileKind::File;
        let need = record.size.div_ceil(self.shape.cluster());
        if sized && chain.odd.is_none() && record.at != 0 && chain.len != need {
            odd.push(format!("it has {} clusters, and its size needs {need}", chain.len));
        }
        if let Some(own) = self.audit().cut.get(&record.at) {
            odd.push(format!("behind its first {own} clusters it runs into what belongs to another (cross-linked)"));
        } else if !record.contiguous && self.pointed.has(record.first) {
            odd.push(format!("its first cluster {} is inside another chain (cross-linked)", record.first));
        }
        odd
    }

    fn content_of(&self, record: &Record) -> Arc<dyn ReadAt> {
        let chain = self.clusters_of(record);
        let size = if record.kind == FileKind::Directory { self.length_of(record, &chain) } else { record.size };
        self.content_along(record, &chain, size)
    }

    /// `size` bytes of a file that has these clusters.
    fn content_along(&self, record: &Record, chain: &Chain, size: u64) -> Arc<dyn ReadAt> {
        let runs = self.runs_of(record, chain);
        let missing = format!("its clusters end after {} bytes", chain.len.saturating_mul(self.shape.cluster()));
        let damaged = Some(chain.odd.clone().unwrap_or(missing));
        let all = Arc::new(Content::new(Arc::clone(&self.bytes), runs, self.shape.sector, size, damaged));
        if record.valid >= size { all } else { Arc::new(Written { below: all, valid: record.valid }) }
    }
}

impl Filesystem for Volume {
    fn name(&self) -> &'static str {
        self.dialect.name
    }

    fn facts(&self) -> Vec<(String, String)> {
        self.facts.iter().cloned().chain(self.audit().facts()).collect()
    }

    fn odd(&self) -> Vec<String> {
        self.odd.clone()
    }

    fn is_whole(&self) -> bool {
        self.whole
    }

    fn root(&self) -> u64 {
        ROOT
    }

    fn block_size(&self) -> u64 {
        self.shape.sector
    }

    fn blocks(&self) -> u64 {
        self.shape.sectors
    }

    fn node(&self, inode: u64) -> Result<Node, ReadError> {
        self.record(inode).map(|record| self.node_of(&record))
    }

    fn entries(&self, directory: u64, deleted: bool) -> Result<Listing, ReadError> {
        let record = self.record(directory)?;
        if record.kind != FileKind::Directory {
            return Err(ReadError::caller(format!("list inode {directory}"), "it is no directory"));
        }
        let runs = if record.live { self.own_runs(&record) } else { self.runs_of(&record, &self.clusters_of(&record)) };
        let found = self.read_directory(&runs, deleted || !record.live);
        let entries = found.list.into_iter().filter(|one| one.live || deleted || !record.live).map(|one| Entry {
            name: one.name,
            inode: one.at / ENTRY,
            kind: Some(one.kind).filter(|_| one.at != 0),
            state: if one.live && record.live { State::Allocated } else { State::Deleted },
            source: one.source,
        });
        Ok(Listing { entries: entries.collect(), odd: found.odd })
    }

    fn content(&self, inode: u64) -> Result<Arc<dyn ReadAt>, ReadError> {
        self.record(inode).map(|record| self.content_of(&record))
    }

    fn slack(&self, inode: u64) -> Result<Vec<u8>, ReadError> {
        let record = self.record(inode)?;
        let (cluster, size) = (self.shape.cluster(), record.size);
        let last = us(size / cluster);
        if record.kind == FileKind::Directory || size % cluster == 0 {
            return Ok(Vec::new());
        }
        let Some(last) = self.clusters_of(&record).clusters().nth(last) else { return Ok(Vec::new()) };
        read_vec(self.bytes.as_ref(), self.shape.at(last) + size % cluster, us(cluster - size % cluster))
    }

    fn target(&self, inode: u64) -> Result<Vec<u8>, ReadError> {
        Err(ReadError::caller(format!("follow inode {inode}"), format!("{} has no symbolic links", self.dialect.name)))
    }

    fn runs(&self, inode: u64) -> Result<Vec<Run>, ReadError> {
        let record = self.record(inode)?;
        Ok(self.runs_of(&record, &self.clusters_of(&record)))
    }

    fn block_in_use(&self, block: u64) -> Result<bool, ReadError> {
        // What lies outside the clusters is the file system's own.
        let cluster = self.shape.cluster_at(block.saturating_mul(self.shape.sector));
        Ok(cluster.is_none_or(|cluster| self.used.has(cluster)))
    }

    fn space(&self) -> Option<Arc<dyn ReadAt>> {
        Some(Arc::clone(&self.bytes))
    }

    fn lost(&self) -> Result<Vec<Lost>, ReadError> {
        Ok(lost::all(self))
    }
}
