//! The method `paused` where no descriptor can be passed: QEMU's ELF dump goes into a file on its own machine while the guest
//! stands still, and comes here once the guest runs again. A stopped guest never waits for a network.
//!
//! The file is the size of the guest's memory. It has a name until it is whole; then whoever reads it takes the name away.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

#[cfg(feature = "ssh")]
use super::dial::Dial;
use super::dump;
use super::flatview::MemoryMap;
use super::machine::{self, Machine};
use super::pieces::{CHANNEL, Sender, send_holes};
use super::pipe::PipeReader;
use super::session::Session;
use super::undo::{DUMP_TIME, PREFIX, QemuUndo};
use crate::{BackendError, How, Journal, Kind, PieceStream};

/// A dump made ready.
pub(super) struct Spool {
    machine: Machine,
    folder: String,
}

impl Spool {
    /// Makes a folder that has room for `bytes` of memory.
    pub(super) async fn prepare(
        session: &mut Session,
        machine: Machine,
        how: &How,
        (bytes, tid): (u64, Option<i32>),
        journal: &mut dyn Journal,
    ) -> Result<Self, BackendError> {
        let scratch = machine::scratch(how.scratch_there.as_ref());
        let (free, need) = (machine.free(&scratch).await?, bytes.saturating_add(machine::RESERVE));
        if free < need {
            let why = format!(
                "its dump needs {} MiB in {scratch} while the guest stands still, and {} are free",
                need >> 20,
                free >> 20
            );
            return Err(BackendError::unsupported("dump memory", machine.name(), why)
                .advise("name a folder with more room on that machine: --scratch DIR"));
        }
        let tid = tid.ok_or_else(|| {
            BackendError::unsupported("dump memory", machine.name(), "QEMU does not tell its process")
        })?;
        let folder = format!("{scratch}/{PREFIX}{}-memory", how.run);
        session.about_to(journal, &format!("make {folder}"), QemuUndo::Folder { path: folder.clone() })?;
        machine.make_folder(&folder, tid).await?;
        session.wrote(format!(
            "{folder} on {}: the dump of memory, {bytes} bytes, taken away when it was read",
            machine.name()
        ));
        session.about_to(journal, "dump memory", QemuUndo::Dump)?;
        Ok(Self { machine, folder })
    }

    /// Dumps, to the end. Reading begins once `thawed` says so.
    pub(super) async fn begin(
        self,
        session: &Session,
        map: Arc<MemoryMap>,
        thawed: watch::Receiver<bool>,
    ) -> Result<PieceStream, BackendError> {
        let path = format!("{}/memory.elf", self.folder);
        into_file(session, &path).await?;
        let (to, pieces) = mpsc::channel(CHANNEL);
        tokio::spawn(fetch(self.machine, path, self.folder, map, to, thawed));
        Ok(pieces)
    }
}

/// Has memory dumped into this file, and waits until it is whole.
async fn into_file(session: &Session, path: &str) -> Result<(), BackendError> {
    #[cfg(feature = "ssh")]
    if let Dial::Libvirt { daemon, domain } = session.dial() {
        let late = |_| BackendError::unsupported("dump memory", "libvirt", "it did not end within an hour");
        return tokio::time::timeout(DUMP_TIME, daemon.dump(domain, path)).await.map_err(late)?;
    }
    let arguments = json!({ "paging": false, "protocol": format!("file:{path}"), "detach": true, "format": "elf" });
    session.qmp().await.ask("dump-guest-memory", arguments).await?;
    ended(session).await
}

/// Waits until the dump is whole.
async fn ended(session: &Session) -> Result<(), BackendError> {
    let failed = |why: &str| Err(BackendError::unsupported("dump memory", "QEMU", why));
    let deadline = tokio::time::Instant::now() + DUMP_TIME;
    loop {
        let state = session.qmp().await.ask("query-dump", Value::Null).await?;
        match state.get("status").and_then(Value::as_str) {
            Some("completed") => return Ok(()),
            Some("active") if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Some("active") => return failed("it did not end within an hour"),
            other => return failed(&format!("the dump ended as `{}`", other.unwrap_or("unknown"))),
        }
    }
}

async fn fetch(
    machine: Machine,
    path: String,
    folder: String,
    map: Arc<MemoryMap>,
    to: Sender,
    mut thawed: watch::Receiver<bool>,
) {
    // Without a thaw the run is over.
    if thawed.wait_for(|thawed| *thawed).await.is_err() {
        return;
    }
    let told = |why: String| BackendError::new(Kind::Io, "read the dump of memory", machine.name(), why);
    let fd = match machine.take_file(&path, &folder).await {
        Ok(fd) => fd,
        Err(error) => {
            let _ = to.send(Err(error)).await;
            return;
        }
    };
    let mut reader = PipeReader::over(fd, Arc::new(AtomicBool::new(false)));
    let sender = to.clone();
    let work = move || if send_holes(&map, &sender) { dump::read(&mut reader, &map, &sender) } else { Ok(false) };
    let outcome = tokio::task::spawn_blocking(work).await;
    let outcome = outcome.unwrap_or_else(|error| Err(error.to_string()));
    if let Err(why) = outcome {
        // Nobody listens once the run is given up.
        let _ = to.send(Err(told(why))).await;
    }
}
