//! A remote object as pieces, copied by many requests at once: each span lands at its own place, in any order, and is exact or a named gap.
//!
//! Who knows the object says span by span what to read ([`Spans::read`]), what was never written ([`Spans::hole`]), or of a whole
//! part that it is to be read ([`Spans::all`]). Memory is bounded by the room in one semaphore, which several objects can share. A span that
//! cannot be had is a gap of the kind `unreadable`, with why; many in a row, or a refusal that holds for all ([`Lost::for_all`]), end
//! the stream, so that the copy can be gone on with later.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinError, JoinSet};

use crate::capture::split_zeros;
use crate::{BackendError, GRAIN, Kind, Piece, PieceStream, Why};

/// Pieces that wait for the writer.
const AHEAD: usize = 8;
/// Spans that fail one after the other before nothing more is asked for.
const FAILURES_MAX: u32 = 16;

/// Where pieces go.
pub type Out = mpsc::Sender<Result<Piece, BackendError>>;

/// A span that could not be had.
#[derive(Debug)]
pub struct Lost {
    /// Why.
    pub error: Box<BackendError>,
    /// The same would be said of every other span, so that none need be asked for.
    pub for_all: bool,
}

impl From<BackendError> for Lost {
    /// Lost for itself; the next span may be had.
    fn from(error: BackendError) -> Self {
        Self { error: Box::new(error), for_all: false }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Spans {
    out: Out,
    /// Spans that may be under way.
    room: Arc<Semaphore>,
    tasks: JoinSet<Result<(), BackendError>>,
    /// Spans that failed one after the other.
    failures: Arc<AtomicU32>,
}

/// Begins to copy as `run` says. `whole` is set once all was sent, gaps included, and not if the stream ended with an error.
pub fn start<F, R>(room: &Arc<Semaphore>, whole: Arc<AtomicBool>, run: F) -> PieceStream
where
    F: FnOnce(Spans) -> R + Send + 'static,
    R: Future<Output = Result<Spans, BackendError>> + Send,
{
    let (out, pieces) = mpsc::channel(AHEAD);
    let spans = Spans { out: out.clone(), room: Arc::clone(room), tasks: JoinSet::new(), failures: Arc::default() };
    tokio::spawn(async move {
        let copy = async { run(spans).await?.end().await };
        let done = tokio::select! {
            biased;
            () = out.closed() => return,
            done = copy => done,
        };
        match done {
            Ok(()) => whole.store(true, Ordering::Release),
            // Nobody listens any more, if it cannot be sent.
            Err(error) => drop(out.send(Err(error)).await),
        }
    });
    pieces
}

impl Spans {
    /// For pieces that come from elsewhere.
    pub fn out(&self) -> &Out {
        &self.out
    }

    /// From `at` up to `end` nothing was ever written.
    pub async fn hole(&self, at: u64, end: u64) {
        if at < end {
            // Whoever does not listen any more needs no hole.
            let _ = self.out.send(Ok(Piece::Gap { at, len: end - at, why: Why::Sparse })).await;
        }
    }

    /// Sets off the reading of `len` bytes at `at`, once there is room. An error is that of a span before.
    ///
    /// # Errors
    /// That of a span whose loss ends the copy.
    pub async fn read<R>(&mut self, at: u64, len: u64, read: R) -> Result<(), BackendError>
    where
        R: Future<Output = Result<Bytes, Lost>> + Send + 'static,
    {
        while let Some(done) = self.tasks.try_join_next() {
            ended(done)?;
        }
        // It is never closed.
        let Ok(room) = Arc::clone(&self.room).acquire_owned().await else { return Ok(()) };
        let (out, failures) = (self.out.clone(), Arc::clone(&self.failures));
        self.tasks.spawn(async move {
            for piece in pieces(at, len, read.await, &failures)? {
                let _ = out.send(Ok(piece)).await;
            }
            drop(room);
            Ok(())
        });
        Ok(())
    }

    /// Reads all from `at` up to `end`, in spans that end at multiples of `span`, itself a multiple of [`GRAIN`].
    ///
    /// # Errors
    /// As [`Spans::read`].
    pub async fn all<R>(
        &mut self,
        mut at: u64,
        end: u64,
        span: u64,
        read: impl Fn(u64, u64) -> R + Send,
    ) -> Result<(), BackendError>
    where
        R: Future<Output = Result<Bytes, Lost>> + Send + 'static,
    {
        debug_assert!(span.is_multiple_of(GRAIN) && span > 0, "a span of {span} bytes");
        while at < end {
            let len = (span - at % span).min(end - at);
            self.read(at, len, read(at, len)).await?;
            at += len;
        }
        Ok(())
    }

    /// Waits for all that is under way.
    async fn end(mut self) -> Result<(), BackendError> {
        while let Some(done) = self.tasks.join_next().await {
            ended(done)?;
        }
        Ok(())
    }
}

/// What came of a span, runs of zeros told apart so that images stay sparse; an error if no other span is to be asked for.
fn pieces(at: u64, len: u64, came: Result<Bytes, Lost>, failures: &AtomicU32) -> Result<Vec<Piece>, BackendError> {
    let came = came.and_then(|bytes| if bytes.len() as u64 == len { Ok(bytes) } else { Err(short(at, len, &bytes)) });
    match came {
        Ok(bytes) => {
            failures.store(0, Ordering::Relaxed);
            Ok(split_zeros(at, bytes))
        }
        Err(lost) if lost.for_all || failures.fetch_add(1, Ordering::Relaxed) + 1 >= FAILURES_MAX => Err(*lost.error),
        Err(lost) => Ok(vec![Piece::Gap { at, len, why: Why::Unreadable(lost.error.why) }]),
    }
}

fn short(at: u64, len: u64, bytes: &Bytes) -> Lost {
    let (expected, found) = (format!("{len} bytes"), bytes.len());
    BackendError::corrupt("read a span", "the object", format!("byte {at}"), expected, found).into()
}

fn ended(done: Result<Result<(), BackendError>, JoinError>) -> Result<(), BackendError> {
    done.unwrap_or_else(|error| {
        Err(BackendError::new(Kind::Io, "read a part of the object", "this program", error.to_string()))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;

    const SPAN: u64 = 2 * GRAIN;

    fn lost(why: &str, for_all: bool) -> Lost {
        Lost { error: Box::new(BackendError::unsupported("read", "x", why)), for_all }
    }

    /// The byte that stands at each place is the number of its span, and never zero.
    fn bytes(at: u64, len: u64) -> Bytes {
        vec![u8::try_from(at / SPAN % 251 + 1).unwrap(); usize::try_from(len).unwrap()].into()
    }

    /// All pieces of a copy by their place, how it ended, and whether it was whole.
    async fn taken<R>(
        room: usize,
        end: u64,
        read: impl Fn(u64, u64) -> R + Send + Sync + 'static,
    ) -> (BTreeMap<u64, Piece>, Option<BackendError>, bool)
    where
        R: Future<Output = Result<Bytes, Lost>> + Send + 'static,
    {
        let whole = Arc::new(AtomicBool::new(false));
        let mut pieces = start(&Arc::new(Semaphore::new(room)), Arc::clone(&whole), move |mut spans| async move {
            spans.hole(0, GRAIN).await;
            spans.all(GRAIN, end, SPAN, read).await?;
            Ok(spans)
        });
        let (mut found, mut error) = (BTreeMap::new(), None);
        while let Some(piece) = pieces.recv().await {
            match piece {
                Ok(piece) => {
                    let (Piece::Data { at, .. } | Piece::Gap { at, .. } | Piece::Zero { at, .. }) = piece else {
                        panic!("{piece:?}")
                    };
                    assert!(found.insert(at, piece).is_none(), "{at} came twice");
                }
                Err(ended) => error = Some(ended),
            }
        }
        (found, error, whole.load(Ordering::Acquire))
    }

    #[tokio::test]
    async fn each_span_lands_at_its_place_and_no_more_run_than_there_is_room_for() {
        let running = Arc::new((AtomicU32::new(0), AtomicU32::new(0)));
        let seen = Arc::clone(&running);
        let end = 100 * SPAN + 5;
        let (found, error, whole) = taken(3, end, move |at, len| {
            let running = Arc::clone(&running);
            async move {
                let now = running.0.fetch_add(1, Ordering::SeqCst) + 1;
                running.1.fetch_max(now, Ordering::SeqCst);
                // Those with an odd number come later than those after them.
                tokio::time::sleep(Duration::from_millis(at / SPAN % 2 * 3)).await;
                running.0.fetch_sub(1, Ordering::SeqCst);
                Ok(bytes(at, len))
            }
        })
        .await;
        assert!(error.is_none() && whole);
        assert_eq!(found[&0], Piece::Gap { at: 0, len: GRAIN, why: Why::Sparse });
        let mut next = GRAIN;
        for (at, piece) in found.range(1..) {
            let Piece::Data { bytes: came, .. } = piece else { panic!("{piece:?}") };
            assert_eq!((*at, came), (next, &bytes(*at, came.len() as u64)));
            next += came.len() as u64;
        }
        assert_eq!((next, seen.1.load(Ordering::SeqCst)), (end, 3));
    }

    #[tokio::test]
    async fn what_cannot_be_had_is_a_gap_and_what_is_short_is_not_had() {
        let (found, error, whole) = taken(2, 9 * SPAN, |at, len| async move {
            match at / SPAN {
                3 => Err(lost("burnt", false)),
                5 => Ok(bytes(at, len - 1)),
                _ => Ok(bytes(at, len)),
            }
        })
        .await;
        assert!(error.is_none() && whole);
        let gaps: Vec<_> = found.values().filter(|piece| matches!(piece, Piece::Gap { .. })).collect();
        assert_eq!(gaps[1], &Piece::Gap { at: 3 * SPAN, len: SPAN, why: Why::Unreadable("burnt".to_owned()) });
        let Piece::Gap { at, len: SPAN, why: Why::Unreadable(why) } = gaps[2] else { panic!("{gaps:?}") };
        assert!(*at == 5 * SPAN && why.contains("8191"), "{why}");
        assert_eq!((gaps.len(), found.len()), (3, 10));
    }

    #[tokio::test]
    async fn many_in_a_row_or_one_that_holds_for_all_end_it() {
        let asked = Arc::new(AtomicU32::new(0));
        for (for_all, most) in [(false, FAILURES_MAX + 4), (true, 4)] {
            let (count, asked) = (Arc::clone(&asked), Arc::clone(&asked));
            asked.store(0, Ordering::SeqCst);
            let (found, error, whole) = taken(4, 1000 * SPAN, move |_, _| {
                let count = Arc::clone(&count);
                async move {
                    count.fetch_add(1, Ordering::SeqCst);
                    Err(lost("gone", for_all))
                }
            })
            .await;
            assert!(error.is_some_and(|error| error.why == "gone") && !whole);
            assert!(asked.load(Ordering::SeqCst) <= most, "{asked:?} spans of {for_all}");
            assert!(found.len() <= FAILURES_MAX as usize, "{}", found.len());
        }
    }

    #[tokio::test]
    async fn it_ends_when_nobody_listens() {
        let (whole, alive) = (Arc::new(AtomicBool::new(false)), Arc::new(()));
        let held = Arc::clone(&alive);
        let pieces = start(&Arc::new(Semaphore::new(2)), Arc::clone(&whole), |mut spans| async move {
            let hang = |_, _| {
                let held = Arc::clone(&held);
                async move {
                    std::future::pending::<()>().await;
                    drop(held);
                    Ok(Bytes::new())
                }
            };
            spans.all(0, 1000 * SPAN, SPAN, hang).await?;
            Ok(spans)
        });
        tokio::task::yield_now().await;
        drop(pieces);
        while Arc::strong_count(&alive) > 1 {
            tokio::task::yield_now().await;
        }
        assert!(!whole.load(Ordering::Acquire));
    }
}
