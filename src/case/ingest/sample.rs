//! A glance at memory while it passes: is it memory at all?
//!
//! One page in each MiB, at a place that wanders so that it is not always the first of a huge page. A guest whose memory
//! is encrypted (SEV, TDX) shows pages as even as noise; a method that failed without a word shows zeros only. The
//! verdict is a warning for the manifest, never a reason to drop what was taken.

use serde::{Deserialize, Serialize};

/// A page, in bytes.
const PAGE: u64 = 4096;
const MIB: u64 = 1 << 20;
/// Shannon entropy from which a page counts as noise, in bits a byte. 4096 random bytes have 7.955 ± 0.004; compressed
/// text lies near 7.8, machine code near 6.
const NOISE: f64 = 7.9;
/// Fewer pages than this are no ground for a verdict.
const ENOUGH: u64 = 16;

/// What the sampled pages looked like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Pages looked at.
    pub pages: u64,
    /// Of these: all zero.
    pub zero: u64,
    /// Of these: as even as noise.
    pub high_entropy: u64,
}

/// What that means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Too little was seen.
    Unknown,
    /// Looks as memory does.
    Plausible,
    /// Nothing but zeros.
    AllZero,
    /// Nine of ten pages that are not zero are noise, as ciphertext is.
    LooksEncrypted,
}

impl Sample {
    /// What the numbers mean.
    pub fn verdict(&self) -> Verdict {
        let filled = self.pages.saturating_sub(self.zero);
        if self.pages < ENOUGH {
            Verdict::Unknown
        } else if filled == 0 {
            Verdict::AllZero
        } else if filled >= ENOUGH && self.high_entropy.saturating_mul(10) >= filled.saturating_mul(9) {
            Verdict::LooksEncrypted
        } else {
            Verdict::Plausible
        }
    }

    /// Bytes came at `at`.
    pub(super) fn data(&mut self, at: u64, bytes: &[u8]) {
        for page in sampled(at, bytes.len() as u64) {
            let from = usize::try_from(page - at).unwrap_or(usize::MAX);
            let Some(page) = bytes.get(from..).and_then(|rest| rest.get(..4096)) else { continue };
            self.pages += 1;
            if is_zero(page) {
                self.zero += 1;
            } else if entropy(page) >= NOISE {
                self.high_entropy += 1;
            }
        }
    }

    /// The source said: `len` zeros at `at`.
    pub(super) fn zero(&mut self, at: u64, len: u64) {
        let count = sampled(at, len).count() as u64;
        self.pages += count;
        self.zero += count;
    }
}

/// The sampled pages that lie wholly in `len` bytes at `at`.
fn sampled(at: u64, len: u64) -> impl Iterator<Item = u64> {
    let end = at.saturating_add(len);
    (at / MIB..end.div_ceil(MIB))
        .map(|mib| mib * MIB + mib * 37 % 256 * PAGE)
        .filter(move |page| *page >= at && page.checked_add(PAGE).is_some_and(|stop| stop <= end))
}

/// Are all bytes zero? Looks at eight at a time.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<64>();
    let quiet = |word: &[u8; 64]| word.as_chunks::<8>().0.iter().fold(0, |all, w| all | u64::from_ne_bytes(*w)) == 0;
    words.iter().all(quiet) && rest.iter().all(|byte| *byte == 0)
}

/// Shannon entropy of the byte values, in bits a byte: 0 to 8.
fn entropy(bytes: &[u8]) -> f64 {
    let mut counts = [0_u32; 256];
    for byte in bytes {
        if let Some(count) = counts.get_mut(usize::from(*byte)) {
            *count += 1;
        }
    }
    let len = f64::from(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    counts.iter().filter(|count| **count > 0).map(|count| f64::from(*count) / len).map(|p| -p * p.log2()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize) -> Vec<u8> {
        let mut x = 0x9e37_79b9_7f4a_7c15_u64;
        std::iter::repeat_with(|| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x.to_le_bytes()[4]
        })
        .take(len)
        .collect()
    }

    #[test]
    fn zeros_noise_and_memory_are_told_apart_in_any_cut() {
        let mut zero = Sample::default();
        zero.zero(0, 64 << 20);
        assert_eq!((zero.pages, zero.verdict()), (64, Verdict::AllZero));
        let bytes = noise(32 << 20);
        let (mut whole, mut cut) = (Sample::default(), Sample::default());
        whole.data(0, &bytes);
        for (index, part) in bytes.chunks(4096).enumerate() {
            cut.data(index as u64 * 4096, part);
        }
        assert_eq!((whole, whole.verdict()), (cut, Verdict::LooksEncrypted));
        let mut text = Sample::default();
        text.data(0, &b"the quick brown fox ".repeat(2 << 20));
        assert_eq!(text.verdict(), Verdict::Plausible);
        assert_eq!(Sample::default().verdict(), Verdict::Unknown);
    }

    #[test]
    fn one_bit_is_not_zero() {
        let mut bytes = vec![0; 4099];
        assert!(is_zero(&bytes) && is_zero(&[]));
        for at in [0, 63, 64, 4095, 4096, 4098] {
            bytes[at] = 0x10;
            assert!(!is_zero(&bytes), "{at}");
            bytes[at] = 0;
        }
    }
}
