//! Hashers that follow the filled beginning of a growing file, each on its own thread.
//!
//! They read back what the writer wrote, through the page cache, so the order in which pieces come costs nothing and the
//! writer never waits for them. Each holds one buffer of 1 MiB. Holes known to the writer are not read: they are taken
//! from its own notes, not from the file system's answer to `SEEK_DATA`, which has been wrong before for fresh data.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest as _, Sha256};

use super::allocation::Allocation;
use super::digests::{Digest, Hasher};
use super::frontier::{Frontier, Next};
use super::pipeline::Content;
use super::sample::is_zero;
use super::space::{Log, Space};
use crate::case::CaseError;
use crate::case::blocks::{Block, Link};
use crate::case::digest::hex;
use crate::case::sha256::Chain;

/// How much is read at once, in bytes. Block boundaries are multiples of it.
pub(super) const CHUNK: u64 = 1 << 20;

/// A growing file and how far it is final.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) file: Arc<File>,
    pub(super) path: PathBuf,
    pub(super) frontier: Arc<Frontier>,
}

/// A part of it. Ends on a multiple of [`CHUNK`] or at the end of the file.
pub(super) struct Chunk<'a> {
    /// Offset of its first byte.
    pub(super) at: u64,
    /// Its bytes.
    pub(super) bytes: &'a [u8],
    /// Nothing was ever written here: the bytes are zero.
    pub(super) hole: bool,
}

impl Chunk<'_> {
    fn end(&self) -> u64 {
        self.at + self.bytes.len() as u64
    }
}

impl Source {
    /// Hands out the file from `from` on, as it grows. The length in the end, or `None` if the writer gave up.
    pub(super) fn follow(
        &self,
        from: u64,
        mut each: impl FnMut(Chunk<'_>) -> Result<(), CaseError>,
    ) -> Result<Option<u64>, CaseError> {
        let size = usize::try_from(CHUNK).unwrap_or(usize::MAX);
        let (mut buffer, zeros, mut at) = (vec![0; size], vec![0; size], from);
        loop {
            let (to, data) = match self.frontier.next(at, CHUNK) {
                Next::Filled { to, data } => (to, data),
                Next::End => return Ok(Some(at)),
                Next::Abandoned => return Ok(None),
            };
            let len = usize::try_from(to - at).unwrap_or(usize::MAX);
            let bytes = if data { self.read(&mut buffer, at, len)? } else { zeros.get(..len).unwrap_or(&zeros) };
            each(Chunk { at, bytes, hole: !data })?;
            at = to;
        }
    }

    /// Reads `len` bytes at `at`: all of them, or an error that says where.
    pub(super) fn read<'a>(&self, buffer: &'a mut [u8], at: u64, len: usize) -> Result<&'a [u8], CaseError> {
        let bytes = buffer.get_mut(..len).ok_or_else(|| CaseError::Caller {
            attempted: format!("read back {len} bytes at byte {at}"),
            on: self.path.clone(),
            why: "the buffer is smaller".into(),
        })?;
        let failed = CaseError::io(format!("read back {len} bytes at byte {at}"), &self.path);
        self.file.read_exact_at(bytes, at).map_err(failed)?;
        Ok(bytes)
    }
}

/// A block whose place in the chain is known.
pub(super) struct Mark {
    at: u64,
    len: u64,
    chain: [u8; 32],
}

/// Hashes the whole file from beginning to end and marks each block. The digest, unless the writer gave up.
///
/// The last block is marked with the digest, not the state, so each mark waits for the next byte. After a resume
/// `before` is the last block that is kept: it is marked again, as it may turn out to be the last.
pub(super) fn chain(
    source: &Source,
    block: u64,
    before: Option<&Link>,
    marks: &SyncSender<Mark>,
) -> Result<Option<[u8; 32]>, CaseError> {
    // Nobody listens if writing the map failed, and then that error is the one to tell.
    let send = |mark: Mark| _ = marks.send(mark);
    let mut begun = before.map_or(0, |link| link.at + link.len);
    let mut waiting = before.map(|link| Mark { at: link.at, len: link.len, chain: link.after });
    let mut chain = before.and_then(|link| Chain::taken_up(begun, &link.after)).unwrap_or_else(Chain::new);
    let end = source.follow(begun, |chunk| {
        waiting.take().into_iter().for_each(send);
        chain.update(chunk.bytes);
        if chunk.end().is_multiple_of(block) {
            waiting = Some(Mark { at: begun, len: chunk.end() - begun, chain: chain.state() });
            begun = chunk.end();
        }
        Ok(())
    })?;
    let Some(end) = end else {
        waiting.into_iter().for_each(send);
        return Ok(None);
    };
    let digest = chain.finish();
    let (at, len) = waiting.map_or((begun, end - begun), |mark| (mark.at, mark.len));
    send(Mark { at, len, chain: digest });
    Ok(Some(digest))
}

/// Hashes each block alone. Blocks of zeros are told from a constant.
pub(super) fn blocks(
    source: &Source,
    block: u64,
    before: Option<&Link>,
    sums: &SyncSender<[u8; 32]>,
) -> Result<(), CaseError> {
    let send = |sum: [u8; 32]| _ = sums.send(sum);
    if let Some(link) = before {
        send(link.sha256);
    }
    let from = before.map_or(0, |link| link.at + link.len);
    let (empty, mut current) = (zeros_digest(block), BlockHash::default());
    let end = source.follow(from, |chunk| {
        current.update(&chunk);
        if chunk.end().is_multiple_of(block) {
            send(current.take(block, &empty));
        }
        Ok(())
    })?;
    if end.is_some_and(|end| !end.is_multiple_of(block) || end == 0) {
        send(current.take(block, &empty));
    }
    Ok(())
}

/// The hash of one block. Zeros at its beginning are only counted, until something else comes.
#[derive(Default)]
struct BlockHash {
    hasher: Sha256,
    zeros: u64,
    mixed: bool,
}

impl BlockHash {
    fn update(&mut self, chunk: &Chunk<'_>) {
        if !self.mixed && (chunk.hole || is_zero(chunk.bytes)) {
            self.zeros += chunk.bytes.len() as u64;
            return;
        }
        if !self.mixed {
            self.mixed = true;
            feed_zeros(&mut self.hasher, self.zeros);
        }
        self.hasher.update(chunk.bytes);
    }

    /// The digest; begins the next block. `empty` is that of `block` zeros.
    fn take(&mut self, block: u64, empty: &[u8; 32]) -> [u8; 32] {
        match std::mem::take(self) {
            Self { mixed: true, hasher, .. } => hasher.finalize().into(),
            Self { zeros, .. } if zeros == block => *empty,
            Self { zeros, .. } => zeros_digest(zeros),
        }
    }
}

fn zeros_digest(len: u64) -> [u8; 32] {
    let mut hasher = Sha256::new();
    feed_zeros(&mut hasher, len);
    hasher.finalize().into()
}

fn feed_zeros(hasher: &mut Sha256, mut len: u64) {
    let zeros = [0; 4096];
    while len > 0 {
        let part = zeros.get(..usize::try_from(len).unwrap_or(usize::MAX).min(4096)).unwrap_or(&zeros);
        hasher.update(part);
        len -= part.len() as u64;
    }
}

/// Writes the map of blocks as they become known; gives the log back to be finished.
///
/// With `allocation` the copy can be resumed: then each line reaches the system at once, after what the allocation map
/// knows of the same bytes.
pub(super) fn map(
    mut log: Log,
    marks: &Receiver<Mark>,
    sums: &Receiver<[u8; 32]>,
    space: &Space,
    allocation: Option<&Mutex<Allocation>>,
) -> Result<Log, CaseError> {
    while let (Ok(mark), Ok(sum)) = (marks.recv(), sums.recv()) {
        log.append(&Block::line(mark.at, mark.len, &sum, &mark.chain), space)?;
        if let Some(allocation) = allocation {
            allocation.lock().unwrap_or_else(PoisonError::into_inner).flush(space)?;
            log.flush(space)?;
        }
    }
    Ok(log)
}

/// Another digest of the whole file, from its beginning on. `None` if the writer gave up.
pub(super) fn other(source: &Source, digest: Digest) -> Result<Option<String>, CaseError> {
    let mut hasher = Hasher::new(digest);
    let end = source.follow(0, |chunk| {
        hasher.update(chunk.bytes);
        Ok(())
    })?;
    Ok(end.map(|_| hasher.finish()))
}

/// SHA-256 of what a spool held, which is given back to the file system behind the reader; and others that are wanted too.
pub(super) fn content(spool: &Source, compared: &BTreeSet<Digest>) -> Result<Option<Content>, CaseError> {
    use rustix::fs::{FallocateFlags, fallocate};
    const STRIDE: u64 = 64 << 20;
    let (mut hasher, mut given) = (Sha256::new(), 0);
    let mut others: Vec<_> = compared.iter().map(|digest| (*digest, Hasher::new(*digest))).collect();
    let end = spool.follow(0, |chunk| {
        hasher.update(chunk.bytes);
        for (_, other) in &mut others {
            other.update(chunk.bytes);
        }
        if chunk.end() >= given + STRIDE {
            // Only thrift: where the file system cannot punch, the spool lives on until the end.
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            let _ = fallocate(&spool.file, flags, given, chunk.end() - given);
            given = chunk.end();
        }
        Ok(())
    })?;
    let others = others.into_iter().map(|(digest, other)| (digest, other.finish()));
    Ok(end.map(|_| (hex(&hasher.finalize()), others.collect())))
}
