//! The method `snapshot`: QEMU's background snapshot, sent as a migration into a pipe of ours, or to a port that leads to us.
//!
//! QEMU stops the guest for a moment, protects every page against writing, and lets it run on; a page about to be written
//! is sent first. So the image is of the instant of the stop although the guest runs (QEMU `migration/migration.c`,
//! `bg_migration_thread`). The pipe must be drained fast: while it is full, a CPU that writes waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::assemble::Assembler;
use super::flatview::MemoryMap;
use super::machine::{Machine, Port, Whose};
use super::pieces::{CHANNEL, Sender, send_holes};
use super::pipe::PipeReader;
use super::session::Session;
use super::stream::{self, StreamError};
use super::undo::{CAPABILITIES, PREFIX, QemuUndo};
use crate::{BackendError, How, Journal, PieceStream, WireEntry, WireLog};

/// Bytes a second: no limit that a machine could reach. The default, 128 MiB/s, would make CPUs wait for pages.
const BANDWIDTH: u64 = 1 << 40;
/// How long QEMU may take to protect the pages, unless a shorter pause was asked for. A terabyte needs about ten seconds.
const ARM_TIME: Duration = Duration::from_secs(60);
/// How often QEMU is asked meanwhile whether it failed.
const ASK: Duration = Duration::from_millis(100);

/// A snapshot made ready.
pub(super) struct Snapshot {
    source: Source,
    stop: Arc<AtomicBool>,
    arm_time: Duration,
}

/// Where the stream comes from.
enum Source {
    /// A pipe that QEMU was given under a name.
    Pipe(PipeReader, String),
    /// A port that QEMU connects to, and a thread of QEMU, to know it by.
    Port(Port, Machine, Option<i32>),
}

impl Source {
    /// Where QEMU sends it.
    fn uri(&self) -> String {
        match self {
            Self::Pipe(_, name) => format!("fd:{name}"),
            Self::Port(port, ..) => format!("tcp:127.0.0.1:{}", port.number()),
        }
    }
}

impl Snapshot {
    /// Sets capabilities and bandwidth and hands QEMU the pipe, or opens a port for it. An error of kind `Unsupported` means that QEMU or its
    /// kernel cannot; nothing has been captured then, and another method may be chosen.
    pub(super) async fn prepare(
        session: &mut Session,
        how: &How,
        tid: Option<i32>,
        journal: &mut dyn Journal,
    ) -> Result<Self, BackendError> {
        for name in CAPABILITIES {
            set_capability(session, name, journal).await?;
        }
        let parameters = session.qmp().await.ask("query-migrate-parameters", Value::Null).await?;
        let max = parameters.get("max-bandwidth").and_then(Value::as_u64).unwrap_or(128 << 20);
        session.about_to(journal, "lift the bandwidth limit of migrations", QemuUndo::Bandwidth { max })?;
        session.qmp().await.ask("migrate-set-parameters", json!({ "max-bandwidth": BANDWIDTH })).await?;
        let (source, stop) = if let Some(machine) = session.machine.clone() {
            (Source::Port(machine.listen().await?, machine, tid), Arc::new(AtomicBool::new(false)))
        } else {
            let fd_name = format!("{PREFIX}{}-memory", how.run);
            let (reader, theirs, stop) = pipe()?;
            session.about_to(journal, "pass a pipe to QEMU", QemuUndo::NamedFd { name: fd_name.clone() })?;
            let arguments = json!({ "fdname": fd_name });
            session.qmp().await.ask_with_fd("getfd", arguments, std::os::fd::AsFd::as_fd(&theirs)).await?;
            (Source::Pipe(reader, fd_name), stop)
        };
        // Written down here and not in `begin`, where the guest would stand still for the time of a write to the disk.
        session.about_to(journal, "take a snapshot of memory", QemuUndo::Migration)?;
        Ok(Self { source, stop, arm_time: how.max_pause.unwrap_or(ARM_TIME).min(ARM_TIME) })
    }

    /// Starts the snapshot and waits until every page is protected: the instant is then fixed.
    pub(super) async fn begin(self, session: &mut Session, map: Arc<MemoryMap>) -> Result<PieceStream, BackendError> {
        let (to, pieces) = mpsc::channel(CHANNEL);
        let (armed, mut is_armed) = oneshot::channel();
        let (uri, wire, stop) = (self.source.uri(), session.wire(), Arc::clone(&self.stop));
        match self.source {
            Source::Pipe(reader, _) => read_on(Reading { reader, map, to, armed, wire, uri: uri.clone() })?,
            Source::Port(port, machine, tid) => {
                let reading = (map, to, armed, wire, uri.clone());
                tokio::spawn(take_connection(port, machine, tid, stop, self.arm_time, reading));
            }
        }
        let started = session.qmp().await.ask("migrate", json!({ "uri": uri })).await;
        let outcome = match started {
            Ok(_) => wait_until_armed(session, &mut is_armed, self.arm_time).await,
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            self.stop.store(true, Ordering::Relaxed);
            return Err(error);
        }
        Ok(pieces)
    }
}

/// What the thread needs that reads the stream.
struct Reading {
    reader: PipeReader,
    map: Arc<MemoryMap>,
    to: Sender,
    armed: oneshot::Sender<()>,
    wire: Arc<dyn WireLog>,
    uri: String,
}

fn read_on(reading: Reading) -> Result<(), BackendError> {
    let thread = std::thread::Builder::new().name("memory-stream".to_owned());
    thread.spawn(move || receive(reading)).map(drop).map_err(|e| BackendError::io("start a thread", "memory", &e))
}

/// Reads from whoever connects to the port, and sees to it that it is QEMU. If somebody else was first, QEMU's own
/// connection is refused and its migration fails; this names the reason.
async fn take_connection(
    port: Port,
    machine: Machine,
    tid: Option<i32>,
    stop: Arc<AtomicBool>,
    limit: Duration,
    (map, to, armed, wire, uri): (Arc<MemoryMap>, Sender, oneshot::Sender<()>, Arc<dyn WireLog>, String),
) {
    let number = port.number();
    // Without a connection nothing is armed, and who waits for that says why.
    let Ok(Ok(fd)) = tokio::time::timeout(limit, port.accept()).await else { return };
    let reader = PipeReader::over(fd, Arc::clone(&stop));
    // Held until the answer is there, so that no stream is complete before.
    let answer = to.clone();
    if let Err(error) = read_on(Reading { reader, map, to, armed, wire, uri }) {
        let _ = answer.send(Err(error)).await;
        return;
    }
    let Some(tid) = tid else { return };
    if machine.connected_by(number, tid).await.is_ok_and(|whose| whose == Whose::Other) {
        stop.store(true, Ordering::Relaxed);
        let why = format!("another program than QEMU connected to port {number} first");
        let _ = answer
            .send(Err(BackendError::new(crate::Kind::Io, "read the snapshot of memory", machine.name(), why)))
            .await;
    }
}

fn pipe() -> Result<(PipeReader, std::os::fd::OwnedFd, Arc<AtomicBool>), BackendError> {
    PipeReader::new().map_err(|e| BackendError::io("make a pipe", "memory", &e))
}

async fn set_capability(session: &mut Session, name: &str, journal: &mut dyn Journal) -> Result<(), BackendError> {
    let all = session.qmp().await.ask("query-migrate-capabilities", Value::Null).await?;
    let on = all.as_array().into_iter().flatten().find(|entry| entry.get("capability") == Some(&json!(name)));
    let Some(on) = on else {
        return Err(BackendError::unsupported(
            "snapshot memory",
            "QEMU",
            format!("it does not know {name} (needs QEMU 6.0)"),
        ));
    };
    let on = on.get("state") == Some(&Value::Bool(true));
    session.about_to(journal, &format!("switch {name} on"), QemuUndo::Capability { name: name.to_owned(), on })?;
    let change = json!({ "capabilities": [{ "capability": name, "state": true }] });
    session.qmp().await.ask("migrate-set-capabilities", change).await.map(|_| ())
}

async fn wait_until_armed(
    session: &Session,
    armed: &mut oneshot::Receiver<()>,
    time: Duration,
) -> Result<(), BackendError> {
    let failed = |why: String| BackendError::unsupported("snapshot memory", "QEMU", why);
    let deadline = tokio::time::Instant::now() + time;
    loop {
        match tokio::time::timeout(ASK.min(time), &mut *armed).await {
            Ok(Ok(())) => return Ok(()),
            // The reader is gone: the stream ended or broke before the first page.
            Ok(Err(_)) => return Err(failed(migration_error(session).await)),
            Err(_) => {}
        }
        let state = session.qmp().await.ask("query-migrate", Value::Null).await?;
        match state.get("status").and_then(Value::as_str) {
            Some("failed" | "cancelled") => return Err(failed(migration_error(session).await)),
            _ if tokio::time::Instant::now() > deadline => {
                return Err(failed(format!(
                    "it did not begin within {} ms, and the guest stands still meanwhile",
                    time.as_millis()
                )));
            }
            _ => {}
        }
    }
}

async fn migration_error(session: &Session) -> String {
    let state = session.qmp().await.ask("query-migrate", Value::Null).await.unwrap_or_default();
    let text = |key: &str| state.get(key).and_then(Value::as_str).map(ToOwned::to_owned);
    text("error-desc")
        .or(text("status").map(|s| format!("its migration is `{s}`")))
        .unwrap_or_else(|| "the stream ended".to_owned())
}

/// Runs on a thread of its own: reads the stream to its end, sends the pieces, writes its digest into the wire log.
fn receive(reading: Reading) {
    let Reading { reader, map, to, armed, wire, uri } = reading;
    let to = &to;
    let sent = Timestamp::now();
    if !send_holes(&map, to) {
        return;
    }
    let mut assembler = Assembler::new(map, to.clone(), armed);
    let read = stream::read(reader, &mut assembler);
    let finished = assembler.finish();
    let (seen, digest) = finished.as_ref().map_or((super::assemble::Seen::default(), String::new()), Clone::clone);
    let outcome = read.and(finished.map(|_| ()));
    wire.entry(WireEntry {
        sent,
        answered: Some(Timestamp::now()),
        said: format!("(the migration stream to {uri})"),
        answer_len: seen.len,
        answer_digest: format!("blake3:{digest}"),
        error: outcome.as_ref().err().map(ToString::to_string),
        http: None,
    });
    match outcome {
        Ok(()) | Err(StreamError::Closed) => {}
        Err(error) => {
            let told = BackendError::new(kind(&error), "read the snapshot of memory", "QEMU", error.to_string());
            // If nobody listens any more, nobody needs to know.
            let _ = to.blocking_send(Err(told));
        }
    }
}

fn kind(error: &StreamError) -> crate::Kind {
    match error {
        StreamError::Io(_) | StreamError::Short { .. } | StreamError::Closed => crate::Kind::Io,
        StreamError::Corrupt { .. } => crate::Kind::Corrupt,
    }
}
