//! A set of clusters: one bit each. Its size is bounded by whoever knows that the volume has so many.

/// See the module.
#[derive(Debug, Clone, Default)]
pub(in crate::disk::fs) struct Bits(Vec<u64>);

impl Bits {
    /// Room for the numbers below `count`.
    pub(in crate::disk::fs) fn new(count: u64) -> Self {
        Self(vec![0; crate::disk::us(count.div_ceil(64))])
    }

    /// Of a bitmap whose lowest bit stands for `first`. Numbers behind its end are taken for set.
    pub(in crate::disk::fs) fn of_bytes(bytes: &[u8], first: u32, count: u32) -> Self {
        let mut bits = Self::new(u64::from(first) + u64::from(count));
        for index in 0..count {
            let byte = bytes.get((index / 8) as usize).copied().unwrap_or(0xff);
            if byte & (1 << (index % 8)) != 0 {
                bits.set(first.saturating_add(index));
            }
        }
        bits
    }

    pub(in crate::disk::fs) fn has(&self, n: u32) -> bool {
        self.0.get((n / 64) as usize).is_some_and(|word| word & (1 << (n % 64)) != 0)
    }

    /// Adds `n`; false if it was there, or has no room.
    pub(in crate::disk::fs) fn set(&mut self, n: u32) -> bool {
        let Some(word) = self.0.get_mut((n / 64) as usize) else { return false };
        let bit = 1 << (n % 64);
        let fresh = *word & bit == 0;
        *word |= bit;
        fresh
    }

    /// How many of `from..from + len` are set.
    pub(in crate::disk::fs) fn count(&self, from: u32, len: u32) -> u32 {
        let (mut at, end, mut sum) = (from, from.saturating_add(len), 0);
        while at < end {
            let here = (64 - at % 64).min(end - at);
            let word = self.0.get((at / 64) as usize).copied().unwrap_or(0) >> (at % 64);
            let mask = if here == 64 { u64::MAX } else { (1 << here) - 1 };
            sum += (word & mask).count_ones();
            at += here;
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::Bits;

    #[test]
    fn ranges_are_counted_over_the_borders_of_words() {
        let mut bits = Bits::new(300);
        for n in [0, 63, 64, 127, 128, 250] {
            assert!(bits.set(n) && !bits.set(n));
        }
        for (from, len) in [(0, 300), (1, 63), (63, 2), (64, 64), (100, 0), (129, 121), (129, 122)] {
            let want = (from..from + len).filter(|n| bits.has(*n)).count();
            assert_eq!(bits.count(from, len) as usize, want, "{from} {len}");
        }
        let read = Bits::of_bytes(&[0b101], 2, 12);
        assert_eq!((0..20).filter(|n| read.has(*n)).collect::<Vec<_>>(), [2, 4, 10, 11, 12, 13]);
    }
}
