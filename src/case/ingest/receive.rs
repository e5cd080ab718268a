//! The receiver: takes pieces as they come and puts each in its place. It only writes; hashing is done behind it.

use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use bytes::Bytes;
use impound_backends::{BackendError, Capture, ItemKind, Piece, PieceStream, Why};
use jiff::Timestamp;
use rustix::fs::{FallocateFlags, fallocate};

use super::allocation::{Allocation, Kind, Run};
use super::aside::Asides;
use super::coverage::Coverage;
use super::follow::{CHUNK, Source};
use super::gaps::{Gap, Gaps};
use super::layout::Layout;
use super::options::Plan;
use super::sample::Sample;
use super::space::{Space, full};
use crate::case::CaseError;
use crate::progress::Task;

/// How often free space is looked at, in bytes written.
const WATCH: u64 = 64 << 20;
/// How long a stop may go unnoticed while nothing comes.
const PATIENCE: Duration = Duration::from_millis(100);

/// How the stream ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// The source closed it.
    Closed,
    /// Somebody asked to stop.
    Stopped,
    /// Something broke, here or there.
    Failed(String),
}

/// What was counted.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally {
    pub(super) data: u64,
    pub(super) zero: u64,
    pub(super) first: Option<Timestamp>,
    pub(super) last: Option<Timestamp>,
}

/// Puts pieces in their places.
pub(super) struct Receiver<'a> {
    pub(super) image: &'a Source,
    pub(super) layout: &'a Layout,
    pub(super) space: &'a Space,
    pub(super) task: &'a dyn Task,
    pub(super) coverage: Coverage,
    pub(super) gaps: Gaps,
    pub(super) allocation: Option<&'a Mutex<Allocation>>,
    pub(super) asides: Asides,
    pub(super) sample: Option<Sample>,
    pub(super) tally: Tally,
    /// Steps of the frontier not published yet.
    pending: Vec<(u64, bool)>,
    /// Published up to here, in the file.
    published: u64,
    /// Bytes written since free space was last looked at.
    unwatched: u64,
    /// Bytes that may come before the allocation map must reach the system, and how many came.
    flush_every: u64,
    unflushed: u64,
}

impl<'a> Receiver<'a> {
    /// One that nothing came to yet, except what an earlier run left: `gaps` and `tally` know of it.
    pub(super) fn new(
        capture: &Capture,
        plan: &'a Plan,
        image: &'a Source,
        space: &'a Space,
        task: &'a dyn Task,
        gaps: Gaps,
        tally: Tally,
    ) -> Self {
        let mut coverage = Coverage::new(capture.len, plan.regions.clone());
        coverage.note(0, plan.from, true);
        Self {
            image,
            layout: &plan.layout,
            space,
            task,
            coverage,
            gaps,
            allocation: None,
            asides: Asides::default(),
            sample: (capture.item.kind == ItemKind::Memory).then(Sample::default),
            tally,
            pending: Vec::new(),
            published: 0,
            // The first piece looks at the free space.
            unwatched: WATCH,
            flush_every: if plan.resumable { plan.head.block } else { u64::MAX },
            unflushed: 0,
        }
    }
}

impl Receiver<'_> {
    /// Takes pieces until the source closes the stream, `stop` is set, or nothing more can be kept.
    ///
    /// An error in the stream does not end it: what else is under way is still taken until the source closes.
    pub(super) fn run(&mut self, pieces: &mut PieceStream, stop: &AtomicBool) -> End {
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut failed = None;
        while !stop.load(Ordering::Relaxed) {
            let taken = match pieces.poll_recv(&mut Context::from_waker(&waker)) {
                Poll::Pending => {
                    std::thread::park_timeout(PATIENCE);
                    continue;
                }
                Poll::Ready(None) => {
                    return failed.map_or(End::Closed, |error: BackendError| End::Failed(error.to_string()));
                }
                Poll::Ready(Some(Err(error))) => {
                    failed.get_or_insert(error);
                    continue;
                }
                Poll::Ready(Some(Ok(piece))) => self.take(piece),
            };
            if let Err(why) = taken {
                return End::Failed(why);
            }
        }
        failed.map_or(End::Stopped, |error| End::Failed(error.to_string()))
    }

    /// Takes one piece. `Err` says why it cannot be kept.
    fn take(&mut self, piece: Piece) -> Result<(), String> {
        let now = Timestamp::now();
        self.tally.first.get_or_insert(now);
        self.tally.last = Some(now);
        let (at, len) = match piece {
            Piece::Data { at, bytes } => self.data(at, &bytes)?,
            Piece::Zero { at, len } => self.zero(at, len)?,
            Piece::Gap { at, len, why } => self.gap(at, len, why)?,
            Piece::Aside { name, bytes } => return self.asides.append(name, &bytes, self.space),
        };
        self.task.add(len);
        self.step(at)
    }

    fn data(&mut self, at: u64, bytes: &Bytes) -> Result<(u64, u64), String> {
        let len = bytes.len() as u64;
        self.coverage.check(at, len, true)?;
        let places = self.layout.places(at, len).ok_or_else(|| format!("{len} bytes at {at} have no place"))?;
        for (offset, within) in places {
            self.write(offset, bytes, within)?;
        }
        self.coverage.note(at, len, true);
        self.note(Run { at, len, kind: Kind::Data, why: None })?;
        if let Some(sample) = &mut self.sample {
            sample.data(at, bytes);
        }
        self.tally.data += len;
        self.watch(len)?;
        Ok((at, len))
    }

    fn write(&self, offset: u64, bytes: &Bytes, within: Range<usize>) -> Result<(), String> {
        let part = bytes.get(within).unwrap_or_default();
        let Err(error) = self.image.file.write_all_at(part, offset) else { return Ok(()) };
        if full(&error) {
            self.space.release();
        }
        // What was written of a piece that failed must not look like content: the range becomes a hole again, as far as
        // the file system lets it.
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let _ = fallocate(&self.image.file, flags, offset, part.len() as u64);
        let path = self.image.path.display();
        Err(format!("could not write {} bytes at byte {offset} of {path}: {error}", part.len()))
    }

    fn zero(&mut self, at: u64, len: u64) -> Result<(u64, u64), String> {
        self.coverage.check(at, len, false)?;
        self.coverage.note(at, len, false);
        self.note(Run { at, len, kind: Kind::Zero, why: None })?;
        if let Some(sample) = &mut self.sample {
            sample.zero(at, len);
        }
        self.tally.zero += len;
        Ok((at, len))
    }

    fn gap(&mut self, at: u64, len: u64, why: Why) -> Result<(u64, u64), String> {
        self.coverage.check(at, len, false)?;
        self.coverage.note(at, len, false);
        self.note(Run::of_gap(at, len, &why))?;
        self.gaps.add(Gap { at, len, why }, self.space).map_err(|error| error.to_string())?;
        Ok((at, len))
    }

    /// Notes a run in the allocation map. Of a copy that can be resumed, the map is never far behind the bytes.
    fn note(&mut self, run: Run) -> Result<(), String> {
        let Some(allocation) = self.allocation else { return Ok(()) };
        self.unflushed = self.unflushed.saturating_add(run.len);
        let flush = self.unflushed >= self.flush_every;
        let mut allocation = allocation.lock().unwrap_or_else(PoisonError::into_inner);
        allocation.note(run, self.space).map_err(|error| error.to_string())?;
        if flush {
            allocation.flush(self.space).map_err(|error| error.to_string())?;
            self.unflushed = 0;
        }
        Ok(())
    }

    /// Looks at free space from time to time.
    fn watch(&mut self, len: u64) -> Result<(), String> {
        self.unwatched += len;
        if self.unwatched < WATCH {
            return Ok(());
        }
        self.unwatched = 0;
        self.space.check()
    }

    /// Moves the frontier after a piece at `at` and publishes it if it is worth waking the hashers.
    fn step(&mut self, at: u64) -> Result<(), String> {
        let (layout, pending) = (self.layout, &mut self.pending);
        let reached = self.coverage.advance(|to, data| push(pending, (layout.filled(to), data || !layout.flat)));
        let last = self.pending.last().map_or(0, |(to, _)| *to);
        if reached <= at || last < self.published.saturating_add(CHUNK) {
            return Ok(());
        }
        self.publish();
        self.image.frontier.refused().map_or(Ok(()), Err)
    }

    /// Publishes what is filled.
    pub(super) fn publish(&mut self) {
        self.published = self.pending.last().map_or(self.published, |(to, _)| *to);
        self.image.frontier.publish(self.pending.drain(..));
    }

    /// After the last piece: ends the file, names what never came, and lets the hashers run to the end.
    ///
    /// A raw file of a source that ended early ends where the last piece did: what was never asked for is not written as
    /// zeros. Answers the length of the content and whether something expected is missing.
    pub(super) fn finish(&mut self, len: u64) -> Result<(u64, bool), CaseError> {
        let mut missing = Vec::new();
        let (mut broken, mut count) = (Ok(()), 0_u64);
        let (gaps, space) = (&mut self.gaps, self.space);
        self.coverage.missing(|range, expected| {
            let why = if expected {
                count += 1;
                Why::Unreadable("the source ended before it came".into())
            } else {
                Why::NotRam
            };
            let gap = Gap { at: range.start, len: range.end - range.start, why };
            if self.allocation.is_some() {
                missing.push((gap.at, gap.len, gap.why.clone()));
            }
            if broken.is_ok() {
                broken = gaps.add(gap, space);
            }
        });
        broken?;
        for (at, len, why) in missing {
            self.note(Run::of_gap(at, len, &why))
                .map_err(|why| CaseError::caller("end the map", &self.image.path, why))?;
        }
        self.publish();
        let short = self.layout.flat && count > 0;
        let file_end = if short { self.coverage.high.max(self.published) } else { self.layout.len };
        self.image.file.set_len(file_end).map_err(CaseError::io("end", &self.image.path))?;
        self.publish_rest(file_end);
        self.image.frontier.close();
        Ok((if short { file_end } else { len }, count > 0))
    }

    /// Publishes everything up to `end`, however little of it came.
    fn publish_rest(&mut self, end: u64) {
        while self.published < end {
            let (data, to) = if self.layout.flat { self.coverage.data_at(self.published) } else { (true, end) };
            push(&mut self.pending, (to.min(end), data));
            self.publish();
        }
    }
}

/// Adds a step, joined with the one before if they agree.
fn push(steps: &mut Vec<(u64, bool)>, step: (u64, bool)) {
    match steps.last_mut() {
        Some(last) if last.1 == step.1 => last.0 = last.0.max(step.0),
        _ => steps.push(step),
    }
}

/// Wakes the receiving thread: a tokio channel read by a plain thread, without a runtime and without polling for data.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
