//! The thread that serves one SSH connection: it opens channels and moves bytes between them and local sockets.
//!
//! libssh2 keeps one state for the whole connection, so one thread does everything with it. Each channel ends in a socket
//! pair whose other end is handed out: whoever reads there slowly fills the pair, then the channel's window, and
//! then the other machine waits.

use std::io::{self, ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use ssh2::{BlockDirections, Channel, ErrorCode, Listener, Session};
use tokio::sync::oneshot;

use super::Ending;
use super::command::Command;
use super::line::Line;
use super::login::STEP;
use crate::wire::rate::Rate;

/// Window that a command's channel begins with; the rest is granted as soon as it is open.
const FIRST: u32 = 4096;
/// Longest packet, in bytes (RFC 4254, 5.2).
const PACKET: u32 = 32 << 10;

/// What can be asked of the thread.
pub(super) enum Order {
    /// A channel.
    Open(Open, oneshot::Sender<io::Result<Opened>>),
    /// A port on the other machine's loopback that takes one connection.
    Listen(oneshot::Sender<io::Result<Listening>>),
}

/// What to open.
pub(super) enum Open {
    /// A command.
    Command(Command),
    /// A unix socket there.
    Socket(String),
    /// A port of a machine that is reached from there.
    Port(String, u16),
}

/// An open channel.
pub(super) struct Opened {
    pub(super) local: UnixStream,
    pub(super) end: oneshot::Receiver<Ending>,
}

/// A port that waits.
pub(super) struct Listening {
    pub(super) port: u16,
    pub(super) connection: oneshot::Receiver<UnixStream>,
}

/// The thread's state.
pub(super) struct Pump {
    pub(super) session: Session,
    /// The connection itself, to wait on.
    pub(super) socket: super::Watched,
    pub(super) orders: Receiver<Order>,
    /// Readable when an order came.
    pub(super) bell: UnixStream,
    /// Why it is over.
    pub(super) dead: Arc<OnceLock<String>>,
    pub(super) rate: Option<Rate>,
    pub(super) alive: Duration,
    pub(super) patience: u32,
    lines: Vec<Line>,
    waiting: Vec<(Listener, oneshot::Sender<UnixStream>)>,
    /// A channel for nothing: reading it takes in what the server says while no other is open.
    ear: Option<Channel>,
}

/// Over, for this reason.
pub(super) struct Over(pub(super) String);

impl From<ssh2::Error> for Over {
    fn from(error: ssh2::Error) -> Self {
        Self(error.message().to_owned())
    }
}

impl Pump {
    pub(super) fn new(
        session: Session,
        socket: super::Watched,
        orders: Receiver<Order>,
        bell: UnixStream,
        dead: Arc<OnceLock<String>>,
        rate: Option<Rate>,
        (alive, patience): (u32, u32),
    ) -> Self {
        // A server may allow one channel only; then it is not heard while none is open, which the next use finds out.
        let ear = session.channel_session().ok();
        session.set_blocking(false);
        let alive = Duration::from_secs(u64::from(alive));
        Self { session, socket, orders, bell, dead, rate, alive, patience, lines: Vec::new(), waiting: Vec::new(), ear }
    }

    /// Serves until nobody can ask for more and every channel has ended, or the connection breaks.
    pub(super) fn run(mut self) {
        if let Err(Over(why)) = self.serve() {
            let _ = self.dead.set(why);
        }
        // Dropping the local ends tells every reader; the missing `Ending` tells that it was no proper end.
        self.lines.clear();
        self.session.set_blocking(true);
        self.session.set_timeout(1000);
        let _ = self.session.disconnect(None, "done", None);
    }

    fn serve(&mut self) -> Result<(), Over> {
        let mut heard = Instant::now();
        loop {
            let more = self.take_orders()?;
            if !more && self.lines.is_empty() && self.waiting.is_empty() {
                return Ok(());
            }
            while self.move_all()? {}
            if self.lines.is_empty() {
                self.listen_in()?;
            }
            if heard.elapsed() > self.alive {
                self.ask_for_life()?;
            }
            if self.wait()? {
                heard = Instant::now();
            } else if heard.elapsed() > self.alive * self.patience {
                return Err(Over(format!("nothing was heard of it for {} s", heard.elapsed().as_secs())));
            }
        }
    }

    /// Tells whether more orders can come.
    fn take_orders(&mut self) -> Result<bool, Over> {
        let mut rings = [0; 64];
        while matches!(self.bell.read(&mut rings), Ok(1..)) {}
        loop {
            match self.orders.try_recv() {
                Ok(order) => self.carry_out(order)?,
                Err(TryRecvError::Empty) => return Ok(true),
                Err(TryRecvError::Disconnected) => return Ok(false),
            }
        }
    }

    /// Opening waits for the other side; what other channels get meanwhile is kept by libssh2, as far as their windows go.
    fn carry_out(&mut self, order: Order) -> Result<(), Over> {
        self.session.set_blocking(true);
        let patience = self.alive.saturating_mul(self.patience).as_millis();
        self.session.set_timeout(u32::try_from(patience).unwrap_or(STEP).min(STEP));
        let late = match order {
            Order::Open(what, reply) => answer(reply, self.open(&what)),
            Order::Listen(reply) => answer(reply, self.listen()),
        };
        self.session.set_blocking(false);
        // An answer that still comes would be taken for that to the next order.
        if late { Err(Over("it did not answer in time".to_owned())) } else { Ok(()) }
    }

    fn open(&mut self, what: &Open) -> io::Result<Opened> {
        let channel = match what {
            Open::Command(command) => {
                let mut channel = self.session.channel_open("session", FIRST, PACKET, None)?;
                channel.exec(&command.to_string())?;
                channel
            }
            Open::Socket(path) => self.session.channel_direct_streamlocal(path, None)?,
            Open::Port(host, port) => self.session.channel_direct_tcpip(host, *port, None)?,
        };
        let deaf = matches!(what, Open::Command(command) if !command.stdin);
        self.line(channel, deaf)
    }

    fn line(&mut self, channel: Channel, deaf: bool) -> io::Result<Opened> {
        let (line, local, end) = Line::new(channel, deaf)?;
        self.lines.push(line);
        Ok(Opened { local, end })
    }

    fn listen(&mut self) -> io::Result<Listening> {
        let (listener, port) = self.session.channel_forward_listen(0, Some("127.0.0.1"), Some(1))?;
        let (sender, connection) = oneshot::channel();
        self.waiting.push((listener, sender));
        Ok(Listening { port, connection })
    }

    /// Asks for something that is refused, which is an answer. A request of the connection itself (`keepalive@openssh.com`) would
    /// do the same, but libssh2 takes its answer for that to the next request of the kind.
    fn ask_for_life(&mut self) -> Result<(), Over> {
        let Some(ear) = &mut self.ear else { return Ok(()) };
        match ear.setenv("IMPOUND_ALIVE", "1") {
            Err(error) if !again(&error) && error.code() != ErrorCode::Session(-22) => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn listen_in(&mut self) -> Result<(), Over> {
        let Some(ear) = &mut self.ear else { return Ok(()) };
        match ear.read(&mut [0; 16]) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(Over(error.to_string())),
            Ok(0) if ear.eof() => {
                self.ear = None;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// One round over all channels; tells whether anything moved.
    fn move_all(&mut self) -> Result<bool, Over> {
        let mut moved = self.accept()?;
        let throttled = self.rate.as_ref().is_some_and(|rate| rate.wait().is_some());
        for line in &mut self.lines {
            if !throttled {
                let took = line.receive()?;
                moved |= took > 0;
                if let Some(rate) = &mut self.rate {
                    rate.took(took);
                }
            }
            moved |= line.deliver();
            moved |= line.send()?;
        }
        let before = self.lines.len();
        let mut kept = Vec::with_capacity(before);
        for mut line in std::mem::take(&mut self.lines) {
            if !line.finished()? {
                kept.push(line);
            }
        }
        self.lines = kept;
        Ok(moved || self.lines.len() < before)
    }

    /// The first connection to a port that waits is the only one.
    fn accept(&mut self) -> Result<bool, Over> {
        let mut at = 0;
        while let Some((listener, _)) = self.waiting.get_mut(at) {
            match listener.accept() {
                Ok(channel) => {
                    let (listener, reply) = self.waiting.swap_remove(at);
                    // Giving up the port waits for an answer.
                    self.session.set_blocking(true);
                    drop(listener);
                    self.session.set_blocking(false);
                    if let Ok(opened) = self.line(channel, false) {
                        let _ = reply.send(opened.local);
                    }
                    return Ok(true);
                }
                Err(error) if again(&error) => at += 1,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(false)
    }

    /// Waits until something can move; tells whether the other machine was heard.
    fn wait(&mut self) -> Result<bool, Over> {
        let throttled = self.rate.as_ref().and_then(Rate::wait);
        let mut longest = self.alive.min(Duration::from_secs(1));
        longest = throttled.map_or(longest, |wait| wait.min(longest));
        let directions = self.session.block_directions();
        // What nobody can take stays in the kernel.
        let hungry = self.lines.is_empty() || !self.waiting.is_empty() || self.lines.iter().any(Line::is_listening);
        let listening = throttled.is_none() && hungry;
        let mut flags = if listening { PollFlags::IN } else { PollFlags::empty() };
        if matches!(directions, BlockDirections::Outbound | BlockDirections::Both) {
            flags |= PollFlags::OUT;
        }
        let mut fds = vec![PollFd::new(&self.bell, PollFlags::IN)];
        if !flags.is_empty() {
            fds.push(PollFd::from_borrowed_fd(self.socket.as_fd(), flags));
        }
        for line in &self.lines {
            let wants = line.wants();
            if !wants.is_empty() {
                fds.push(PollFd::new(&line.local, wants));
            }
        }
        let nanos = longest.as_nanos().clamp(1_000_000, 999_999_999);
        let time = Timespec { tv_sec: 0, tv_nsec: i64::try_from(nanos).unwrap_or(1_000_000) };
        match poll(&mut fds, Some(&time)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Over(error.to_string())),
        }
        Ok(!listening || fds.get(1).is_some_and(|fd| fd.revents().contains(PollFlags::IN)))
    }
}

/// Hands an outcome out, and tells whether it is that no answer came in time.
fn answer<T>(reply: oneshot::Sender<io::Result<T>>, outcome: io::Result<T>) -> bool {
    let late = outcome.as_ref().is_err_and(|error| error.kind() == ErrorKind::TimedOut);
    let _ = reply.send(outcome);
    late
}

/// It only has to be asked again (`LIBSSH2_ERROR_EAGAIN`).
pub(super) fn again(error: &ssh2::Error) -> bool {
    error.code() == ErrorCode::Session(-37)
}
