//! One pass over all of memory for several patterns at once, by all cores. What is not in the image is passed over.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use memchr::memmem::Finder;
use rayon::prelude::*;

use super::Physical;
use crate::image::{Kind, map};

/// Bytes that one thread looks through at a time: they stay in its cache from the copy to the search.
const CHUNK: u64 = 1 << 18;
/// So few chunks are looked through by one thread before others have begun.
const FEW: usize = 8;
/// Bytes whose words are compared together.
const LINE: usize = 64;
/// The most hits of one pattern in one chunk: a page full of decoys must not cost memory.
const MOST: usize = 4096;

/// A pattern was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Hit {
    /// Physical address.
    pub(super) at: u64,
    /// Which of the patterns.
    pub(super) pattern: usize,
}

/// All places where one of `patterns` stands, ascending. `accept` looks at each hit, and at what follows it in its chunk;
/// once it answers `Stop`, no new chunk is begun.
pub(super) fn scan(memory: &Physical, patterns: &[&[u8]], accept: impl Fn(Hit, &[u8]) -> Verdict + Sync) -> Vec<Hit> {
    scan_in(memory, 0..memory.len(), patterns, accept)
}

/// The same for a stretch of memory.
pub(super) fn scan_in(
    memory: &Physical,
    range: Range<u64>,
    patterns: &[&[u8]],
    accept: impl Fn(Hit, &[u8]) -> Verdict + Sync,
) -> Vec<Hit> {
    let finders: Vec<Finder<'_>> = patterns.iter().map(Finder::new).collect();
    let overlap = patterns.iter().map(|pattern| pattern.len()).max().unwrap_or(0) as u64;
    let enough = AtomicBool::new(false);
    let look = |&(begin, end): &(u64, u64), buffer: &mut Vec<u8>| -> Vec<Hit> {
        if enough.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let upto = end.saturating_add(overlap).min(memory.len());
        buffer.resize(usize::try_from(upto.saturating_sub(begin)).unwrap_or(0), 0);
        // What follows the chunk may be a gap: then the chunk alone.
        if memory.image().read_at(begin, buffer).is_err() {
            buffer.truncate((end - begin) as usize);
            if let Err(error) = memory.image().read_at(begin, buffer) {
                memory.fault(begin, &error);
                return Vec::new();
            }
        }
        let mut hits = Vec::new();
        for (pattern, finder) in finders.iter().enumerate() {
            for at in finder.find_iter(buffer).take(MOST).filter(|at| (*at as u64) < end - begin) {
                let hit = Hit { at: begin + at as u64, pattern };
                let verdict = accept(hit, buffer.get(at..).unwrap_or_default());
                if verdict != Verdict::No {
                    hits.push(hit);
                }
                if verdict == Verdict::Stop {
                    enough.store(true, Ordering::Relaxed);
                }
            }
        }
        hits
    };
    let chunks = chunks(memory, range);
    let mut hits: Vec<Hit> = if chunks.len() <= FEW {
        let mut buffer = Vec::new();
        chunks.iter().flat_map(|chunk| look(chunk, &mut buffer)).collect()
    } else {
        // In their order, so that what is behind a hit that is enough is not looked at.
        let chunks = chunks.into_iter().par_bridge();
        chunks.map_init(Vec::new, |buffer, chunk| look(&chunk, buffer)).flatten_iter().collect()
    };
    hits.sort_unstable();
    hits
}

/// What becomes of a hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is none.
    No,
    /// It is one.
    Yes,
    /// It is one, and no more are needed.
    Stop,
}

/// The most places of words that are kept, in all: 64 MiB of them.
const MOST_WORDS: usize = 1 << 22;

/// Aligned words that were looked for.
pub(super) struct Words {
    /// Physical address and word, ascending.
    pub(super) found: Vec<(u64, u64)>,
    /// There were more than are kept.
    pub(super) cut: bool,
}

/// All places where one of `wanted` stands as an aligned word of eight bytes, little-endian.
pub(super) fn words(memory: &Physical, mut wanted: Vec<u64>) -> Words {
    wanted.sort_unstable();
    wanted.dedup();
    let Some(&first) = wanted.first() else { return Words { found: Vec::new(), cut: false } };
    // Pointers into one image agree in most bits: one comparison sorts out nearly every word.
    let same = !wanted.iter().fold(0, |differ, word| differ | (word ^ first));
    let count = AtomicUsize::new(0);
    let look = |&(begin, end): &(u64, u64), buffer: &mut Vec<u8>| -> Vec<(u64, u64)> {
        buffer.resize((end - begin) as usize, 0);
        if let Err(error) = memory.image().read_at(begin, buffer) {
            memory.fault(begin, &error);
            return Vec::new();
        }
        let mut found = Vec::new();
        for (at, line) in (begin..).step_by(LINE).zip(buffer.chunks(LINE)) {
            let words = || line.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
            #[expect(
                clippy::unnecessary_fold,
                reason = "it never ends early, so that several words are compared at once"
            )]
            let any = words().fold(false, |any, word| any || ((word ^ first) & same == 0));
            if !any {
                continue;
            }
            let here = (at..).step_by(8).zip(words()).filter(|(_, word)| wanted.binary_search(word).is_ok());
            found.extend(here);
        }
        let before = count.fetch_add(found.len(), Ordering::Relaxed);
        found.truncate(MOST_WORDS.saturating_sub(before));
        found
    };
    let chunks = chunks(memory, 0..memory.len());
    let mut found: Vec<_> =
        chunks.par_iter().map_init(Vec::new, |buffer, chunk| look(chunk, buffer)).flatten_iter().collect();
    found.sort_unstable();
    Words { found, cut: count.into_inner() > MOST_WORDS }
}

/// What is stored, in chunks. What a format holds as zeros holds no pattern.
fn chunks(memory: &Physical, range: Range<u64>) -> Vec<(u64, u64)> {
    let mut chunks = Vec::new();
    for extent in map::walk(memory.image().as_ref(), range).map_while(Result::ok) {
        let mut at = extent.at;
        while extent.kind == Kind::Data && at < extent.end() {
            let cut = (at / CHUNK + 1).saturating_mul(CHUNK).min(extent.end());
            chunks.push((at, cut));
            at = cut;
        }
    }
    chunks
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::image::InMemory;

    #[test]
    fn a_pattern_across_two_chunks_is_found_once() {
        let mut bytes = vec![0; 3 << 20];
        for at in [5, (1 << 20) - 3, (2 << 20) + 7, (3 << 20) - 6] {
            bytes[at..at + 6].copy_from_slice(b"needle");
        }
        let memory = Physical::new(Arc::new(InMemory(bytes)));
        let hits = scan(&memory, &[b"nothing", b"needle"], |_, _| Verdict::Yes);
        let at: Vec<_> = hits.iter().map(|hit| hit.at).collect();
        assert_eq!(at, [5, (1 << 20) - 3, (2 << 20) + 7, (3 << 20) - 6]);
        assert!(hits.iter().all(|hit| hit.pattern == 1));
    }

    #[test]
    fn words_are_found_where_they_are_aligned_and_nowhere_else() {
        let (one, two) = (0xffff_ffff_8123_4560_u64, 0xffff_ffff_8129_0008_u64);
        let mut bytes = vec![0; (2 << 20) + 24];
        let mut put = |at: usize, word: u64| bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        for (at, word) in [(0, two), (1 << 20, one), ((1 << 20) - 8, two), ((2 << 20) + 16, one), (4096 + 4, one)] {
            put(at, word);
        }
        // Agrees with both in the bits that they share, and is neither.
        put(8192, one | 0x8);
        let memory = Physical::new(Arc::new(InMemory(bytes)));
        let words = words(&memory, vec![two, one, two]);
        assert_eq!(words.found, [(0, two), ((1 << 20) - 8, two), (1 << 20, one), ((2 << 20) + 16, one)]);
        assert!(!words.cut);
        assert!(super::words(&memory, Vec::new()).found.is_empty());
    }
}
