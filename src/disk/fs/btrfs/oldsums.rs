//! Checksums of data that is no longer in use, from leaves of the past of the checksum tree.

use super::SUM_TREE;
use super::checksum::LONGEST;
use super::extents::Extent;
use super::history::{History, Leaf};
use super::pool::Pool;
use super::sums::each;
use crate::disk::us;

/// Bytes of an extent that are looked at: the kernel writes none that is longer.
const LONG: u64 = 128 << 20;

/// Some checksums that follow each other, in a leaf.
struct Part {
    at: u64,
    end: u64,
    leaf: Leaf,
}

/// See the module.
pub(super) struct OldSums {
    /// By the first sector.
    parts: Vec<Part>,
    /// The longest of them, in bytes of data.
    longest: u64,
}

impl OldSums {
    pub(super) fn read(history: &History) -> Self {
        let pool = &history.pool;
        let mut parts = Vec::new();
        for leaf in history.of(SUM_TREE) {
            let Ok(node) = leaf.read(pool) else { continue };
            for item in node.items() {
                let count = each(pool, &item).count() as u64;
                let end = item.key.offset.saturating_add(count.saturating_mul(pool.sb.sector));
                parts.push(Part { at: item.key.offset, end, leaf: *leaf });
            }
        }
        parts.retain(|part| part.at < part.end);
        parts.sort_by_key(|part| part.at);
        let longest = parts.iter().map(|part| part.end - part.at).max().unwrap_or(0);
        Self { parts, longest }
    }

    /// Checks every `step`th block of an extent: how many had a checksum, and how many of these fit it.
    pub(super) fn check(&self, pool: &Pool, extent: &Extent, len: u64, step: u64) -> (u64, u64) {
        let sector = pool.sb.sector;
        let sums = self.of(pool, extent, len);
        let (mut checked, mut fit) = (0, 0);
        for (index, sum) in sums.iter().enumerate().step_by(us(step)) {
            let Some((_, sum)) = sum else { continue };
            let at = extent.at.saturating_add((index as u64).saturating_mul(sector));
            checked += 1;
            fit += u64::from((0..pool.copies(at).unwrap_or(0)).any(|copy| {
                let mut bytes = vec![0; us(sector)];
                pool.read_copy(at, copy, &mut bytes).is_ok() && pool.sb.checksum.fits(&bytes, sum)
            }));
        }
        (checked, fit)
    }

    /// For each block the oldest checksum that was written with the extent or after it, with its transaction.
    fn of(&self, pool: &Pool, extent: &Extent, len: u64) -> Vec<Option<(u64, [u8; LONGEST])>> {
        let (sector, end) = (pool.sb.sector, extent.at.saturating_add(len));
        let mut all = vec![None; us(len.min(pool.volume.len()).min(LONG).div_ceil(sector))];
        let first = self.parts.partition_point(|part| part.at < extent.at.saturating_sub(self.longest));
        let near = self.parts.iter().skip(first).take_while(|part| part.at < end);
        for part in near.filter(|part| part.end > extent.at && part.leaf.generation >= extent.generation) {
            let Ok(node) = part.leaf.read(pool) else { continue };
            for item in node.items().filter(|item| item.key.offset == part.at) {
                for (at, sum) in each(pool, &item) {
                    let index = at.checked_sub(extent.at).map(|inside| us(inside / sector));
                    let Some(slot) = index.and_then(|index| all.get_mut(index)) else { continue };
                    let generation = part.leaf.generation;
                    if slot.as_ref().is_none_or(|(known, _)| *known > generation) {
                        let mut own = [0; LONGEST];
                        own.iter_mut().zip(sum).for_each(|(to, from)| *to = *from);
                        *slot = Some((generation, own));
                    }
                }
            }
        }
        all
    }
}
