//! The file allocation table: which cluster follows which. FAT specification 1.03, "FAT Data Structure"; exFAT
//! specification, section 4.1.

use std::sync::Arc;

use super::bits::Bits;
use crate::disk::us;
use crate::image::cache::Cache;
use crate::image::{ReadAt, ReadError, read_vec};

/// Bytes that are read at a time: whole entries of every width.
const CHUNK: u64 = 3 << 14;

/// Bits of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::disk::fs) enum Width {
    Fat12,
    Fat16,
    Fat32,
    ExFat,
}

impl Width {
    /// Halves of a byte that an entry takes.
    fn nibbles(self) -> u64 {
        match self {
            Self::Fat12 => 3,
            Self::Fat16 => 4,
            Self::Fat32 | Self::ExFat => 8,
        }
    }

    /// Values from here on are no clusters: bad, and the end.
    fn special(self) -> u32 {
        match self {
            Self::Fat12 => 0xff7,
            Self::Fat16 => 0xfff7,
            Self::Fat32 => 0x0fff_fff7,
            Self::ExFat => 0xffff_fff7,
        }
    }

    /// Clusters that a table of so many bytes can tell of.
    pub(in crate::disk::fs) fn room(self, bytes: u64) -> u64 {
        (bytes.saturating_mul(2) / self.nibbles()).saturating_sub(2)
    }
}

/// What the table says of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::disk::fs) enum Link {
    Free,
    Next(u32),
    Bad,
    End,
}

/// Clusters that follow each other on the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::disk::fs) struct Span {
    pub(in crate::disk::fs) first: u32,
    pub(in crate::disk::fs) len: u32,
}

/// The clusters of a file in order.
#[derive(Debug, Clone, Default)]
pub(in crate::disk::fs) struct Chain {
    pub(in crate::disk::fs) spans: Vec<Span>,
    pub(in crate::disk::fs) len: u64,
    /// Why it ends where it should not.
    pub(in crate::disk::fs) odd: Option<String>,
}

impl Chain {
    pub(in crate::disk::fs) fn push(&mut self, cluster: u32) {
        self.len += 1;
        match self.spans.last_mut() {
            Some(span) if span.first.checked_add(span.len) == Some(cluster) => span.len += 1,
            _ => self.spans.push(Span { first: cluster, len: 1 }),
        }
    }

    pub(in crate::disk::fs) fn clusters(&self) -> impl Iterator<Item = u32> {
        self.spans.iter().flat_map(|span| span.first..span.first.saturating_add(span.len))
    }
}

/// What one look at the whole table found.
#[derive(Debug, Default)]
pub(in crate::disk::fs) struct Survey {
    /// Clusters that are not free.
    pub(in crate::disk::fs) used: Bits,
    /// Clusters that another one leads to.
    pub(in crate::disk::fs) pointed: Bits,
    pub(in crate::disk::fs) free: u64,
    pub(in crate::disk::fs) bad: u64,
    /// Clusters that two others lead to, and the first of these.
    pub(in crate::disk::fs) crossed: (u64, Option<u32>),
    /// Entries that lead behind the end, and the first of these.
    pub(in crate::disk::fs) outside: (u64, Option<u32>),
    /// Parts of the table that could not be read.
    pub(in crate::disk::fs) unreadable: Option<String>,
}

/// See the module.
pub(in crate::disk::fs) struct Table {
    volume: Arc<dyn ReadAt>,
    width: Width,
    /// First byte.
    from: u64,
    /// Length in bytes.
    len: u64,
    /// Clusters, numbered from 2.
    clusters: u32,
    cache: Cache,
}

impl Table {
    pub(in crate::disk::fs) fn new(
        volume: Arc<dyn ReadAt>,
        width: Width,
        (from, len): (u64, u64),
        clusters: u32,
    ) -> Self {
        Self { volume, width, from, len, clusters, cache: Cache::new(4 << 20) }
    }

    fn chunk(&self, index: u64) -> Result<Arc<Vec<u8>>, ReadError> {
        let at = index.saturating_mul(CHUNK);
        let len = us(self.len.saturating_sub(at).min(CHUNK));
        self.cache.get(index, || read_vec(self.volume.as_ref(), self.from.saturating_add(at), len))
    }

    /// The chunk that tells of a cluster, and the number of the first one in it.
    fn place(&self, cluster: u32) -> (u64, u64) {
        let per_chunk = CHUNK * 2 / self.width.nibbles();
        (u64::from(cluster) / per_chunk, u64::from(cluster) / per_chunk * per_chunk)
    }

    fn raw(&self, chunk: &[u8], index: u64) -> Option<u32> {
        let at = us(index * self.width.nibbles() / 2);
        let take = |len: usize| chunk.get(at..at + len);
        let low = |bytes: &[u8]| bytes.iter().rev().fold(0_u32, |value, byte| value << 8 | u32::from(*byte));
        Some(match self.width {
            Width::Fat12 if index.is_multiple_of(2) => low(take(2)?) & 0xfff,
            Width::Fat12 => low(take(2)?) >> 4,
            Width::Fat16 => low(take(2)?),
            Width::Fat32 => low(take(4)?) & 0x0fff_ffff,
            Width::ExFat => low(take(4)?),
        })
    }

    fn link(&self, value: u32) -> Link {
        let special = self.width.special();
        match value {
            0 => Link::Free,
            value if value == special => Link::Bad,
            value if value > special => Link::End,
            value => Link::Next(value),
        }
    }

    pub(in crate::disk::fs) fn has(&self, cluster: u32) -> bool {
        cluster >= 2 && cluster - 2 < self.clusters
    }

    /// What the table says of a cluster.
    pub(in crate::disk::fs) fn get(&self, cluster: u32) -> Result<Link, ReadError> {
        self.value(cluster).map(|value| self.link(value))
    }

    /// The entry as a number; those of clusters 0 and 1 hold the state of the volume.
    pub(in crate::disk::fs) fn value(&self, cluster: u32) -> Result<u32, ReadError> {
        let (index, first) = self.place(cluster);
        let chunk = self.chunk(index)?;
        self.raw(&chunk, u64::from(cluster) - first).ok_or_else(|| {
            ReadError::corrupt("file allocation table", self.from, format_args!("an entry {cluster}"), "its end")
        })
    }

    /// The chain from `first` on, at most `most` clusters of it.
    pub(in crate::disk::fs) fn chain(&self, first: u32, most: u64) -> Chain {
        let (mut chain, mut here, mut mark) = (Chain::default(), first, 0);
        while chain.len < most {
            if !self.has(here) {
                chain.odd = Some(format!("its chain leads to cluster {here}, and there are {}", self.clusters));
                return chain;
            }
            // A mark that moves on at every power of two meets every loop.
            if here == mark || chain.len > u64::from(self.clusters) {
                chain.odd = Some(format!("its chain comes back to cluster {here}"));
                return chain;
            }
            if chain.len.is_power_of_two() {
                mark = here;
            }
            chain.push(here);
            here = match self.get(here) {
                Ok(Link::Next(next)) => next,
                Ok(Link::End) => return chain,
                Ok(link) => {
                    let what = if link == Link::Bad { "marked as bad" } else { "free" };
                    chain.odd = Some(format!("its chain ends at cluster {here}, which is {what}"));
                    return chain;
                }
                Err(error) => {
                    chain.odd = Some(format!("its chain ends at cluster {here}: {error}"));
                    return chain;
                }
            };
        }
        chain
    }

    /// Looks at the whole table once.
    pub(in crate::disk::fs) fn survey(&self) -> Survey {
        let room = u64::from(self.clusters) + 2;
        let mut all = Survey { used: Bits::new(room), pointed: Bits::new(room), ..Survey::default() };
        let end = self.clusters.saturating_add(2);
        let mut cluster = 2;
        while cluster < end {
            let (index, first) = self.place(cluster);
            let next = first + CHUNK * 2 / self.width.nibbles();
            let next = u32::try_from(next).unwrap_or(end).min(end);
            let chunk = self.chunk(index);
            if let Err(error) = &chunk {
                all.unreadable = all.unreadable.or(Some(error.to_string()));
            }
            for cluster in cluster..next {
                let value = chunk.as_ref().ok().and_then(|chunk| self.raw(chunk, u64::from(cluster) - first));
                self.note(cluster, value.map_or(Link::Bad, |value| self.link(value)), &mut all);
            }
            cluster = next;
        }
        all
    }

    fn note(&self, cluster: u32, link: Link, into: &mut Survey) {
        let count = |what: &mut (u64, Option<u32>), cluster| {
            what.0 += 1;
            what.1 = what.1.or(Some(cluster));
        };
        match link {
            Link::Free => {
                into.free += 1;
                return;
            }
            Link::Bad => into.bad += 1,
            Link::Next(next) if !self.has(next) => count(&mut into.outside, cluster),
            Link::Next(next) if !into.pointed.set(next) => count(&mut into.crossed, next),
            Link::End | Link::Next(_) => {}
        }
        into.used.set(cluster);
    }
}
