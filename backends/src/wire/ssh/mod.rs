//! SSH: commands, sockets and ports of another machine, with its key checked before anything is said to it.
//!
//! libssh2 (the `ssh2` crate) carries the protocol. It blocks and knows one thread, so each connection has a thread of its
//! own (`pump`) and hands out sockets; and it cannot forward a unix socket back from the other side, so a port on that
//! machine's loopback takes its place ([`Ssh::listen`]). Its reader of `known_hosts` is not used, see `known_hosts.rs`.
//!
//! libssh2 reports the status 0 for a command whose status never came. Whoever streams data checks its length as well.

mod command;
mod config;
mod destination;
mod known_hosts;
mod line;
mod login;
mod pump;

use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::pin::Pin;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::time::timeout;

pub use command::Command;
pub use destination::Destination;

use crate::wire::rate::Rate;
use crate::{Access, BackendError, Kind, WireEntry, WireLog};
use login::Way;
use pump::{Open, Opened, Order, Pump};

/// The longest answer of a command that is kept, in bytes.
const ANSWER: usize = 32 << 20;
/// How long such a command may take.
const COMMAND_TIME: Duration = Duration::from_secs(300);
/// How many machines may be on the way.
const HOPS: u32 = 8;

/// What the pump waits on beside its channels.
type Watched = OwnedFd;

/// A connection to one machine. Clones share it; it ends with the last of them and of its streams.
#[derive(Clone)]
pub struct Ssh(Arc<Inner>);

struct Inner {
    orders: Mutex<Sender<Order>>,
    bell: StdUnixStream,
    dead: Arc<OnceLock<String>>,
    wire: Arc<dyn WireLog>,
    name: String,
    /// The machine on the way, which has to stay.
    _via: Option<Ssh>,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// Exit status, unless a signal ended it.
    pub status: Option<i32>,
    /// The signal, without `SIG`.
    pub signal: Option<String>,
    /// The first 64 KiB of its error output. The other machine wrote it: escape it before it is shown.
    pub words: Vec<u8>,
}

impl Ending {
    /// It ended as programs do that had no complaint.
    pub fn good(&self) -> bool {
        self.status == Some(0)
    }

    /// For messages: the last line of its error output, or its status.
    pub fn told(&self) -> String {
        let words = String::from_utf8_lossy(&self.words);
        let last =
            words.lines().rev().find(|line| !line.trim().is_empty()).map(|line| line.trim().escape_debug().to_string());
        let status = match (&self.signal, self.status) {
            (Some(signal), _) => format!("signal {signal}"),
            (None, Some(status)) => format!("status {status}"),
            (None, None) => "no status".to_owned(),
        };
        last.map_or_else(|| status.clone(), |last| format!("{last} ({status})"))
    }
}

/// What a command that has ended said.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// How it ended.
    pub ending: Ending,
}

impl Answer {
    /// The output as text; what is not UTF-8 is replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// Who and where a destination is, once the configuration was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// User.
    pub user: String,
    /// Name or address.
    pub host: String,
    /// It is reached by way of other machines.
    pub by_way: bool,
}

/// What the configuration of SSH makes of a destination, for what reaches the same machine otherwise.
///
/// # Errors
/// As for a connection whose configuration cannot be read, or names what impound does not do.
pub fn place(to: &Destination, access: &Access) -> Result<Place, BackendError> {
    let login = config::login(to, access.ssh_config.as_deref())?;
    Ok(Place { user: login.user, host: login.host, by_way: !login.jumps.is_empty() })
}

impl Ssh {
    /// Connects and logs in, by way of the machines that the configuration names.
    pub async fn connect(to: &Destination, access: &Access) -> Result<Self, BackendError> {
        Self::by_way_of(to, access, HOPS).await
    }

    async fn by_way_of(to: &Destination, access: &Access, hops: u32) -> Result<Self, BackendError> {
        let login = config::login(to, access.ssh_config.as_deref())?;
        if hops == 0 {
            return Err(BackendError::caller(
                "connect by SSH",
                to.to_string(),
                "the machines on the way lead around in a circle",
            ));
        }
        let mut via: Option<Self> = None;
        for hop in &login.jumps {
            via = Some(match via {
                None => Box::pin(Self::by_way_of(hop, access, hops - 1)).await?,
                Some(before) => {
                    Self::through(before, &config::login(hop, access.ssh_config.as_deref())?, access).await?
                }
            });
        }
        if let Some(via) = via {
            return Self::through(via, &login, access).await;
        }
        let access = access.clone();
        blocking(move || finish(&login, login::dial(&login)?, &access, None)).await
    }

    async fn through(via: Self, login: &config::Login, access: &Access) -> Result<Self, BackendError> {
        let stream = via.port(&login.host, login.port).await?;
        let broke = |error: io::Error| BackendError::io("connect by SSH", &login.asked, &error);
        let stream =
            stream.into_std().and_then(|stream| stream.set_nonblocking(false).map(|()| stream)).map_err(broke)?;
        let (login, access) = (login.clone(), access.clone());
        blocking(move || finish(&login, Way::Through(stream), &access, Some(via))).await
    }

    /// The name it was asked for by.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Runs a command that answers briefly, and hands out all that it said, whatever its status.
    pub async fn run(&self, command: &Command) -> Result<Answer, BackendError> {
        self.run_within(command, COMMAND_TIME).await
    }

    /// The same with another limit of time.
    pub async fn run_within(&self, command: &Command, limit: Duration) -> Result<Answer, BackendError> {
        let attempted = || format!("run `{}`", command.to_string().escape_debug());
        let late = || {
            let why = format!("it did not end within {} s", limit.as_secs());
            BackendError::new(Kind::Io, attempted(), &self.0.name, why)
        };
        timeout(limit, self.run_to_end(command)).await.map_err(|_| late())?
    }

    async fn run_to_end(&self, command: &Command) -> Result<Answer, BackendError> {
        let mut running = self.stream(command).await?;
        let mut stdout = Vec::new();
        let most = u64::try_from(ANSWER).unwrap_or(u64::MAX);
        let read = (&mut running).take(most + 1).read_to_end(&mut stdout).await;
        read.map_err(|error| self.broke(&running.what, &error))?;
        if stdout.len() > ANSWER {
            let found = format!("more than {ANSWER} bytes");
            return Err(BackendError::corrupt(
                running.what.clone(),
                &self.0.name,
                "its output",
                "a short answer",
                found,
            ));
        }
        let ending = running.end().await?;
        Ok(Answer { stdout, ending })
    }

    /// Runs a command and hands out its output as it comes. Dropping it closes the channel.
    pub async fn stream(&self, command: &Command) -> Result<Running, BackendError> {
        let what = format!("run `{}`", command.to_string().escape_debug());
        if command.has_nul() {
            return Err(BackendError::caller(
                what,
                &self.0.name,
                "a name in it has a NUL, which no command line carries",
            ));
        }
        let sent = Timestamp::now();
        let Opened { local, end } = self.open(Open::Command(command.clone()), &what).await?;
        let stream = self.adopt(local, &what)?;
        let hasher = blake3::Hasher::new();
        Ok(Running { stream, end: Some(end), ssh: self.clone(), said: command.to_string(), sent, what, hasher, len: 0 })
    }

    /// Connects to a unix socket of the other machine.
    pub async fn socket(&self, path: &str) -> Result<UnixStream, BackendError> {
        let what = format!("connect to the socket {}", path.escape_debug());
        if path.contains('\0') {
            return Err(BackendError::caller(what, &self.0.name, "its name has a NUL"));
        }
        let opened = self.open(Open::Socket(path.to_owned()), &what).await;
        let advice =
            "does it exist, may this user open it, and does the SSH server allow it (AllowStreamLocalForwarding)?";
        let local = opened.map_err(|error| error.advise(advice))?.local;
        self.noted(&format!("connect {path}"));
        self.adopt(local, &what)
    }

    /// Connects to a port as seen from the other machine.
    pub async fn port(&self, host: &str, port: u16) -> Result<UnixStream, BackendError> {
        let what = format!("connect to {} port {port} from there", host.escape_debug());
        let local = self.open(Open::Port(host.to_owned(), port), &what).await?.local;
        self.noted(&format!("connect {host}:{port}"));
        self.adopt(local, &what)
    }

    /// A port on the other machine's loopback; what connects there first arrives here, and nothing after it. Any local
    /// user of that machine can be first: check that it is who it should be.
    pub async fn listen(&self) -> Result<Waiting, BackendError> {
        let what = "have a port of the other machine's loopback forwarded back";
        let (sender, reply) = oneshot::channel();
        self.order(Order::Listen(sender), what)?;
        let listening = reply.await.map_err(|_| self.gone(what))?;
        let advice = "does the SSH server allow it (AllowTcpForwarding)?";
        let listening = listening.map_err(|error| self.broke(what, &error).advise(advice))?;
        self.noted(&format!("listen 127.0.0.1:{}", listening.port));
        Ok(Waiting { port: listening.port, connection: listening.connection, ssh: self.clone() })
    }

    async fn open(&self, what: Open, attempted: &str) -> Result<Opened, BackendError> {
        let (sender, reply) = oneshot::channel();
        self.order(Order::Open(what, sender), attempted)?;
        reply.await.map_err(|_| self.gone(attempted))?.map_err(|error| self.broke(attempted, &error))
    }

    fn order(&self, order: Order, attempted: &str) -> Result<(), BackendError> {
        let sent = self.0.orders.lock().is_ok_and(|orders| orders.send(order).is_ok());
        // A full bell rings already.
        let _ = (&self.0.bell).write(&[1]);
        if sent { Ok(()) } else { Err(self.gone(attempted)) }
    }

    fn adopt(&self, local: StdUnixStream, what: &str) -> Result<UnixStream, BackendError> {
        let adopted = local.set_nonblocking(true).and_then(|()| UnixStream::from_std(local));
        adopted.map_err(|error| self.broke(what, &error))
    }

    fn broke(&self, attempted: &str, error: &io::Error) -> BackendError {
        BackendError::io(attempted, &self.0.name, error)
    }

    /// The connection is over.
    fn gone(&self, attempted: &str) -> BackendError {
        let why = self.0.dead.get().map_or("the SSH connection ended", String::as_str);
        BackendError::new(Kind::Io, attempted, &self.0.name, format!("the SSH connection broke: {why}"))
    }

    fn noted(&self, said: &str) {
        let (now, digest) = (Timestamp::now(), format!("sha256:{}", super::hex(&Sha256::digest(b""))));
        let said = format!("ssh {}: {said}", self.0.name);
        self.0.wire.entry(WireEntry {
            sent: now,
            answered: Some(now),
            said,
            answer_len: 0,
            answer_digest: digest,
            error: None,
            http: None,
        });
    }
}

async fn blocking(work: impl FnOnce() -> Result<Ssh, BackendError> + Send + 'static) -> Result<Ssh, BackendError> {
    let joined = tokio::task::spawn_blocking(work).await;
    joined.map_err(|error| BackendError::io("connect by SSH", "a thread", &io::Error::other(error)))?
}

/// Logs in and starts the thread.
fn finish(login: &config::Login, way: Way, access: &Access, via: Option<Ssh>) -> Result<Ssh, BackendError> {
    let broke = |error: io::Error| BackendError::io("connect by SSH", &login.asked, &error);
    let socket: OwnedFd = match &way {
        Way::Tcp(stream) => stream.try_clone().map_err(broke)?.into(),
        Way::Through(stream) => stream.try_clone().map_err(broke)?.into(),
    };
    let session = login::open(login, way, access)?;
    let (bell, theirs) = StdUnixStream::pair().map_err(broke)?;
    bell.set_nonblocking(true).and_then(|()| theirs.set_nonblocking(true)).map_err(broke)?;
    let (orders, receiver) = mpsc::channel();
    let dead = Arc::new(OnceLock::new());
    let life = (login.alive, login.patience);
    let pump = Pump::new(session, socket, receiver, theirs, Arc::clone(&dead), access.rate.map(Rate::new), life);
    let thread = std::thread::Builder::new().name("ssh".to_owned());
    thread.spawn(move || pump.run()).map_err(broke)?;
    let name = login.asked.clone();
    Ok(Ssh(Arc::new(Inner { orders: Mutex::new(orders), bell, dead, wire: Arc::clone(&access.wire), name, _via: via })))
}

/// A port that waits for its one connection.
pub struct Waiting {
    /// On 127.0.0.1 of the other machine.
    pub port: u16,
    connection: oneshot::Receiver<StdUnixStream>,
    ssh: Ssh,
}

impl Waiting {
    /// Whatever connected first.
    pub async fn accept(self) -> Result<UnixStream, BackendError> {
        let what = "take the connection that comes back";
        let local = self.connection.await.map_err(|_| self.ssh.gone(what))?;
        self.ssh.adopt(local, what)
    }
}

/// A command under way: reads are its standard output, writes its standard input.
pub struct Running {
    stream: UnixStream,
    end: Option<oneshot::Receiver<Ending>>,
    ssh: Ssh,
    said: String,
    sent: Timestamp,
    what: String,
    hasher: blake3::Hasher,
    len: u64,
}

impl Running {
    /// How it ended; to be asked once its output has been read to the end. Writes the exchange down.
    pub async fn end(mut self) -> Result<Ending, BackendError> {
        let Some(end) = self.end.take() else { return Err(self.ssh.gone(&self.what)) };
        let ending = end.await;
        let error = match &ending {
            Ok(ending) if ending.good() => None,
            Ok(ending) => Some(ending.told()),
            Err(_) => Some("the connection broke".to_owned()),
        };
        self.log(error);
        ending.map_err(|_| self.ssh.gone(&self.what))
    }

    fn log(&self, error: Option<String>) {
        self.ssh.0.wire.entry(WireEntry {
            sent: self.sent,
            answered: Some(Timestamp::now()),
            said: format!("ssh {}: {}", self.ssh.0.name, self.said),
            answer_len: self.len,
            answer_digest: format!("blake3:{}", self.hasher.finalize().to_hex()),
            error,
            http: None,
        });
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.end.is_some() {
            self.log(Some("given up before its end".to_owned()));
        }
    }
}

impl AsyncRead for Running {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, into))?;
        let fresh = into.filled().get(before..).unwrap_or_default();
        self.hasher.update(fresh);
        self.len += u64::try_from(fresh.len()).unwrap_or_default();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Running {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
