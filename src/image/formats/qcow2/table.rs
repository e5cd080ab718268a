//! The two levels of tables (`docs/interop/qcow2`, "Cluster mapping", "Extended L2 Entries").

use std::sync::Arc;

use crate::image::cache::Cache;
use crate::image::fields::{Fields, read_structure};
use crate::image::inflate;
use crate::image::{ReadAt, ReadError, read_vec};

use super::super::shared::mapped::{self, Home, Map, Run, joined};
use super::header::Header;

const L1: &str = "qcow2 L1 table";
const L2: &str = "qcow2 L2 table";
/// Bits of an entry that hold an offset.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// Bits of an L1 entry, and of the entry of a plain cluster, that must be 0.
const L1_RESERVED: u64 = 0x7f00_0000_0000_01ff;
const L2_RESERVED: u64 = 0x3f00_0000_0000_01fe;
const COMPRESSED: u64 = 1 << 62;
const COPIED: u64 = 1 << 63;
/// Longest L1 table in bytes: what QEMU allows.
const L1_MOST: u64 = 32 << 20;
/// Bytes of L2 tables that are kept.
const CACHE: usize = 32 << 20;
/// Parts of a cluster with extended L2 entries.
const SUBCLUSTERS: u64 = 32;

/// Which state of the disk: the active one or a snapshot.
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    pub(super) size: u64,
    pub(super) l1_at: u64,
    pub(super) l1_size: u32,
}

/// The tables of one state.
#[expect(clippy::struct_excessive_bools, reason = "each is a feature bit of the header")]
pub(super) struct Table {
    file: Arc<dyn ReadAt>,
    /// Length of the file that holds the clusters.
    stored: u64,
    cluster: u64,
    cluster_bits: u32,
    size: u64,
    extended: bool,
    external: bool,
    zero_flag: bool,
    zstd: bool,
    l1_at: u64,
    l1: Vec<u64>,
    /// Where the L2 tables are, ascending.
    l2s: Vec<u64>,
    tables: Cache,
}

impl Table {
    pub(super) fn new(file: Arc<dyn ReadAt>, header: &Header, view: &View, stored: u64) -> Result<Self, ReadError> {
        let extended = header.extended();
        let covered = header.cluster() * (header.cluster() / if extended { 16 } else { 8 });
        let needed = view.size.div_ceil(covered);
        if needed > u64::from(view.l1_size) {
            let expected = format_args!("at least {needed} entries for a disk of {} bytes", view.size);
            return Err(ReadError::corrupt(L1, view.l1_at, expected, view.l1_size));
        }
        if needed * 8 > L1_MOST {
            let found = format_args!("{needed} entries");
            return Err(ReadError::corrupt(L1, view.l1_at, format_args!("at most {L1_MOST} bytes"), found));
        }
        let bytes = read_structure(file.as_ref(), L1, view.l1_at, usize::try_from(needed * 8).unwrap_or(usize::MAX))?;
        let l1: Vec<u64> = bytes.as_chunks::<8>().0.iter().map(|entry| u64::from_be_bytes(*entry)).collect();
        let mut l2s: Vec<u64> = l1.iter().map(|entry| entry & OFFSET).filter(|&at| at != 0).collect();
        l2s.sort_unstable();
        Ok(Self {
            file,
            stored,
            cluster: header.cluster(),
            cluster_bits: header.cluster_bits,
            size: view.size,
            extended,
            external: header.external(),
            zero_flag: header.version >= 3 && !extended,
            zstd: header.zstd,
            l1_at: view.l1_at,
            l1,
            l2s,
            tables: Cache::new(CACHE),
        })
    }

    /// Length of an L2 entry in bytes.
    fn entry_len(&self) -> u64 {
        if self.extended { 16 } else { 8 }
    }

    /// Bytes of the disk that one L2 table tells of.
    fn covered(&self) -> u64 {
        self.cluster * (self.cluster / self.entry_len())
    }

    fn in_l1(&self, at: u64) -> bool {
        let end = self.l1_at + (self.l1.len() as u64) * 8;
        at < end && self.l1_at < at.saturating_add(self.cluster)
    }

    /// The L2 table of this L1 entry, and where it is; `None` if there is none.
    fn l2(&self, index: u64) -> Result<Option<mapped::Table>, ReadError> {
        let entry = usize::try_from(index).ok().and_then(|index| self.l1.get(index)).copied().unwrap_or(0);
        let at = entry & OFFSET;
        let wrong = |expected: String| {
            Err(ReadError::corrupt(L1, self.l1_at + index * 8, expected, format_args!("{entry:#018x}")))
        };
        if at == 0 && entry & L1_RESERVED == 0 {
            return Ok(None);
        }
        if entry & L1_RESERVED != 0 || !at.is_multiple_of(self.cluster) {
            return wrong(format!("an L2 table at a multiple of {:#x} and no other bits", self.cluster));
        }
        if at.checked_add(self.cluster).is_none_or(|end| end > self.file.len()) {
            return wrong(format!("an L2 table inside the {:#x} bytes of the file", self.file.len()));
        }
        if self.in_l1(at) {
            return wrong("an L2 table outside the L1 table".to_owned());
        }
        let first = self.l2s.partition_point(|&other| other < at);
        if self.l2s.get(first + 1) == Some(&at) {
            return wrong("an L2 table of its own, not that of another entry too".to_owned());
        }
        let len = usize::try_from(self.cluster).unwrap_or(usize::MAX);
        let table = self.tables.get(index, || read_structure(self.file.as_ref(), L2, at, len))?;
        Ok(Some((at, table)))
    }

    /// Offset and length in bytes of what the entry of a compressed cluster points to.
    fn packed(&self, fields: &Fields<'_>, index: usize, entry: u64) -> Result<(u64, u64), ReadError> {
        let bits = 62 - (self.cluster_bits - 8);
        let at = entry & ((1 << bits) - 1);
        let sectors = (entry & !(COMPRESSED | COPIED)) >> bits;
        if self.external {
            return Err(fields.corrupt(index, "no compressed cluster with an external data file", "one"));
        }
        if at < self.cluster || at >= self.file.len() {
            let expected = format_args!("compressed bytes behind the header and inside {:#x}", self.file.len());
            return Err(fields.corrupt(index, expected, format_args!("{at:#x}")));
        }
        let len = (sectors + 1) * 512 - at % 512;
        Ok((at, len.min(self.file.len() - at)))
    }

    /// What an L2 table says of the (sub)cluster that holds `at`, from there to its end.
    fn piece(&self, table_at: u64, table: &[u8], at: u64) -> Result<Run, ReadError> {
        let fields = Fields::new(L2, table_at, table);
        let (cluster, skip) = (at / self.cluster, at % self.cluster);
        let index = usize::try_from(cluster % (self.cluster / self.entry_len()) * self.entry_len()).unwrap_or(0);
        let entry = fields.be64(index)?;
        if entry & COMPRESSED != 0 {
            self.packed(&fields, index, entry)?;
            return Ok(Run { len: self.cluster - skip, home: Home::Packed });
        }
        let reserved = L2_RESERVED | u64::from(!self.zero_flag);
        if entry & reserved != 0 {
            let expected = format_args!("reserved bits of 0 ({reserved:#x})");
            return Err(fields.corrupt(index, expected, format_args!("{entry:#018x}")));
        }
        let host = entry & OFFSET;
        let part = if self.extended { self.cluster / SUBCLUSTERS } else { self.cluster };
        let len = part - skip % part;
        let allocated = host != 0 || self.external && entry & COPIED != 0;
        let (stored, zero) = if self.extended {
            let bitmap = fields.be64(index + 8)? >> (skip / part);
            match (bitmap & 1 != 0, bitmap >> 32 & 1 != 0) {
                (true, true) => return Err(fields.corrupt(index + 8, "a subcluster of one kind", "two bits")),
                (true, _) if !allocated => return Err(fields.corrupt(index, "a cluster for its subclusters", 0)),
                other => other,
            }
        } else {
            (allocated && entry & 1 == 0, entry & 1 != 0)
        };
        let home = match (stored, zero) {
            (true, _) => Home::Stored(self.check(&fields, index, host, at.saturating_add(len))? + skip),
            (_, true) => Home::Zero,
            _ => Home::Parent,
        };
        Ok(Run { len, home })
    }

    /// A plain cluster, used up to byte `end` of the disk, lies where it may: its offset.
    fn check(&self, fields: &Fields<'_>, index: usize, host: u64, end: u64) -> Result<u64, ReadError> {
        let wrong = |expected: String| Err(fields.corrupt(index, expected, format_args!("{host:#x}")));
        let begin = (end - 1) / self.cluster * self.cluster;
        if !host.is_multiple_of(self.cluster) {
            return wrong(format!("a cluster at a multiple of {:#x}", self.cluster));
        }
        // The disk may end inside its last cluster and subclusters behind may never have been written: there the file may
        // end.
        let used = end.min(self.size) - begin;
        if host.checked_add(used).is_none_or(|end| end > self.stored) {
            return wrong(format!("a cluster inside the {:#x} bytes of the file", self.stored));
        }
        if self.external {
            return if host == begin { Ok(host) } else { wrong(format!("the same offset as on the disk, {begin:#x}")) };
        }
        if self.in_l1(host) || self.l2s.binary_search(&host).is_ok() {
            return wrong("a cluster of data, not one of a table".to_owned());
        }
        Ok(host)
    }
}

impl Map for Table {
    fn len(&self) -> u64 {
        self.size
    }

    fn unit(&self) -> u64 {
        self.cluster
    }

    fn run(&self, at: u64, most: u64) -> Result<Run, ReadError> {
        let covered = self.covered();
        let index = at / covered;
        let end = |tables: u64| (index + tables).saturating_mul(covered).min(self.size);
        if let Some((table_at, table)) = self.l2(index)? {
            return joined(at, most, end(1), |at| self.piece(table_at, &table, at));
        }
        let rest = usize::try_from(index).ok().and_then(|index| self.l1.get(index..)).unwrap_or_default();
        let absent = rest.iter().take_while(|&&entry| entry & !COPIED == 0).count().max(1);
        Ok(Run { len: end(absent as u64) - at, home: Home::Parent })
    }

    fn decode(&self, unit: u64, into: &mut [u8]) -> Result<(), ReadError> {
        let entries = self.cluster / self.entry_len();
        let Some((table_at, table)) = self.l2(unit / entries)? else {
            return Err(ReadError::caller("decode a cluster", "it has no table"));
        };
        let fields = Fields::new(L2, table_at, &table);
        let index = usize::try_from(unit % entries * self.entry_len()).unwrap_or(0);
        let (at, len) = self.packed(&fields, index, fields.be64(index)?)?;
        let packed = read_vec(self.file.as_ref(), at, usize::try_from(len).unwrap_or(usize::MAX))?;
        let how = if self.zstd { inflate::zstd } else { inflate::raw };
        // A cluster at the end of the disk is compressed whole.
        let cluster = usize::try_from(self.cluster).unwrap_or(usize::MAX);
        let done = if into.len() == cluster {
            how(&packed, into)
        } else {
            let mut whole = vec![0; cluster];
            let done = how(&packed, &mut whole);
            into.copy_from_slice(whole.get(..into.len()).unwrap_or_default());
            done
        };
        let expected = format_args!("{cluster} bytes of content");
        done.map_err(|found| ReadError::corrupt("qcow2 compressed cluster", at, expected, found))
    }
}
