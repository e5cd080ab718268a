//! A file of the host as pieces, by `dd` over SSH. When the connection breaks it goes on at the byte that came last.
//!
//! A block (1 MiB) that the host cannot read is tried again and then becomes a gap. The end of a stream alone proves nothing:
//! the length is the one that was measured before, and a file that has become shorter is an error.

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc::Sender;

use super::command::{self, BLOCK};
use super::files::FileAt;
use super::shell::Shell;
use crate::wire::ssh::{Ending, Running};
use crate::{BackendError, GRAIN, Piece, Why};

/// How often a stream may break, one after the other without a byte in between.
const BREAKS: u32 = 8;
/// How often a block is tried that the host cannot read.
const BLOCK_TRIES: u32 = 2;
/// Blocks that cannot be read, after which the rest of a file is given up.
pub(super) const BAD_BLOCKS: u32 = 256;

pub(super) type Out = Sender<Result<Piece, BackendError>>;

/// How a file came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Came {
    /// All of it.
    Whole,
    /// With gaps.
    Damaged,
    /// Nobody wants the rest.
    Unwanted,
}

/// How one stream ended.
enum End {
    Done,
    Unwanted,
    /// The connection broke.
    Broke(BackendError),
    /// The host's tool gave up, with these words.
    Refused(String),
}

/// Sends all of `file`.
pub(super) async fn copy(shell: &Shell, file: &FileAt, out: &Out) -> Result<Came, BackendError> {
    let mut copy = Copy { shell, file, out, at: 0, breaks: 0, refusals: 0, bad: 0 };
    while copy.at < file.len {
        let from = copy.at;
        match copy.some().await? {
            End::Done => {}
            End::Unwanted => return Ok(Came::Unwanted),
            End::Broke(error) => copy.broke(from, error).await?,
            End::Refused(why) => {
                if !copy.refused(from, why).await? {
                    return Ok(Came::Unwanted);
                }
            }
        }
    }
    Ok(if copy.bad > 0 { Came::Damaged } else { Came::Whole })
}

struct Copy<'a> {
    shell: &'a Shell,
    file: &'a FileAt,
    out: &'a Out,
    /// The first byte that has not been sent on.
    at: u64,
    breaks: u32,
    refusals: u32,
    bad: u32,
}

impl Copy<'_> {
    /// One stream, from here on, for as long as it lasts.
    async fn some(&mut self) -> Result<End, BackendError> {
        let (skip, lead) = (self.at / BLOCK, self.at % BLOCK);
        let count = self.file.len.div_ceil(BLOCK) - skip;
        let mut stream = match self.shell.stream(&command::read(&self.file.path, skip, Some(count))).await {
            Ok(stream) => stream,
            Err(error) => return Ok(End::Broke(error)),
        };
        let mut lead = usize::try_from(lead).unwrap_or(usize::MAX);
        let mut block = BytesMut::new();
        loop {
            let most = usize::try_from(BLOCK).unwrap_or(usize::MAX);
            block.reserve(most);
            match stream.read_buf(&mut block).await {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => {
                    self.send(&mut block, true).await;
                    return Ok(End::Broke(BackendError::io("read a file", &self.file.path, &error)));
                }
            }
            // What came before the break is there already.
            let known = lead.min(block.len());
            let _ = block.split_to(known);
            lead -= known;
            if block.len() >= most && !self.send(&mut block, false).await {
                return Ok(End::Unwanted);
            }
        }
        if !self.send(&mut block, true).await {
            return Ok(End::Unwanted);
        }
        if self.at == self.file.len {
            return Ok(End::Done);
        }
        self.short(stream).await
    }

    /// Sends what is there in whole grains, or to the end of the file, and leaves the rest. False if nobody wants it. `all`:
    /// nothing more comes of this stream.
    async fn send(&mut self, block: &mut BytesMut, all: bool) -> bool {
        let left = self.file.len - self.at;
        let there = (block.len() as u64).min(left);
        let whole = if there == left { there } else { there - there % GRAIN };
        let mut bytes = block.split_to(usize::try_from(whole).unwrap_or(0)).freeze();
        if all {
            block.clear();
        }
        while !bytes.is_empty() {
            let part = bytes.split_to(bytes.len().min(usize::try_from(BLOCK).unwrap_or(usize::MAX)));
            let (at, len) = (self.at, part.len() as u64);
            if self.out.send(Ok(piece(at, part))).await.is_err() {
                return false;
            }
            (self.at, self.breaks, self.refusals) = (at + len, 0, 0);
        }
        true
    }

    /// A stream that ended before the file did.
    async fn short(&self, stream: Running) -> Result<End, BackendError> {
        match stream.end().await {
            Err(error) => Ok(End::Broke(error)),
            Ok(ending) if !ending.good() => Ok(End::Refused(words(&ending))),
            // A status that never came looks like a good one.
            Ok(_) => {
                let now = self.shell.measure(&self.file.path).await?;
                if now.len >= self.file.len {
                    let why = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
                    return Ok(End::Broke(BackendError::io("read a file", &self.file.path, &why)));
                }
                let (expected, found) = (format!("{} bytes", self.file.len), format!("{}", now.len));
                Err(BackendError::corrupt("read a file", &self.file.path, "its end", expected, found)
                    .advise("it shrank while it was read"))
            }
        }
    }

    async fn broke(&mut self, from: u64, error: BackendError) -> Result<(), BackendError> {
        if self.out.is_closed() {
            return Err(error);
        }
        self.shell.stream_broke().await;
        self.breaks = if self.at > from { 0 } else { self.breaks + 1 };
        if self.breaks >= BREAKS { Err(error) } else { Ok(()) }
    }

    /// The host cannot read a block. False if nobody wants the rest.
    async fn refused(&mut self, from: u64, why: String) -> Result<bool, BackendError> {
        let opened = !["can't open", "cannot open", "failed to open", "No such file", "not found"]
            .iter()
            .any(|words| why.contains(words));
        if !opened {
            return Err(BackendError::unsupported("read a file", &self.file.path, why));
        }
        self.refusals = if self.at > from { 1 } else { self.refusals + 1 };
        if self.refusals < BLOCK_TRIES {
            return Ok(true);
        }
        let end = (self.at / BLOCK + 1).saturating_mul(BLOCK).min(self.file.len);
        self.bad += 1;
        if self.bad > BAD_BLOCKS {
            return Err(BackendError::unsupported(
                "read a file",
                &self.file.path,
                format!("too many blocks fail: {why}"),
            ));
        }
        let gap = Piece::Gap { at: self.at, len: end - self.at, why: Why::Unreadable(why) };
        (self.at, self.refusals) = (end, 0);
        Ok(self.out.send(Ok(gap)).await.is_ok())
    }
}

/// What `dd` says of its failure; it may count what it copied behind that.
fn words(ending: &Ending) -> String {
    let all = String::from_utf8_lossy(&ending.words);
    let said = all.lines().find(|line| line.starts_with("dd:"));
    said.map_or_else(|| ending.told(), |line| line.chars().take(300).collect::<String>().escape_debug().to_string())
}

/// Zeros are not carried around.
pub(super) fn piece(at: u64, bytes: Bytes) -> Piece {
    if bytes.iter().all(|byte| *byte == 0) {
        Piece::Zero { at, len: bytes.len() as u64 }
    } else {
        Piece::Data { at, bytes }
    }
}
