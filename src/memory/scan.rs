//! One pass over all of memory for several patterns at once, by all cores. What is not in the image is passed over.

use std::sync::atomic::{AtomicBool, Ordering};

use memchr::memmem::Finder;
use rayon::prelude::*;

use super::Physical;
use crate::image::{Kind, map};

/// Bytes that one thread looks through at a time.
const CHUNK: u64 = 1 << 20;
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
    let chunks = chunks(memory);
    let mut hits: Vec<Hit> =
        chunks.par_iter().map_init(Vec::new, |buffer, chunk| look(chunk, buffer)).flatten_iter().collect();
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

/// What is stored, in chunks. What a format holds as zeros holds no pattern.
fn chunks(memory: &Physical) -> Vec<(u64, u64)> {
    let mut chunks = Vec::new();
    for extent in map::walk(memory.image().as_ref(), 0..memory.len()).map_while(Result::ok) {
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
}
