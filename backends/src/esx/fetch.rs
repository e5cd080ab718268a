//! A file of the host as pieces, by its datastore browser: several parts are asked for at once and sent on in order.
//!
//! A part whose connection broke is asked for again, and no other. One that the host cannot read is asked for block by block (1 MiB), and
//! a block that it cannot read becomes a gap. A file of which nothing can be read is no file with gaps: hosts answer so for
//! what another has locked.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::browser::{Browser, Came as Part};
use super::command::BLOCK;
use super::files::FileAt;
use super::stream::{BAD_BLOCKS, Came, Out, piece};
use crate::{BackendError, Kind, Piece, Why};

/// What is asked for at once, in bytes.
const SPAN: u64 = 4 * BLOCK;
/// Parts that are asked for or wait for one before them.
const AHEAD: usize = 4;
/// Blocks at the beginning of a file that cannot be read, after which the rest is not tried.
const NOTHING: usize = 8;

/// Sends all of `file`.
pub(super) async fn copy(browser: &Arc<Browser>, file: &FileAt, out: &Out) -> Result<Came, BackendError> {
    tokio::select! {
        biased;
        () = out.closed() => Ok(Came::Unwanted),
        came = run(browser, file, out) => came,
    }
}

type Pieces = Result<Vec<Piece>, BackendError>;

async fn run(browser: &Arc<Browser>, file: &FileAt, out: &Out) -> Result<Came, BackendError> {
    // Dropping it ends what is under way.
    let mut tasks = JoinSet::new();
    let mut waiting = VecDeque::new();
    let mut sender = Sender { file, out, held: Vec::new(), any: false, bad: 0 };
    let mut next = 0;
    loop {
        while waiting.len() < AHEAD && next < file.len {
            let len = SPAN.min(file.len - next);
            waiting.push_back(begin(&mut tasks, browser, file, (next, len)));
            next += len;
        }
        let Some(span) = waiting.pop_front() else { break };
        let stopped = |_| BackendError::new(Kind::Io, "read a file by HTTPS", &file.path, "the reader stopped");
        let span: oneshot::Receiver<Pieces> = span;
        for piece in span.await.map_err(stopped)?? {
            if !sender.send(piece).await? {
                return Ok(Came::Unwanted);
            }
        }
        while tasks.try_join_next().is_some() {}
    }
    sender.end()
}

fn begin(
    tasks: &mut JoinSet<()>,
    browser: &Arc<Browser>,
    file: &FileAt,
    (at, len): (u64, u64),
) -> oneshot::Receiver<Pieces> {
    let (send, receive) = oneshot::channel();
    let (browser, path) = (Arc::clone(browser), file.path.clone());
    tasks.spawn(async move {
        // Whoever does not wait any more needs no answer.
        let _ = send.send(span(&browser, &path, at, len).await);
    });
    receive
}

/// A span at once, or block by block if the host cannot read all of it.
async fn span(browser: &Browser, path: &str, at: u64, len: u64) -> Pieces {
    if let Part::Bytes(bytes) = browser.part(path, at, len).await? {
        return Ok(blocks(at, bytes));
    }
    let (mut found, end) = (Vec::new(), at + len);
    for at in (at..end).step_by(usize::try_from(BLOCK).unwrap_or(usize::MAX)) {
        let len = BLOCK.min(end - at);
        found.push(match browser.part(path, at, len).await? {
            Part::Bytes(bytes) => piece(at, bytes),
            Part::Unreadable(why) => Piece::Gap { at, len, why: Why::Unreadable(why) },
        });
    }
    Ok(found)
}

fn blocks(mut at: u64, mut bytes: Bytes) -> Vec<Piece> {
    let mut pieces = Vec::new();
    while !bytes.is_empty() {
        let block = bytes.split_to(bytes.len().min(usize::try_from(BLOCK).unwrap_or(usize::MAX)));
        let len = block.len() as u64;
        pieces.push(piece(at, block));
        at += len;
    }
    pieces
}

struct Sender<'a> {
    file: &'a FileAt,
    out: &'a Out,
    /// Gaps at the beginning, kept back until it is known that anything can be read.
    held: Vec<Piece>,
    /// Something could be read.
    any: bool,
    bad: u32,
}

impl Sender<'_> {
    /// Sends one on. False if nobody wants it.
    async fn send(&mut self, piece: Piece) -> Result<bool, BackendError> {
        if let Piece::Gap { why: Why::Unreadable(why), .. } = &piece {
            self.bad += 1;
            if self.bad > BAD_BLOCKS {
                return Err(self.refuse(format!("too many blocks fail: {why}")));
            }
            if !self.any {
                self.held.push(piece);
                return if self.held.len() < NOTHING { Ok(true) } else { Err(self.nothing()) };
            }
        } else {
            self.any = true;
        }
        for piece in self.held.drain(..).chain([piece]) {
            if self.out.send(Ok(piece)).await.is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn end(self) -> Result<Came, BackendError> {
        match self.bad {
            _ if !self.held.is_empty() => Err(self.nothing()),
            0 => Ok(Came::Whole),
            _ => Ok(Came::Damaged),
        }
    }

    fn nothing(&self) -> BackendError {
        let why = match self.held.first() {
            Some(Piece::Gap { why: Why::Unreadable(why), .. }) => why.as_str(),
            _ => "it gives no reason",
        };
        self.refuse(format!("the host gives nothing of it: {why}"))
            .advise("it may be locked; without files=https it is read by the shell")
    }

    fn refuse(&self, why: String) -> BackendError {
        BackendError::unsupported("read a file by HTTPS", &self.file.path, why)
    }
}
