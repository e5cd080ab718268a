//! $Bitmap: which clusters are in use. Counting is fast however large a range a hostile file claims: the sums of all parts
//! are kept.

use std::sync::{Arc, OnceLock};

use crate::disk::us;
use crate::image::cache::Cache;
use crate::image::{ReadAt, ReadError, read_vec};

/// Bytes of it that are read and summed together.
const PART: u64 = 64 << 10;
const KEPT: usize = 4 << 20;

/// See the module.
pub(super) struct Bitmap {
    bytes: Arc<dyn ReadAt>,
    clusters: u64,
    parts: Cache,
    /// Clusters in use before each part.
    sums: OnceLock<Vec<u64>>,
}

impl Bitmap {
    pub(super) fn new(bytes: Arc<dyn ReadAt>, clusters: u64) -> Self {
        Self { bytes, clusters, parts: Cache::new(KEPT), sums: OnceLock::new() }
    }

    /// The part that holds the bits of byte `at`.
    fn part(&self, at: u64) -> Result<Arc<Vec<u8>>, ReadError> {
        let number = at / PART;
        self.parts.get(number, || {
            let from = number * PART;
            read_vec(self.bytes.as_ref(), from, us(PART.min(self.bytes.len().saturating_sub(from))))
        })
    }

    /// Is this cluster in use?
    pub(super) fn get(&self, cluster: u64) -> Result<bool, ReadError> {
        if cluster >= self.clusters {
            let why = format!("the volume has {}", self.clusters);
            return Err(ReadError::caller(format!("look up cluster {cluster}"), why));
        }
        let byte = self.part(cluster / 8)?.get(us(cluster / 8 % PART)).copied();
        let byte = byte.ok_or_else(|| ReadError::corrupt("NTFS $Bitmap", cluster / 8, "a longer one", "its end"))?;
        Ok(byte >> (cluster % 8) & 1 == 1)
    }

    /// Clusters of a range that are in use. What cannot be read counts as in use: nobody can say that it is not.
    pub(super) fn used(&self, from: u64, len: u64) -> u64 {
        self.before(from.saturating_add(len)).saturating_sub(self.before(from))
    }

    fn before(&self, cluster: u64) -> u64 {
        let cluster = cluster.min(self.clusters);
        let part = cluster / 8 / PART;
        let sum = self.sums.get_or_init(|| self.sum()).get(us(part)).copied().unwrap_or(self.clusters);
        let rest = cluster - part * PART * 8;
        match self.part(cluster / 8) {
            Ok(bytes) if rest > 0 => sum + ones(&bytes, rest),
            _ => sum + rest,
        }
    }

    fn sum(&self) -> Vec<u64> {
        let bits = PART * 8;
        let mut sums = vec![0];
        let mut sum = 0_u64;
        for part in 0..self.clusters / bits {
            sum += self.part(part * PART).map_or(bits, |bytes| ones(&bytes, bits));
            sums.push(sum);
        }
        sums
    }
}

/// How many of the first `bits` bits are set; those that are not there count.
fn ones(bytes: &[u8], bits: u64) -> u64 {
    let there = bits.min(bytes.len() as u64 * 8);
    let whole = bytes.get(..us(there / 8)).unwrap_or_default();
    let last = bytes.get(us(there / 8)).map_or(0, |byte| (byte & ((1 << (there % 8)) - 1)).count_ones());
    whole.iter().map(|byte| u64::from(byte.count_ones())).sum::<u64>() + u64::from(last) + (bits - there)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::InMemory;

    #[test]
    fn a_range_is_counted_as_its_clusters_are() {
        let bytes: Vec<u8> = (0..200_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
        let clusters = bytes.len() as u64 * 8 - 3;
        let bitmap = Bitmap::new(Arc::new(InMemory(bytes)), clusters);
        for (from, len) in [(0, 1), (5, 30), (524_280, 20), (0, clusters), (1_000_001, 77_777), (clusters - 5, 100)] {
            let want = (from..(from + len).min(clusters)).filter(|at| bitmap.get(*at).unwrap()).count();
            assert_eq!(bitmap.used(from, len), want as u64, "{from} {len}");
        }
        assert!(bitmap.get(clusters).is_err());
        let cut = Bitmap::new(Arc::new(InMemory(vec![0; 100])), clusters);
        assert_eq!((cut.used(0, 800), cut.used(790, 20), cut.used(0, clusters)), (0, 10, clusters - 800));
    }
}
