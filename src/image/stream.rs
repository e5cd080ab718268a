//! All of an image, in order, decoded by all cores: what hashing and export read through.

use std::ops::Range;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use super::{Extent, Kind, ReadAt, ReadError, map};

/// Bytes that one thread reads at a time, unless the image decodes more together.
const CHUNK: u64 = 1 << 20;
/// The most that it reads at a time, whatever the image says.
const CHUNK_MOST: u64 = 64 << 20;
/// Chunks that wait, for each thread: bounds memory.
const AHEAD: usize = 3;

/// A part of the stream. Together they cover the range, in order.
#[derive(Debug)]
pub enum Chunk<'a> {
    /// Bytes that are stored, at `at`.
    Data {
        /// Address of the first.
        at: u64,
        /// The bytes; never empty.
        bytes: &'a [u8],
    },
    /// A range that is zero and takes no room, or that is not there.
    Hole(Extent),
}

/// Reads `range` of `image` and hands it to `take`, chunk by chunk, in order. `take` may end it with its own error.
pub fn in_order<E: From<ReadError>>(
    image: &dyn ReadAt,
    range: Range<u64>,
    mut take: impl FnMut(Chunk<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let workers = thread::available_parallelism().map_or(1, std::num::NonZero::get).clamp(1, 16);
    thread::scope(|scope| {
        // A worker that stops drops its ends, so nobody waits for ever.
        let mut lanes = Vec::with_capacity(workers);
        for _ in 0..workers {
            let (order, orders) = sync_channel::<Range<u64>>(AHEAD);
            let (done, ready) = sync_channel(AHEAD);
            let (empty, empties) = sync_channel(AHEAD);
            scope.spawn(move || work(image, &orders, &done, &empties));
            lanes.push(Lane { order, ready, empty });
        }
        let mut plan = Plan { parts: map::walk(image, range), part: None, chunk: chunk(image) };
        let mut waiting = std::collections::VecDeque::new();
        let mut turn = 0;
        loop {
            // As many orders are out as the lanes can hold; then the oldest is taken.
            while waiting.len() < workers * AHEAD {
                match plan.next() {
                    None => break,
                    Some(Ok(Part::Read(range))) => {
                        let lane = turn % workers;
                        turn += 1;
                        if let Some(Lane { order, .. }) = lanes.get(lane) {
                            // A lane that ended says why when its answer is taken.
                            let _ = order.send(range);
                        }
                        waiting.push_back(Ok(Due::Lane(lane)));
                    }
                    Some(Ok(Part::Hole(extent))) => waiting.push_back(Ok(Due::Hole(extent))),
                    Some(Err(error)) => waiting.push_back(Err(error)),
                }
            }
            match waiting.pop_front() {
                None => return Ok(()),
                Some(Err(error)) => return Err(error.into()),
                Some(Ok(Due::Hole(extent))) => take(Chunk::Hole(extent))?,
                Some(Ok(Due::Lane(lane))) => {
                    let answer = lanes.get(lane).and_then(|lane| lane.ready.recv().ok());
                    let gone = || ReadError::caller("read the image", "a thread that read it ended");
                    let (at, bytes) = answer.ok_or_else(gone)??;
                    take(Chunk::Data { at, bytes: &bytes })?;
                    if let Some(lane) = lanes.get(lane) {
                        // If the lane ended, the buffer goes as well.
                        let _ = lane.empty.try_send(bytes);
                    }
                }
            }
        }
    })
}

/// The ends of one thread: what it is to read, what it has read, and buffers that are free again. A fresh buffer costs
/// more than reading into it: the system has to find and clear its pages.
struct Lane {
    order: SyncSender<Range<u64>>,
    ready: Receiver<Answer>,
    empty: SyncSender<Vec<u8>>,
}

enum Due {
    Lane(usize),
    Hole(Extent),
}

enum Part {
    Read(Range<u64>),
    Hole(Extent),
}

/// Cuts the extents into what one thread reads at a time.
struct Plan<'a> {
    parts: map::Walk<'a>,
    part: Option<Range<u64>>,
    chunk: u64,
}

fn chunk(image: &dyn ReadAt) -> u64 {
    CHUNK.next_multiple_of(image.unit().clamp(1, CHUNK_MOST))
}

impl Iterator for Plan<'_> {
    type Item = Result<Part, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let range = match self.part.take() {
            Some(range) => range,
            None => match self.parts.next()? {
                Err(error) => return Some(Err(error)),
                Ok(Extent { at, len, kind: Kind::Data }) => at..at.saturating_add(len),
                Ok(extent) => return Some(Ok(Part::Hole(extent))),
            },
        };
        // Cut at multiples, so that a compressed unit is decoded by one thread and once.
        let cut = (range.start / self.chunk + 1).saturating_mul(self.chunk).min(range.end);
        if cut < range.end {
            self.part = Some(cut..range.end);
        }
        Some(Ok(Part::Read(range.start..cut)))
    }
}

type Answer = Result<(u64, Vec<u8>), ReadError>;

fn work(image: &dyn ReadAt, orders: &Receiver<Range<u64>>, done: &SyncSender<Answer>, empties: &Receiver<Vec<u8>>) {
    while let Ok(range) = orders.recv() {
        let len = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(0);
        let mut bytes = empties.try_recv().unwrap_or_default();
        bytes.resize(len, 0);
        let answer = image.read_at(range.start, &mut bytes).map(|()| (range.start, bytes));
        let failed = answer.is_err();
        if done.send(answer).is_err() || failed {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{InMemory, Span, Spans};
    use super::*;

    struct Broken;
    impl ReadAt for Broken {
        fn len(&self) -> u64 {
            64 << 20
        }
        fn read_at(&self, at: u64, into: &mut [u8]) -> Result<(), ReadError> {
            if at >= 32 << 20 {
                return Err(ReadError::corrupt("test", at, "a", "b"));
            }
            into.fill(3);
            Ok(())
        }
    }

    #[test]
    fn everything_comes_once_and_in_order() {
        let bytes: Vec<u8> = (0..5_000_000_u32).map(|i| (i % 251) as u8).collect();
        let below: Arc<dyn ReadAt> = Arc::new(InMemory(bytes.clone()));
        let spans = vec![
            Span { at: 1000, len: 3_000_000, from: Some(0) },
            Span { at: 3_001_000, len: 4096, from: None },
            Span { at: 4_000_000, len: 2_000_000, from: Some(3_000_000) },
        ];
        let image = Spans::new(below, "test", spans).unwrap();
        let (mut at, mut seen, mut holes) = (0, Vec::new(), Vec::new());
        in_order::<ReadError>(&image, 0..image.len(), |chunk| {
            match chunk {
                Chunk::Data { at: here, bytes } => {
                    assert_eq!(here, at);
                    at += bytes.len() as u64;
                    seen.extend_from_slice(bytes);
                }
                Chunk::Hole(extent) => {
                    assert_eq!(extent.at, at);
                    at = extent.end();
                    holes.push((extent.at, extent.len, extent.kind == Kind::Zero));
                }
            }
            Ok(())
        })
        .unwrap();
        assert_eq!(at, image.len());
        assert!(seen == bytes);
        assert_eq!(holes, [(0, 1000, false), (3_001_000, 4096, true), (3_005_096, 994_904, false)]);
    }

    #[test]
    fn whoever_takes_may_stop_and_a_failure_comes_through() {
        let image = InMemory(vec![1; 40 << 20]);
        let stopped = in_order(&image, 0..u64::MAX, |_| Err(ReadError::caller("go on", "enough")));
        assert_eq!(stopped.unwrap_err().to_string(), "could not go on: enough");

        let mut taken = 0;
        let broken = in_order::<ReadError>(&Broken, 0..64 << 20, |chunk| {
            if let Chunk::Data { bytes, .. } = chunk {
                taken += bytes.len();
            }
            Ok(())
        });
        assert!(matches!(broken, Err(ReadError::Corrupt { at: 0x200_0000, .. })));
        assert_eq!(taken, 32 << 20);
    }
}
