//! Checksums of data. Kernel fs/btrfs/file-item.c.

use super::SUMS;
use super::pool::Pool;
use super::tree::{Item, Key, Tree};
use crate::disk::us;

const EXTENT_CSUM: u8 = 128;

/// The checksums of some sectors that follow each other.
#[derive(Debug, Default)]
pub(super) struct Sums {
    at: u64,
    sector: u64,
    /// None: it has none, as where checksums are switched off.
    all: Vec<Option<Vec<u8>>>,
}

impl Sums {
    /// Of no sector.
    pub(super) fn none() -> Self {
        Self::default()
    }

    /// The one of the sector at `at`.
    pub(super) fn get(&self, at: u64) -> Option<&[u8]> {
        let index = at.checked_sub(self.at)?.checked_div(self.sector)?;
        self.all.get(us(index))?.as_deref()
    }

    /// Those that `tree` has for `len` bytes at `at`. What of it cannot be read is as if it were not there.
    pub(super) fn read(pool: &Pool, tree: Tree, at: u64, len: u64) -> Self {
        let sector = pool.sb.sector;
        let end = at.saturating_add(len);
        let count = us(len.div_ceil(sector));
        let mut this = Self { at, sector, all: vec![None; count] };
        let first = pool.before(tree, Key::new(SUMS, EXTENT_CSUM, at)).ok().flatten();
        let rest = pool.range(tree, Key::new(SUMS, EXTENT_CSUM, at), Key::new(SUMS, EXTENT_CSUM, end)).flatten();
        for item in first.into_iter().chain(rest) {
            for (place, sum) in each(pool, &item) {
                let index = place.checked_sub(at).map(|inside| us(inside / sector));
                if let Some(slot) = index.and_then(|index| this.all.get_mut(index)) {
                    *slot = Some(sum.to_vec());
                }
            }
        }
        this
    }
}

/// What an item of the checksum tree says: a sector and its checksum.
pub(super) fn each<'a>(pool: &Pool, item: &'a Item) -> impl Iterator<Item = (u64, &'a [u8])> {
    let is = item.key.id == SUMS && item.key.kind == EXTENT_CSUM;
    let (sector, from) = (pool.sb.sector, item.key.offset);
    let data = if is { item.data() } else { &[] };
    let sums = data.chunks_exact(pool.sb.checksum.len()).enumerate();
    sums.map(move |(index, sum)| (from.saturating_add((index as u64).saturating_mul(sector)), sum))
}
