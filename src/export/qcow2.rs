//! qcow2 version 3 (QEMU's `docs/interop/qcow2.rst`): clusters of 64 KiB, appended in order; the refcounts come last, when
//! it is known how many there are.

use super::output::Output;
use super::source::Source;
use super::{ExportError, Format};

/// See the module.
pub(super) static QCOW2: Format = Format {
    name: "qcow2",
    about: "QEMU's disk, version 3",
    ending: "qcow2",
    disks_only: true,
    sectors: true,
    tested_against: "qemu-img check and compare, dissect",
    wrapping: "qcow2",
    write,
};

/// Length of a cluster in bytes.
const CLUSTER: u64 = 64 << 10;
/// Clusters that one table of the second level maps.
const ENTRIES: u64 = CLUSTER / 8;
/// Clusters that one block of refcounts counts, 16 bits each.
const COUNTED: u64 = CLUSTER / 2;
/// Bit 63 of an entry: the refcount is exactly one.
const COPIED: u64 = 1 << 63;

fn write(source: &mut Source<'_>, output: &mut Output) -> Result<(), ExportError> {
    let size = source.padded();
    let tables = size.div_ceil(CLUSTER * ENTRIES);
    let l1_at = CLUSTER;
    output.skip(CLUSTER + (tables * 8).next_multiple_of(CLUSTER));
    let mut l1: Vec<u64> = vec![0; usize::try_from(tables).unwrap_or(0)];
    let mut table = Table::default();
    source.units(65536, |number, cluster| {
        if table.index != Some(number / ENTRIES) {
            table.close(&mut l1, output)?;
            table.index = Some(number / ENTRIES);
        }
        table.entries.push((number % ENTRIES, output.at() | COPIED));
        output.append(cluster)
    })?;
    table.close(&mut l1, output)?;
    let l1: Vec<u8> = l1.iter().flat_map(|entry| entry.to_be_bytes()).collect();
    output.write_at(l1_at, &l1)?;
    let (refcounts_at, clusters) = refcounts(output)?;
    output.write_at(0, &header(size, tables, l1_at, refcounts_at, clusters))
}

/// The table of the second level that is being filled. Units come in order, so each is written once.
#[derive(Default)]
struct Table {
    index: Option<u64>,
    entries: Vec<(u64, u64)>,
}

impl Table {
    fn close(&mut self, l1: &mut [u64], output: &mut Output) -> Result<(), ExportError> {
        let Some(index) = self.index.take() else { return Ok(()) };
        let mut bytes = vec![0; 65536];
        for (entry, offset) in self.entries.drain(..) {
            let at = usize::try_from(entry * 8).unwrap_or(0);
            bytes.get_mut(at..at + 8).unwrap_or_default().copy_from_slice(&offset.to_be_bytes());
        }
        if let Some(slot) = l1.get_mut(usize::try_from(index).unwrap_or(usize::MAX)) {
            *slot = output.at() | COPIED;
        }
        output.append(&bytes)
    }
}

/// Writes the refcounts: one for each cluster up to the end, themselves included. Answers where their table is and how
/// many clusters it takes.
fn refcounts(output: &mut Output) -> Result<(u64, u64), ExportError> {
    let used = output.at() / CLUSTER;
    let (mut blocks, mut tables) = (0, 0);
    loop {
        let total = used + blocks + tables;
        let (want_blocks, want_tables) = (total.div_ceil(COUNTED), (total.div_ceil(COUNTED) * 8).div_ceil(CLUSTER));
        if (want_blocks, want_tables) == (blocks, tables) {
            break;
        }
        (blocks, tables) = (want_blocks, want_tables);
    }
    let total = used + blocks + tables;
    let first = output.at();
    for block in 0..blocks {
        let counted = (total - block * COUNTED).min(COUNTED);
        let mut bytes = [0, 1].repeat(usize::try_from(counted).unwrap_or(0));
        bytes.resize(65536, 0);
        output.append(&bytes)?;
    }
    let table_at = output.at();
    let table: Vec<u8> = (0..blocks).flat_map(|block| (first + block * CLUSTER).to_be_bytes()).collect();
    output.append(&table)?;
    output.align(CLUSTER);
    let end = output.at();
    output.set_len(end)?;
    Ok((table_at, tables))
}

fn header(size: u64, l1_entries: u64, l1_at: u64, refcounts_at: u64, refcount_clusters: u64) -> Vec<u8> {
    let narrow = |n: u64| u32::try_from(n).unwrap_or(u32::MAX).to_be_bytes();
    let mut out = b"QFI\xfb".to_vec();
    out.extend(3_u32.to_be_bytes()); // version
    out.extend([0; 12]); // no backing file
    out.extend(16_u32.to_be_bytes()); // cluster_bits
    out.extend(size.to_be_bytes());
    out.extend(0_u32.to_be_bytes()); // not encrypted
    out.extend(narrow(l1_entries));
    out.extend(l1_at.to_be_bytes());
    out.extend(refcounts_at.to_be_bytes());
    out.extend(narrow(refcount_clusters));
    out.extend([0; 12]); // no snapshots
    out.extend([0; 24]); // incompatible, compatible, autoclear features
    out.extend(4_u32.to_be_bytes()); // refcount_order: 16 bits
    out.extend(112_u32.to_be_bytes()); // header_length
    out.extend([0; 8]); // compression type zlib, padding
    out.extend([0; 8]); // end of header extensions
    out
}
