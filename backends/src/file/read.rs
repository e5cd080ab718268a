//! Reading a source: several threads, each with its own part, none far ahead of the writer.
//!
//! The extents of the file system are walked once, in order; each is cut into parts of 1 MiB that a few threads read and
//! send as they come. The stream is bounded, so a slow writer holds the readers. A read that fails is tried again, then
//! halved, down to one grain.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use jiff::Timestamp;
use rustix::fs::SeekFrom;
use tokio::sync::mpsc;

use super::source::Source;
use crate::{BackendError, GRAIN, Piece, PieceStream, Why, WireEntry, WireLog};

/// What is read at once, in bytes.
const PART: u64 = 1 << 20;
/// Readers at work. More than one keeps a disk's queue filled; many would only seek.
const READERS: usize = 4;
/// Parts that wait for the writer.
const AHEAD: usize = 8;
/// How often a failing read is tried before it is halved.
const TRIES: u32 = 2;

type Sender = mpsc::Sender<Result<Piece, BackendError>>;

/// Begins to read from byte `from`, a multiple of [`GRAIN`], to the end.
pub(super) fn start(source: &Arc<Source>, from: u64, wire: &Arc<dyn WireLog>) -> PieceStream {
    let (send, pieces) = mpsc::channel(AHEAD);
    let work = Arc::new(Work {
        source: source.clone(),
        extents: Mutex::new(Extents { at: from, len: source.len, data_until: from, data_from: from, dense: false }),
        bad: Mutex::new(0),
        from,
        began: Timestamp::now(),
        wire: wire.clone(),
    });
    // The threads outlive this call and end with the file, or when nobody takes their pieces any more.
    for _ in 0..READERS {
        let (work, send) = (work.clone(), send.clone());
        tokio::task::spawn_blocking(move || work.read(&send));
    }
    pieces
}

/// What the readers share.
struct Work {
    source: Arc<Source>,
    extents: Mutex<Extents>,
    /// Bytes that could not be read.
    bad: Mutex<u64>,
    from: u64,
    began: Timestamp,
    wire: Arc<dyn WireLog>,
}

/// The last reader to end writes down what was read.
impl Drop for Work {
    fn drop(&mut self) {
        let bad = *self.bad.lock().unwrap_or_else(PoisonError::into_inner);
        self.wire.entry(WireEntry {
            sent: self.began,
            answered: Some(Timestamp::now()),
            said: format!("read {} from byte {} to {}", self.source.shown(), self.from, self.source.len),
            answer_len: self.source.len - self.from,
            answer_digest: String::new(),
            error: (bad > 0).then(|| format!("{bad} bytes could not be read")),
            http: None,
        });
    }
}

impl Work {
    /// Takes parts until none is left or nobody listens.
    fn read(&self, send: &Sender) {
        loop {
            let part = self.extents.lock().unwrap_or_else(PoisonError::into_inner).next(&self.source.file);
            let listening = match part {
                None => return,
                Some(Part::Hole(range)) => send.blocking_send(Ok(gap(&range, Why::Sparse))).is_ok(),
                Some(Part::Data(range)) => self.part(range, send),
            };
            if !listening {
                return;
            }
        }
    }

    /// Reads one part and sends what comes of it. False if nobody listens or there is no sense in going on.
    fn part(&self, whole: Range<u64>, send: &Sender) -> bool {
        let mut gone = true;
        halve(
            whole,
            |range| self.try_read(range),
            |range, result| {
                let piece = match result {
                    Ok(bytes) => Ok(Piece::Data { at: range.start, bytes }),
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(self.shrank(range)),
                    Err(error) => {
                        *self.bad.lock().unwrap_or_else(PoisonError::into_inner) += range.end - range.start;
                        Ok(gap(range, Why::Unreadable(error.to_string())))
                    }
                };
                let broken = piece.is_err();
                gone = send.blocking_send(piece).is_err() || broken;
                !gone
            },
        );
        !gone
    }

    fn try_read(&self, range: &Range<u64>) -> io::Result<Bytes> {
        let mut bytes = vec![0; usize::try_from(range.end - range.start).map_err(io::Error::other)?];
        let mut tries = 0;
        loop {
            match self.source.file.read_exact_at(&mut bytes, range.start) {
                Ok(()) => return Ok(bytes.into()),
                Err(error) => {
                    tries += 1;
                    if tries == TRIES || error.kind() == io::ErrorKind::UnexpectedEof {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// The file ends before its length: not an unreadable place, but another file than the one that was opened.
    fn shrank(&self, range: &Range<u64>) -> BackendError {
        // No more parts: they would say the same thing over and over.
        let mut extents = self.extents.lock().unwrap_or_else(PoisonError::into_inner);
        extents.at = extents.len;
        let why = format!("it shrank while it was read: it had {} bytes", self.source.len);
        BackendError::corrupt("read", self.source.shown(), format!("byte {}", range.start), "more bytes", why)
    }
}

/// Reads `whole`; what fails is halved until it is one grain. Tells the results in order, until told to stop.
fn halve(
    whole: Range<u64>,
    read: impl Fn(&Range<u64>) -> io::Result<Bytes>,
    mut tell: impl FnMut(&Range<u64>, io::Result<Bytes>) -> bool,
) {
    let mut todo = vec![whole];
    while let Some(range) = todo.pop() {
        let (result, len) = (read(&range), range.end - range.start);
        let final_word = result.as_ref().map_or_else(|error| error.kind() == io::ErrorKind::UnexpectedEof, |_| true);
        if !final_word && len > GRAIN {
            // The front half is read first, so pieces stay in order.
            let middle = range.start + (len / 2).next_multiple_of(GRAIN);
            todo.push(middle..range.end);
            todo.push(range.start..middle);
        } else if !tell(&range, result) {
            return;
        }
    }
}

fn gap(range: &Range<u64>, why: Why) -> Piece {
    Piece::Gap { at: range.start, len: range.end - range.start, why }
}

/// A part to be read, or a hole.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    Data(Range<u64>),
    Hole(Range<u64>),
}

/// A walk over data and holes.
#[derive(Debug)]
struct Extents {
    /// The next byte to hand out.
    at: u64,
    len: u64,
    /// The data known: from here to there.
    data_from: u64,
    data_until: u64,
    /// The file system knows no holes: all is data.
    dense: bool,
}

impl Extents {
    fn next(&mut self, file: &File) -> Option<Part> {
        if self.at >= self.len {
            return None;
        }
        if !self.dense && self.at >= self.data_until {
            self.look(file);
        }
        if self.at < self.data_from {
            let hole = self.at..self.data_from;
            self.at = hole.end;
            return Some(Part::Hole(hole));
        }
        let end = (self.at / PART + 1).saturating_mul(PART).min(self.data_until);
        let part = self.at..end;
        self.at = end;
        Some(Part::Data(part))
    }

    /// Asks the file system where the next data is. Holes are narrowed to whole grains, so data is never lost to the grid.
    fn look(&mut self, file: &File) {
        let all = self.at..self.len;
        let found = data(file, self.at, self.len);
        self.dense = found.is_none();
        let data = found.unwrap_or(all);
        self.data_from = (data.start / GRAIN * GRAIN).max(self.at);
        if data.start >= self.len {
            self.data_from = self.len;
        }
        self.data_until = data.end.checked_next_multiple_of(GRAIN).unwrap_or(self.len).min(self.len);
    }
}

/// The next data at or after `at`; empty at the end if only a hole follows; `None` if the file system cannot tell.
pub(crate) fn data(file: &File, at: u64, len: u64) -> Option<Range<u64>> {
    match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(start) if start >= at => match rustix::fs::seek(file, SeekFrom::Hole(start)) {
            Ok(end) if end > start => Some(start.min(len)..end.min(len)),
            _ => None,
        },
        // No data to the end, or beyond an end that has moved: only the first is a hole.
        Err(rustix::io::Errno::NXIO) if file.metadata().is_ok_and(|now| now.len() >= len) => Some(len..len),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_grains_that_fail_are_given_up() {
        let bad = [3 * GRAIN, 4 * GRAIN + 512, 200 * GRAIN];
        let read = |range: &Range<u64>| {
            if bad.iter().any(|at| range.contains(at)) { Err(io::Error::other("bad sector")) } else { Ok(Bytes::new()) }
        };
        let (mut next, mut lost) = (0, Vec::new());
        halve(0..256 * GRAIN - 100, read, |range, result| {
            assert_eq!(range.start, next, "in order, nothing left out");
            next = range.end;
            if result.is_err() {
                lost.push(range.clone());
            }
            true
        });
        assert_eq!(next, 256 * GRAIN - 100);
        let grain = |n: u64| n * GRAIN..(n + 1) * GRAIN;
        assert_eq!(lost, [grain(3), grain(4), grain(200)]);
    }

    #[test]
    fn a_file_that_ends_early_is_not_halved() {
        let mut told = 0;
        halve(
            0..PART,
            |_| Err(io::ErrorKind::UnexpectedEof.into()),
            |_, _| {
                told += 1;
                true
            },
        );
        assert_eq!(told, 1);
    }
}
