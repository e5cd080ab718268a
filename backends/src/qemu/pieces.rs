//! Sending the bytes of a range as pieces, with runs of zeros told apart so that images stay sparse.

use std::io::{self, Read};

use bytes::BytesMut;
use tokio::sync::mpsc;

use super::flatview::MemoryMap;
use crate::capture::split_zeros;
use crate::{BackendError, Piece, Why};

/// Bytes read and sent at once.
const CHUNK: usize = 1 << 20;

/// Pieces between the reader and the writer: 64 MiB at most.
pub(super) const CHANNEL: usize = 64;

/// The channel of one capture.
pub(super) type Sender = mpsc::Sender<Result<Piece, BackendError>>;

/// Reads `len` bytes and sends them as what is at `at`. `Ok(false)`: nobody takes them any more.
pub(super) fn forward(from: &mut impl Read, at: u64, len: u64, to: &Sender) -> io::Result<bool> {
    let mut done = 0;
    while done < len {
        let now = usize::try_from(len - done).unwrap_or(CHUNK).min(CHUNK);
        let mut chunk = BytesMut::zeroed(now);
        from.read_exact(&mut chunk)?;
        if !send(chunk, at.saturating_add(done), to) {
            return Ok(false);
        }
        done = done.saturating_add(now as u64);
    }
    Ok(true)
}

/// Names the addresses where no memory answers.
pub(super) fn send_holes(map: &MemoryMap, to: &Sender) -> bool {
    map.holes().into_iter().all(|(at, len)| to.blocking_send(Ok(Piece::Gap { at, len, why: Why::NotRam })).is_ok())
}

/// Reads `len` bytes and forgets them.
pub(super) fn skip(from: &mut impl Read, len: u64) -> io::Result<()> {
    let skipped = io::copy(&mut from.take(len), &mut io::sink())?;
    if skipped == len { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn send(chunk: BytesMut, at: u64, to: &Sender) -> bool {
    split_zeros(at, chunk).into_iter().all(|piece| to.blocking_send(Ok(piece)).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_told_apart_and_every_byte_keeps_its_place() {
        let mut bytes = vec![1u8; 100_000];
        bytes.resize(400_000, 0);
        bytes.extend(vec![2; 1_500_000]);
        let (to, mut pieces) = mpsc::channel(64);
        assert!(forward(&mut bytes.as_slice(), 4096, bytes.len() as u64, &to).unwrap());
        drop(to);
        let (mut next, mut zeros) = (4096, 0);
        while let Some(piece) = pieces.blocking_recv() {
            match piece.unwrap() {
                Piece::Data { at, bytes: part } => {
                    assert_eq!(at, next);
                    let from = usize::try_from(at - 4096).unwrap();
                    assert_eq!(&part[..], &bytes[from..from + part.len()]);
                    next += part.len() as u64;
                }
                Piece::Zero { at, len } => {
                    assert_eq!(at, next);
                    zeros += len;
                    next += len;
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(next, 4096 + 1_900_000);
        assert_eq!(zeros, 4 * 65536);
    }

    #[test]
    fn a_short_source_is_an_error() {
        let (to, _pieces) = mpsc::channel(64);
        assert!(forward(&mut [0u8; 10].as_slice(), 0, 11, &to).is_err());
        assert!(skip(&mut [0u8; 10].as_slice(), 11).is_err());
    }
}
