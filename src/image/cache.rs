//! Decoded units (compressed clusters, chunks, pages) that may be asked for again. Bounded, shared by all threads.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::ReadError;

/// Parts that are locked apart, so that threads seldom wait for each other.
const SHARDS: usize = 16;

/// A cache of decoded units by number, of at most so many bytes.
pub struct Cache {
    shards: Vec<Mutex<Shard>>,
    most: usize,
}

#[derive(Default)]
struct Shard {
    units: HashMap<u64, (Arc<Vec<u8>>, u64)>,
    bytes: usize,
    clock: u64,
}

impl Cache {
    /// Holds `bytes` bytes, and always the last unit of each shard.
    pub fn new(bytes: usize) -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), most: bytes / SHARDS }
    }

    /// The unit `key`, decoded by `decode` if it is not there. Two threads may decode the same at once; none waits while
    /// another decodes.
    pub fn get(
        &self,
        key: u64,
        decode: impl FnOnce() -> Result<Vec<u8>, ReadError>,
    ) -> Result<Arc<Vec<u8>>, ReadError> {
        // Neighbours go to different shards: sequential readers on several threads do not meet.
        let Some(shard) = self.shards.get(usize::try_from(key % SHARDS as u64).unwrap_or(0)) else {
            return decode().map(Arc::new);
        };
        if let Some(unit) = lock(shard).touch(key) {
            return Ok(unit);
        }
        let unit = Arc::new(decode()?);
        lock(shard).put(key, &unit, self.most);
        Ok(unit)
    }
}

fn lock(shard: &Mutex<Shard>) -> std::sync::MutexGuard<'_, Shard> {
    // A panic elsewhere leaves whole units behind: nothing in a shard can be half done.
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shard {
    fn touch(&mut self, key: u64) -> Option<Arc<Vec<u8>>> {
        self.clock += 1;
        let (unit, used) = self.units.get_mut(&key)?;
        *used = self.clock;
        Some(Arc::clone(unit))
    }

    fn put(&mut self, key: u64, unit: &Arc<Vec<u8>>, most: usize) {
        while self.bytes.saturating_add(unit.len()) > most && !self.units.is_empty() {
            let Some(oldest) = self.units.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| *key) else { break };
            if let Some((old, _)) = self.units.remove(&oldest) {
                self.bytes = self.bytes.saturating_sub(old.len());
            }
        }
        self.bytes = self.bytes.saturating_add(unit.len());
        if let Some((old, _)) = self.units.insert(key, (Arc::clone(unit), self.clock)) {
            self.bytes = self.bytes.saturating_sub(old.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_decoded_once_while_there_is_room_and_the_oldest_goes_first() {
        let cache = Cache::new(SHARDS * 100);
        let decoded = |key: u64, len: usize| {
            let mut fresh = false;
            let unit = cache.get(key, || {
                fresh = true;
                Ok(vec![7; len])
            });
            assert_eq!(unit.unwrap().len(), len);
            fresh
        };
        let step = SHARDS as u64;
        assert!(decoded(0, 40) && decoded(step, 40));
        assert!(!decoded(0, 40));
        assert!(decoded(2 * step, 40), "the third pushes the one used longest ago out");
        assert!(!decoded(0, 40));
        assert!(decoded(step, 40));
        assert!(decoded(1, 5000) && !decoded(1, 5000), "one that is larger than the cache is held alone");
        assert!(cache.get(99, || Err(ReadError::caller("x", "y"))).is_err());
    }
}
