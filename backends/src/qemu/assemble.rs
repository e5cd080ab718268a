//! From pages of QEMU's RAM blocks to pieces of guest-physical memory.
//!
//! A block may answer at several ranges of addresses, and parts of it at none. Neighbouring pages are joined, since a piece
//! a page would cost more than the copy.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::{mpsc, oneshot};

use super::flatview::{MemoryMap, same_block};
use super::stream::{Sink, StreamError};
use crate::{BackendError, Piece};

/// Longest piece, in bytes.
const PIECE: usize = 1 << 20;
/// Most bytes of device state kept. A machine with many devices has some hundred KiB; a graphics card a few MiB.
const REST_MAX: u64 = 64 << 20;

/// What was seen of a stream.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Seen {
    /// Length of the stream in bytes.
    pub len: u64,
    /// Pages of blocks that answer at no address of the image.
    pub unplaced: u64,
}

/// Takes a stream's pages and sends pieces.
pub(super) struct Assembler {
    map: Arc<MemoryMap>,
    /// For each block of the stream the ranges of the map that it fills, as indexes.
    places: Vec<Vec<usize>>,
    to: mpsc::Sender<Result<Piece, BackendError>>,
    armed: Option<oneshot::Sender<()>>,
    data: BytesMut,
    data_at: u64,
    zero_at: u64,
    zero_len: u64,
    rest: u64,
    seen: Seen,
    digest: blake3::Hasher,
}

impl Assembler {
    /// Pages go to `to`; `armed` is told when the instant is fixed.
    pub(super) fn new(
        map: Arc<MemoryMap>,
        to: mpsc::Sender<Result<Piece, BackendError>>,
        armed: oneshot::Sender<()>,
    ) -> Self {
        Self {
            map,
            places: Vec::new(),
            to,
            armed: Some(armed),
            data: BytesMut::with_capacity(PIECE),
            data_at: 0,
            zero_at: 0,
            zero_len: 0,
            rest: 0,
            seen: Seen::default(),
            digest: blake3::Hasher::new(),
        }
    }

    /// Sends what is still held back. Answers what was seen and the BLAKE3 digest of the stream.
    pub(super) fn finish(&mut self) -> Result<(Seen, String), StreamError> {
        self.flush_data()?;
        self.flush_zero()?;
        Ok((self.seen, self.digest.finalize().to_hex().to_string()))
    }

    fn send(&self, piece: Piece) -> Result<(), StreamError> {
        self.to.blocking_send(Ok(piece)).map_err(|_| StreamError::Closed)
    }

    fn flush_data(&mut self) -> Result<(), StreamError> {
        if self.data.is_empty() {
            return Ok(());
        }
        let bytes = self.data.split().freeze();
        self.data.reserve(PIECE);
        self.send(Piece::Data { at: self.data_at, bytes })
    }

    fn flush_zero(&mut self) -> Result<(), StreamError> {
        if self.zero_len == 0 {
            return Ok(());
        }
        let len = std::mem::take(&mut self.zero_len);
        self.send(Piece::Zero { at: self.zero_at, len })
    }

    /// Calls `each` with every address of the image at which `len` bytes of `block` at `offset` answer. A page that
    /// lies across the edge of a range (a 64 KiB page of the target at a 4 KiB edge) is cut: `(address, skip, len)`.
    fn addresses(&self, block: usize, offset: u64, len: u64) -> Vec<(u64, u64, u64)> {
        let mut found = Vec::new();
        for index in self.places.get(block).into_iter().flatten() {
            let Some(range) = self.map.ranges.get(*index) else { continue };
            let from = offset.max(range.offset);
            let to = offset.saturating_add(len).min(range.offset.saturating_add(range.len));
            if from < to {
                found.push((range.at + (from - range.offset), from - offset, to - from));
            }
        }
        found
    }
}

impl Sink for Assembler {
    fn block(&mut self, _number: usize, name: &str, _len: u64) -> Result<(), StreamError> {
        let ranges = self.map.ranges.iter().enumerate();
        self.places.push(ranges.filter(|(_, range)| same_block(name, &range.name)).map(|(index, _)| index).collect());
        Ok(())
    }

    fn armed(&mut self) {
        if let Some(armed) = self.armed.take() {
            // Nobody waits any more if the run was given up; the stream ends by itself then.
            let _ = armed.send(());
        }
    }

    fn page(&mut self, block: usize, offset: u64, bytes: &[u8]) -> Result<(), StreamError> {
        let places = self.addresses(block, offset, bytes.len() as u64);
        if places.is_empty() {
            self.seen.unplaced = self.seen.unplaced.saturating_add(1);
        }
        for (at, skip, len) in places {
            let from = usize::try_from(skip).unwrap_or(usize::MAX);
            let to = from.saturating_add(usize::try_from(len).unwrap_or(0));
            let part = bytes.get(from..to).unwrap_or_default();
            if self.data_at.saturating_add(self.data.len() as u64) != at || self.data.len() + part.len() > PIECE {
                self.flush_data()?;
                self.data_at = at;
            }
            self.data.extend_from_slice(part);
        }
        Ok(())
    }

    fn zero(&mut self, block: usize, offset: u64, len: u64) -> Result<(), StreamError> {
        for (at, _, len) in self.addresses(block, offset, len) {
            if self.zero_at.saturating_add(self.zero_len) != at {
                self.flush_zero()?;
                self.zero_at = at;
            }
            self.zero_len = self.zero_len.saturating_add(len);
        }
        Ok(())
    }

    fn rest(&mut self, bytes: &[u8]) -> Result<(), StreamError> {
        self.rest = self.rest.saturating_add(bytes.len() as u64);
        if self.rest > REST_MAX {
            return Err(StreamError::Corrupt {
                at: self.seen.len,
                expected: "at most 64 MiB of device state",
                found: format!("{} bytes", self.rest),
            });
        }
        self.send(Piece::Aside { name: "device-state.bin", bytes: Bytes::copy_from_slice(bytes) })
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.seen.len = self.seen.len.saturating_add(bytes.len() as u64);
        self.digest.update(bytes);
    }
}
