//! One channel of a connection and the local socket that it ends in.
//!
//! Windows are granted here and not by libssh2's reading: that computes a grant anew when it has to be sent again, which
//! happens during every change of keys, and then its count differs from the other side's. A channel that came back
//! (`Listen`) begins with two megabytes, below which libssh2 grants by itself; it should have a connection of its own,
//! so that nothing is taken in for it while nobody reads it.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use rustix::event::PollFlags;
use ssh2::Channel;
use tokio::sync::oneshot;

use super::Ending;
use super::pump::{Over, again};

/// Bytes taken from the channel at once.
const BUFFER: usize = 1 << 20;
/// Bytes taken from the local side at once.
const CHUNK: usize = 16 << 10;
/// Bytes that a channel may have under way and unread: enough to fill a long and fast link.
const WINDOW: u32 = 8 << 20;
/// Bytes of a command's error output that are kept.
const WORDS: usize = 64 << 10;

/// One channel.
#[expect(clippy::struct_excessive_bools, reason = "each side of a connection ends by itself")]
pub(super) struct Line {
    channel: Channel,
    pub(super) local: UnixStream,
    inward: Buffer,
    outward: VecDeque<u8>,
    words: Vec<u8>,
    /// A grant that has to be sent again, unchanged.
    granting: Option<u64>,
    remote_ended: bool,
    local_ended: bool,
    eof_sent: bool,
    closing: bool,
    end: Option<oneshot::Sender<Ending>>,
}

/// Bytes on the way to the local end.
struct Buffer {
    bytes: Vec<u8>,
    from: usize,
    to: usize,
}

impl Line {
    /// A channel that was just opened; also its other end, and where its ending is told. A `deaf` one gets no input.
    pub(super) fn new(channel: Channel, deaf: bool) -> io::Result<(Self, UnixStream, oneshot::Receiver<Ending>)> {
        let (local, theirs) = UnixStream::pair()?;
        local.set_nonblocking(true)?;
        let (sender, end) = oneshot::channel();
        let line = Self {
            channel,
            local,
            inward: Buffer { bytes: vec![0; BUFFER], from: 0, to: 0 },
            outward: VecDeque::new(),
            words: Vec::new(),
            granting: None,
            remote_ended: false,
            local_ended: deaf,
            eof_sent: false,
            closing: false,
            end: Some(sender),
        };
        Ok((line, theirs, end))
    }

    /// What its local end is waited for.
    pub(super) fn wants(&self) -> PollFlags {
        let mut wants = PollFlags::empty();
        wants.set(PollFlags::OUT, self.inward.from < self.inward.to);
        wants.set(PollFlags::IN, self.outward.is_empty() && !self.local_ended);
        wants
    }

    /// From the channel into the buffer, once that is empty. Tells how many bytes came.
    pub(super) fn receive(&mut self) -> Result<usize, Over> {
        if !self.is_hungry() || !self.grant()? {
            return Ok(0);
        }
        let mut took = self.receive_words()?;
        if !self.grant()? {
            return Ok(took);
        }
        match self.channel.read(&mut self.inward.bytes) {
            Ok(0) => self.remote_ended = self.channel.eof(),
            Ok(len) => {
                (self.inward.from, self.inward.to) = (0, len);
                took += len;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(Over(error.to_string())),
        }
        Ok(took)
    }

    /// There is room for what may come.
    pub(super) fn is_hungry(&self) -> bool {
        self.inward.from == self.inward.to && !self.remote_ended && !self.closing
    }

    /// Something that comes from the other machine would be of use: bytes, or the word that the channel is closed there too.
    pub(super) fn is_listening(&self) -> bool {
        self.is_hungry() || self.closing
    }

    /// Sees to it that a read will not grant anything by itself, and that enough is under way. Tells whether it may be read.
    fn grant(&mut self) -> Result<bool, Over> {
        let window = self.channel.read_window();
        let floor = (window.window_size_initial / 4 * 3).saturating_add(u32::try_from(BUFFER).unwrap_or(WINDOW));
        let under_way = window.remaining.saturating_add(window.available);
        let want = floor.saturating_sub(window.remaining).max(WINDOW.saturating_sub(under_way));
        let due = window.remaining < floor || want > WINDOW / 2;
        let Some(grant) = self.granting.or_else(|| due.then(|| u64::from(want))) else { return Ok(true) };
        self.granting = Some(grant);
        match self.channel.adjust_receive_window(grant, true) {
            Ok(_) => {
                self.granting = None;
                Ok(true)
            }
            Err(error) if again(&error) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// What a command says of its errors: the first part is kept, the rest read and dropped.
    fn receive_words(&mut self) -> Result<usize, Over> {
        let mut some = [0; 4096];
        match self.channel.stderr().read(&mut some) {
            Ok(len) => {
                let room = WORDS.saturating_sub(self.words.len()).min(len);
                self.words.extend(some.get(..room).unwrap_or_default());
                Ok(len)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(Over(error.to_string())),
        }
    }

    /// From the buffer to whoever reads here.
    pub(super) fn deliver(&mut self) -> bool {
        let mut moved = false;
        while let Some(bytes) =
            self.inward.bytes.get(self.inward.from..self.inward.to).filter(|bytes| !bytes.is_empty())
        {
            match self.local.write(bytes) {
                Ok(len) => (self.inward.from, moved) = (self.inward.from + len, true),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return moved,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Nobody reads any more: the channel is closed, and the command there gets to know it.
                Err(_) => {
                    (self.inward.from, self.inward.to) = (0, 0);
                    (self.closing, self.local_ended) = (true, true);
                    return true;
                }
            }
        }
        if self.remote_ended {
            let _ = self.local.shutdown(Shutdown::Write);
        }
        moved
    }

    /// From here to the channel.
    pub(super) fn send(&mut self) -> Result<bool, Over> {
        if self.closing {
            return Ok(false);
        }
        let mut moved = self.collect();
        while !self.outward.is_empty() {
            let (bytes, _) = self.outward.as_slices();
            match self.channel.write(bytes) {
                Ok(0) => break,
                Ok(len) => {
                    self.outward.drain(..len);
                    moved = true;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(moved),
                // The other side has closed the channel; what it said before is still read.
                Err(_) if self.channel.eof() || self.remote_ended => {
                    self.outward.clear();
                    self.local_ended = true;
                }
                Err(error) => return Err(Over(error.to_string())),
            }
        }
        if self.local_ended && self.outward.is_empty() && !self.eof_sent {
            match self.channel.send_eof() {
                Ok(()) => (self.eof_sent, moved) = (true, true),
                Err(error) if again(&error) => {}
                // The channel is closed already.
                Err(_) => self.eof_sent = true,
            }
        }
        Ok(moved)
    }

    /// What the local side wrote.
    fn collect(&mut self) -> bool {
        if !self.outward.is_empty() || self.local_ended {
            return false;
        }
        let mut bytes = [0; CHUNK];
        match self.local.read(&mut bytes) {
            Ok(0) => self.local_ended = true,
            Ok(len) => self.outward.extend(bytes.get(..len).unwrap_or_default()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return false,
            Err(_) => (self.local_ended, self.closing) = (true, true),
        }
        true
    }

    /// Both sides are done, and what was to be said of the end has been said.
    pub(super) fn finished(&mut self) -> Result<bool, Over> {
        let delivered = self.inward.from == self.inward.to;
        // A stream whose local end was closed for good has nobody left who could read.
        let heard_out = self.remote_ended && delivered;
        if !self.closing && !heard_out {
            return Ok(false);
        }
        self.closing = true;
        while self.remote_ended && self.receive_words()? > 0 {}
        // The other side may send on until it has seen that it is over; that is no end worth waiting for.
        let closed =
            self.channel.close().and_then(|()| if self.remote_ended { self.channel.wait_close() } else { Ok(()) });
        match closed {
            Ok(()) => {}
            Err(error) if again(&error) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        let signal = self.channel.exit_signal().ok().and_then(|signal| signal.exit_signal);
        let status = if signal.is_none() { self.channel.exit_status().ok() } else { None };
        if let Some(end) = self.end.take() {
            let _ = end.send(Ending { status, signal, words: std::mem::take(&mut self.words) });
        }
        Ok(true)
    }
}
