//! QMP, the QEMU Machine Protocol, over a unix socket, with passing of file descriptors where QEMU itself is at its other end.
//!
//! `qapi`'s generated types give the commands their shape; the transport is ours for three reasons. `qapi` has no way to
//! attach descriptors (`SCM_RIGHTS`) to a command, which `getfd` and `add-fd` need. Its reply types are closed enums of the
//! QEMU they were generated from, and reject what a newer QEMU adds; so replies that hold such enums are read as plain
//! JSON. And the wire log keeps the digest of each answer's bytes as they came, which a typed client has thrown away.
//!
//! Source: QEMU documentation, "QEMU Machine Protocol Specification" (docs/interop/qmp-spec).

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::{BackendError, Kind, WireEntry, WireLog};

/// Longest line accepted, in bytes. `query-named-block-nodes` of a large host stays far below.
const LINE_MAX: usize = 32 << 20;
/// Most events kept unread; older ones are dropped, since a hostile guest can cause many.
const EVENTS_MAX: usize = 4096;
/// How long QEMU may take to greet. A monitor serves one client; a second one waits in the backlog, unanswered.
const GREETING_TIME: Duration = Duration::from_secs(10);
/// How long an ordinary command may take.
const COMMAND_TIME: Duration = Duration::from_secs(60);

/// Something QEMU said unasked.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// `STOP`, `RESUME`, `MIGRATION`, ….
    pub name: String,
    /// QEMU's clock when it happened.
    pub at: Timestamp,
    /// What comes with it.
    pub data: Value,
}

/// A connection to one monitor.
pub struct Qmp {
    stream: UnixStream,
    received: Vec<u8>,
    events: VecDeque<Event>,
    wire: Arc<dyn WireLog>,
    name: String,
    last_id: u64,
    version: (u32, u32, u32),
    package: String,
}

#[derive(Deserialize)]
struct Greeting {
    #[serde(rename = "QMP")]
    qmp: GreetingBody,
}

#[derive(Deserialize)]
struct GreetingBody {
    version: GreetingVersion,
}

#[derive(Deserialize)]
struct GreetingVersion {
    qemu: Triple,
    #[serde(default)]
    package: String,
}

#[derive(Deserialize)]
struct Triple {
    major: u32,
    minor: u32,
    micro: u32,
}

#[derive(Deserialize)]
struct Failure {
    #[serde(default)]
    desc: String,
}

#[derive(Deserialize)]
struct EventLine {
    event: String,
    #[serde(default)]
    data: Value,
    timestamp: EventTime,
}

#[derive(Deserialize)]
struct EventTime {
    seconds: i64,
    microseconds: i64,
}

#[derive(Deserialize)]
struct Message {
    id: Option<u64>,
    #[serde(rename = "return")]
    answer: Option<Value>,
    error: Option<Failure>,
}

/// One line from QEMU, told apart.
enum Line {
    Event(Event),
    Reply { id: Option<u64>, result: Result<Value, String> },
}

impl Qmp {
    /// Connects to a socket of this machine.
    pub async fn connect(path: &Path, wire: Arc<dyn WireLog>) -> Result<Self, BackendError> {
        let on = path.display().to_string();
        let stream = UnixStream::connect(path).await.map_err(|e| explain_connect(&on, &e))?;
        Self::over(stream, on, wire).await
    }

    /// Reads the greeting of a monitor that is connected already, and leaves negotiation mode. `on` names it in messages.
    pub async fn over(stream: UnixStream, on: String, wire: Arc<dyn WireLog>) -> Result<Self, BackendError> {
        let mut qmp = Self {
            stream,
            received: Vec::new(),
            events: VecDeque::new(),
            wire,
            name: on.clone(),
            last_id: 0,
            version: (0, 0, 0),
            package: String::new(),
        };
        let greeting = timeout(GREETING_TIME, qmp.line()).await.map_err(|_| {
            BackendError::new(
                Kind::Io,
                "read the greeting",
                &on,
                format!("nothing came within {} s: another program holds this monitor", GREETING_TIME.as_secs()),
            )
            .advise("end that program (`ss -xp` shows it), or give the VM a second monitor: -qmp unix:PATH,server=on,wait=off")
        })??;
        let greeting: Greeting = serde_json::from_slice(&greeting)
            .map_err(|e| BackendError::corrupt("read the greeting", &on, "the first line", "a QMP greeting", e))?;
        let found = greeting.qmp.version;
        qmp.version = (found.qemu.major, found.qemu.minor, found.qemu.micro);
        qmp.package = found.package;
        qmp.ask("qmp_capabilities", Value::Null).await?;
        Ok(qmp)
    }

    /// Version of QEMU: major, minor, micro.
    pub fn version(&self) -> (u32, u32, u32) {
        self.version
    }

    /// What the distributor calls its build.
    pub fn package(&self) -> &str {
        &self.package
    }

    /// What it is called in messages: the socket's path.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Process id of QEMU, if the kernel tells (it does for sockets that QEMU itself listens on).
    pub fn peer_pid(&self) -> Option<i32> {
        self.stream.peer_cred().ok().and_then(|cred| cred.pid())
    }

    /// Ends the connection, so that QEMU, which serves one at a time, takes another.
    pub fn hang_up(&self) {
        // One that is broken at both ends cannot be ended once more.
        let _ = rustix::net::shutdown(&self.stream, rustix::net::Shutdown::Both);
    }

    /// Runs a command of `qapi`'s and reads its answer as `qapi` types it.
    pub async fn run<C: qapi::Command>(&mut self, command: &C) -> Result<C::Ok, BackendError> {
        let arguments = serde_json::to_value(command)
            .map_err(|e| BackendError::caller(format!("write {}", C::NAME), self.on(), e.to_string()))?;
        let answer = self.ask(C::NAME, arguments).await?;
        serde_json::from_value(answer)
            .map_err(|e| BackendError::corrupt(C::NAME, self.on(), "the answer", "what qapi 0.15 describes", e))
    }

    /// Runs a command and reads its answer as JSON.
    pub async fn ask(&mut self, command: &str, arguments: Value) -> Result<Value, BackendError> {
        self.exchange(command, arguments, None, COMMAND_TIME).await
    }

    /// Like [`Qmp::ask`], with a descriptor attached, for `getfd` and `add-fd`.
    pub async fn ask_with_fd(
        &mut self,
        command: &str,
        arguments: Value,
        fd: BorrowedFd<'_>,
    ) -> Result<Value, BackendError> {
        self.exchange(command, arguments, Some(fd), COMMAND_TIME).await
    }

    /// Like [`Qmp::ask`], for commands that copy memory and so take as long as that takes.
    pub async fn ask_slowly(&mut self, command: &str, arguments: Value, time: Duration) -> Result<Value, BackendError> {
        self.exchange(command, arguments, None, time).await
    }

    /// Runs a command of the human monitor; its answer is text.
    pub async fn human(&mut self, line: &str) -> Result<String, BackendError> {
        let answer = self.ask("human-monitor-command", json!({ "command-line": line })).await?;
        answer.as_str().map(ToOwned::to_owned).ok_or_else(|| {
            BackendError::corrupt(
                format!("run `{line}` in the human monitor"),
                self.on(),
                "the answer",
                "text",
                "something else",
            )
        })
    }

    /// Takes the events seen so far.
    pub fn take_events(&mut self) -> Vec<Event> {
        self.events.drain(..).collect()
    }

    /// Waits until an event fits `wanted`, and takes it; other events stay.
    pub async fn wait_event(
        &mut self,
        what: &str,
        time: Duration,
        wanted: impl Fn(&Event) -> bool,
    ) -> Result<Event, BackendError> {
        let on = self.on();
        let waiting = async {
            loop {
                if let Some(at) = self.events.iter().position(&wanted) {
                    return self.events.remove(at).ok_or_else(|| BackendError::caller("wait", self.on(), "no event"));
                }
                if let Line::Event(event) = self.message().await? {
                    self.keep(event);
                }
            }
        };
        timeout(time, waiting).await.unwrap_or_else(|_| {
            Err(BackendError::new(
                Kind::Io,
                format!("wait for {what}"),
                on,
                format!("it did not come within {} s", time.as_secs()),
            ))
        })
    }

    fn on(&self) -> String {
        self.name.clone()
    }

    async fn exchange(
        &mut self,
        command: &str,
        arguments: Value,
        fd: Option<BorrowedFd<'_>>,
        time: Duration,
    ) -> Result<Value, BackendError> {
        self.last_id = self.last_id.saturating_add(1);
        let id = self.last_id;
        let mut text = json!({ "execute": command, "id": id });
        if let (Some(map), false) = (text.as_object_mut(), arguments.is_null() || arguments == json!({})) {
            map.insert("arguments".to_owned(), arguments);
        }
        let said = text.to_string();
        let mut entry = WireEntry::begun(said.clone());
        let outcome = match timeout(time, self.send_and_wait(id, &said, fd, &mut entry)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("no answer within {} s", time.as_secs())),
        };
        entry.error = outcome.as_ref().err().cloned();
        let answered = entry.answered.is_some();
        self.wire.entry(entry);
        outcome.map_err(|why| {
            let kind = if answered { Kind::Unsupported } else { Kind::Io };
            BackendError::new(kind, format!("run {command}"), self.on(), why)
        })
    }

    async fn send_and_wait(
        &mut self,
        id: u64,
        said: &str,
        fd: Option<BorrowedFd<'_>>,
        entry: &mut WireEntry,
    ) -> Result<Value, String> {
        self.send(said, fd).await.map_err(|e| format!("the monitor is gone: {e}"))?;
        loop {
            let line = self.line().await.map_err(|e| e.why)?;
            match tell_apart(&line)? {
                Line::Event(event) => self.keep(event),
                Line::Reply { id: Some(of), result } if of == id => {
                    entry.answered = Some(Timestamp::now());
                    entry.answer_len = u64::try_from(line.len()).unwrap_or(u64::MAX);
                    entry.answer_digest = format!("sha256:{}", super::hex(&Sha256::digest(&line)));
                    return result;
                }
                // The answer to a command that was given up (time-out, interrupt): nobody waits for it any more.
                Line::Reply { id: Some(of), .. } if of < id => {}
                Line::Reply { id: None, result: Err(desc) } => return Err(desc),
                Line::Reply { id: of, .. } => {
                    return Err(format!("an answer to command {of:?} came while {id} was asked"));
                }
            }
        }
    }

    /// Writes one command; `fd` rides on its first byte.
    async fn send(&self, said: &str, mut fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let line = format!("{said}\n");
        let mut left = line.as_bytes();
        while !left.is_empty() {
            let sent = self
                .stream
                .async_io(Interest::WRITABLE, || {
                    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                    let mut control = SendAncillaryBuffer::new(&mut space);
                    let fds: Vec<_> = fd.iter().copied().collect();
                    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
                        return Err(io::Error::other("no room for the descriptor"));
                    }
                    rustix::net::sendmsg(self.stream.as_fd(), &[IoSlice::new(left)], &mut control, SendFlags::NOSIGNAL)
                        .map_err(io::Error::from)
                })
                .await?;
            fd = None;
            left = left.get(sent..).unwrap_or_default();
        }
        Ok(())
    }

    async fn message(&mut self) -> Result<Line, BackendError> {
        let line = self.line().await?;
        tell_apart(&line)
            .map_err(|e| BackendError::corrupt("read the monitor", self.on(), "a line", "a QMP message", e))
    }

    /// The next line, without its end. Keeps what it has when it is cancelled.
    async fn line(&mut self) -> Result<Vec<u8>, BackendError> {
        let mut seen = 0;
        loop {
            if let Some(end) = self.received.iter().skip(seen).position(|b| *b == b'\n') {
                let rest = self.received.split_off(seen.saturating_add(end).saturating_add(1));
                let mut line = std::mem::replace(&mut self.received, rest);
                while line.last().is_some_and(|b| matches!(b, b'\n' | b'\r')) {
                    line.pop();
                }
                if line.is_empty() {
                    seen = 0;
                    continue;
                }
                return Ok(line);
            }
            seen = self.received.len();
            if seen > LINE_MAX {
                return Err(BackendError::corrupt("read the monitor", self.on(), seen, "the end of the line", "more"));
            }
            let got = self.stream.read_buf(&mut self.received).await;
            match got {
                Ok(0) => {
                    return Err(BackendError::new(
                        Kind::Io,
                        "read the monitor",
                        self.on(),
                        "QEMU closed it: the VM may be gone",
                    ));
                }
                Ok(_) => {}
                Err(e) => return Err(BackendError::io("read the monitor", self.on(), &e)),
            }
        }
    }

    fn keep(&mut self, event: Event) {
        if self.events.len() >= EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }
}

/// Reads one line of QMP. Public for the fuzzer.
pub fn parse(line: &[u8]) -> Result<(), String> {
    tell_apart(line).map(|_| ())
}

fn tell_apart(line: &[u8]) -> Result<Line, String> {
    let value: Value = serde_json::from_slice(line).map_err(|e| format!("not JSON: {e}"))?;
    if value.get("event").is_some() {
        let event: EventLine = serde_json::from_value(value).map_err(|e| format!("not an event: {e}"))?;
        let nanos = event.timestamp.microseconds.clamp(0, 999_999).saturating_mul(1000);
        let nanos = i32::try_from(nanos).map_err(|e| e.to_string())?;
        let at = Timestamp::new(event.timestamp.seconds, nanos).unwrap_or(Timestamp::UNIX_EPOCH);
        return Ok(Line::Event(Event { name: event.event, at, data: event.data }));
    }
    let message: Message = serde_json::from_value(value).map_err(|e| format!("not an answer: {e}"))?;
    let result = match (message.answer, message.error) {
        (_, Some(failure)) => Err(failure.desc),
        (Some(answer), None) => Ok(answer),
        (None, None) => return Err("neither an answer nor an error".to_owned()),
    };
    Ok(Line::Reply { id: message.id, result })
}

fn explain_connect(on: &str, error: &io::Error) -> BackendError {
    let told = BackendError::io("connect to the monitor", on, error);
    match error.kind() {
        io::ErrorKind::NotFound => told.advise("start QEMU with -qmp unix:PATH,server=on,wait=off and give that path"),
        io::ErrorKind::PermissionDenied => told.advise("run as root or as the user that runs QEMU"),
        io::ErrorKind::ConnectionRefused => told.advise("no QEMU listens there any more; is the VM running?"),
        _ => told,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_answers_and_errors_are_told_apart() {
        let event = br#"{"timestamp":{"seconds":1700000000,"microseconds":250000},"event":"STOP"}"#;
        match tell_apart(event) {
            Ok(Line::Event(event)) => {
                assert_eq!((event.name.as_str(), event.at.to_string().as_str()), ("STOP", "2023-11-14T22:13:20.25Z"));
            }
            _ => panic!("no event"),
        }
        assert!(matches!(tell_apart(br#"{"return":{},"id":7}"#), Ok(Line::Reply { id: Some(7), result: Ok(_) })));
        let error = br#"{"id":7,"error":{"class":"GenericError","desc":"no"}}"#;
        assert!(matches!(tell_apart(error), Ok(Line::Reply { id: Some(7), result: Err(why) }) if why == "no"));
    }

    #[test]
    fn what_is_no_message_is_named() {
        for bad in [&b"nonsense"[..], b"{}", b"[1]", br#"{"event":1}"#, br#"{"return":{},"id":"x"}"#, b"\xff"] {
            assert!(tell_apart(bad).is_err(), "{bad:?}");
        }
    }
}
