//! The methods that read memory while the guest stands still, or, for `live`, while it runs: `paused` (QEMU's ELF dump into
//! a pipe) and `pmemsave` / `live` (the classic command, range by range).

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::sync::mpsc;

use super::dump;
use super::flatview::MemoryMap;
use super::pieces::{CHANNEL, Sender, forward, send_holes};
use super::pipe::PipeReader;
use super::session::{Monitor, Session};
use super::undo::{PREFIX, QemuUndo};
use crate::{BackendError, Journal, Kind, PieceStream};

/// Bytes saved by one command while the guest stands still. The command is said to fail near 4 GiB.
const HELD_CHUNK: u64 = 1 << 30;
/// Bytes saved by one command while it runs: QEMU serves nothing else meanwhile, the guest's devices included.
const LIVE_CHUNK: u64 = 4 << 20;
/// How long one command may take.
const CHUNK_TIME: Duration = Duration::from_secs(600);

/// A dump made ready.
pub(super) struct Paused {
    reader: PipeReader,
    stop: Arc<AtomicBool>,
    fd_name: String,
}

impl Paused {
    /// Hands QEMU the pipe.
    pub(super) async fn prepare(
        session: &mut Session,
        run: &str,
        journal: &mut dyn Journal,
    ) -> Result<Self, BackendError> {
        let (reader, theirs, stop) = PipeReader::new().map_err(|e| BackendError::io("make a pipe", "memory", &e))?;
        let fd_name = format!("{PREFIX}{run}-memory");
        session.about_to(journal, "pass a pipe to QEMU", QemuUndo::NamedFd { name: fd_name.clone() })?;
        session.qmp().await.ask_with_fd("getfd", json!({ "fdname": fd_name }), theirs.as_fd()).await?;
        session.about_to(journal, "dump memory", QemuUndo::Dump)?;
        Ok(Self { reader, stop, fd_name })
    }

    /// Starts the dump. QEMU itself keeps the guest stopped until the pipe is drained.
    pub(super) async fn begin(self, session: &mut Session, map: Arc<MemoryMap>) -> Result<PieceStream, BackendError> {
        let (to, pieces) = mpsc::channel(CHANNEL);
        let mut reader = self.reader;
        spawn("memory-dump", move || {
            let outcome = if send_holes(&map, &to) { dump::read(&mut reader, &map, &to) } else { Ok(false) };
            if let Err(why) = outcome {
                let _ = to.blocking_send(Err(BackendError::new(Kind::Io, "read the dump of memory", "QEMU", why)));
            }
        })?;
        let arguments =
            json!({ "paging": false, "protocol": format!("fd:{}", self.fd_name), "detach": true, "format": "elf" });
        if let Err(error) = session.qmp().await.ask("dump-guest-memory", arguments).await {
            self.stop.store(true, Ordering::Relaxed);
            return Err(error);
        }
        Ok(pieces)
    }
}

/// `pmemsave` made ready.
pub(super) struct Physical {
    reader: PipeReader,
    stop: Arc<AtomicBool>,
    /// The descriptor's number inside QEMU.
    number: u64,
    chunk: u64,
}

impl Physical {
    /// Hands QEMU the pipe. `pmemsave` takes file names only, so it gets the name under which QEMU sees the descriptor: no
    /// file is written anywhere.
    pub(super) async fn prepare(
        session: &mut Session,
        live: bool,
        journal: &mut dyn Journal,
    ) -> Result<Self, BackendError> {
        let (reader, theirs, stop) = PipeReader::new().map_err(|e| BackendError::io("make a pipe", "memory", &e))?;
        let added = session.add_fd("pass a pipe to QEMU", theirs.as_fd(), journal).await?;
        Ok(Self { reader, stop, number: added.number, chunk: if live { LIVE_CHUNK } else { HELD_CHUNK } })
    }

    /// Starts saving, range by range, only where the map says that memory is.
    pub(super) fn begin(self, session: &Session, map: &Arc<MemoryMap>) -> Result<PieceStream, BackendError> {
        let (to, pieces) = mpsc::channel(CHANNEL);
        let chunks = chunks(map, self.chunk);
        let (mut reader, for_reader, map) = (self.reader, chunks.clone(), Arc::clone(map));
        let errors = to.clone();
        spawn("memory-read", move || {
            if send_holes(&map, &to) {
                read_chunks(&mut reader, &for_reader, &to);
            }
        })?;
        let (monitor, stop, number) = (Arc::clone(&session.monitor), self.stop, self.number);
        tokio::spawn(async move {
            if let Err(error) = save_chunks(&monitor, &chunks, number, &errors).await {
                stop.store(true, Ordering::Relaxed);
                let _ = errors.send(Err(error)).await;
            }
        });
        Ok(pieces)
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), BackendError> {
    let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(work);
    spawned.map(|_| ()).map_err(|e| BackendError::io("start a thread", "memory", &e))
}

fn chunks(map: &MemoryMap, chunk: u64) -> Vec<(u64, u64)> {
    let mut chunks = Vec::new();
    for range in &map.ranges {
        let mut done = 0;
        while done < range.len {
            let len = chunk.min(range.len - done);
            chunks.push((range.at + done, len));
            done += len;
        }
    }
    chunks
}

fn read_chunks(reader: &mut PipeReader, chunks: &[(u64, u64)], to: &Sender) {
    for (at, len) in chunks {
        match forward(reader, *at, *len, to) {
            Ok(true) => {}
            // Who saves says why, or nobody takes the pieces any more.
            Ok(false) | Err(_) => return,
        }
    }
}

async fn save_chunks(monitor: &Monitor, chunks: &[(u64, u64)], number: u64, to: &Sender) -> Result<(), BackendError> {
    for (at, len) in chunks {
        if to.is_closed() {
            return Ok(());
        }
        let arguments = json!({ "val": at, "size": len, "filename": format!("/proc/self/fd/{number}") });
        monitor.lock().await.ask_slowly("pmemsave", arguments, CHUNK_TIME).await?;
    }
    Ok(())
}
