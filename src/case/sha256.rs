//! SHA-256 that can be stopped and taken up again (FIPS 180-4, sections 5.1.1 and 6.2).
//!
//! The digest of record runs through the whole file, one byte after the other. Its inner state at a block boundary, kept
//! in `blocks.jsonl`, lets others start in the middle: verify checks all blocks at once, a resumed copy goes on without
//! reading again what is there. The state is no secret and proves nothing by itself; the chain from the standard's
//! initial value to the padded end does.

use sha2::block_api::compress256;

/// The initial hash value of section 5.3.3.
const INITIAL: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// The unit of compression, in bytes.
pub(crate) const UNIT: usize = 64;

/// A running SHA-256.
#[derive(Debug, Clone)]
pub(crate) struct Chain {
    state: [u32; 8],
    /// Bytes taken in so far.
    len: u64,
    /// Bytes that do not fill a unit yet, fewer than [`UNIT`].
    tail: Vec<u8>,
}

impl Chain {
    /// At the beginning of a file.
    pub(crate) fn new() -> Self {
        Self { state: INITIAL, len: 0, tail: Vec::with_capacity(UNIT) }
    }

    /// In the middle of a file: `len` bytes, a multiple of 64, came before and left `state` behind.
    /// `None` if `len` is none.
    pub(crate) fn taken_up(len: u64, state: &[u8; 32]) -> Option<Self> {
        if !len.is_multiple_of(64) {
            return None;
        }
        let (words, _) = state.as_chunks::<4>();
        let mut taken = Self::new();
        for (into, word) in taken.state.iter_mut().zip(words) {
            *into = u32::from_be_bytes(*word);
        }
        taken.len = len;
        Some(taken)
    }

    /// Takes in more bytes.
    pub(crate) fn update(&mut self, mut bytes: &[u8]) {
        self.len = self.len.wrapping_add(bytes.len() as u64);
        if !self.tail.is_empty() {
            let (head, rest) = bytes.split_at(bytes.len().min(UNIT - self.tail.len()));
            self.tail.extend_from_slice(head);
            bytes = rest;
            if self.tail.len() == UNIT {
                compress256(&mut self.state, self.tail.as_chunks().0);
                self.tail.clear();
            }
        }
        let (units, rest) = bytes.as_chunks::<UNIT>();
        compress256(&mut self.state, units);
        self.tail.extend_from_slice(rest);
    }

    /// The inner state, big-endian like a digest. Only meaningful after a multiple of 64 bytes.
    pub(crate) fn state(&self) -> [u8; 32] {
        let mut out = [0; 32];
        for (into, word) in out.as_chunks_mut::<4>().0.iter_mut().zip(self.state) {
            *into = word.to_be_bytes();
        }
        out
    }

    /// Pads and gives the digest.
    pub(crate) fn finish(mut self) -> [u8; 32] {
        self.tail.push(0x80);
        while self.tail.len() % UNIT != UNIT - 8 {
            self.tail.push(0);
        }
        self.tail.extend_from_slice(&self.len.wrapping_mul(8).to_be_bytes());
        compress256(&mut self.state, self.tail.as_chunks().0);
        self.state()
    }
}

/// 32 bytes from 64 lower-case hex digits, and from nothing else.
pub(crate) fn unhex(text: &str) -> Option<[u8; 32]> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != 32 || !rest.is_empty() {
        return None;
    }
    let mut out = [0; 32];
    for (into, [high, low]) in out.iter_mut().zip(pairs) {
        *into = digit(*high)? << 4 | digit(*low)?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::digest::hex;
    use sha2::{Digest, Sha256};

    #[test]
    fn every_length_and_every_cut_gives_the_standard_digest() {
        let bytes: Vec<u8> = (0..300_u32).map(|i| ((i * 7 + i / 5) % 256).to_le_bytes()[0]).collect();
        for len in 0..bytes.len() {
            let mut chain = Chain::new();
            let cut = len * 2 / 3;
            chain.update(&bytes[..cut]);
            chain.update(&bytes[cut..len]);
            assert_eq!(chain.finish(), <[u8; 32]>::from(Sha256::digest(&bytes[..len])), "{len}");
        }
    }

    #[test]
    fn a_chain_taken_up_at_a_boundary_ends_the_same() {
        let bytes = vec![0x5a; 1000];
        let mut first = Chain::new();
        first.update(&bytes[..640]);
        let mut second = Chain::taken_up(640, &first.state()).unwrap();
        second.update(&bytes[640..]);
        assert_eq!(second.finish(), <[u8; 32]>::from(Sha256::digest(&bytes)));
        assert!(Chain::taken_up(641, &first.state()).is_none());
    }

    #[test]
    fn hex_comes_back_and_nothing_else_is_taken() {
        let bytes = <[u8; 32]>::from(Sha256::digest(b"x"));
        assert_eq!(unhex(&hex(&bytes)), Some(bytes));
        assert_eq!(unhex(&hex(&bytes).to_uppercase()), None);
        assert_eq!(unhex("00"), None);
        assert_eq!(unhex(&format!("{}0", hex(&bytes))), None);
    }
}
