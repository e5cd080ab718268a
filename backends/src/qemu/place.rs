//! Where overlays lie and where QEMU's NBD server listens.
//!
//! On this machine neither has a name for long: QEMU is given an unnamed file and a listening socket as descriptors. Where none
//! can be passed, both are made by QEMU in a folder that only it may enter, and lose their names once QEMU holds them:
//! during the capture nothing is to be found there, and the space is free when QEMU lets go.

use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::UnixStream;

use super::disks::{Names, concluded};
use super::machine::{self, Machine};
use super::session::Session;
use super::undo::{PREFIX, QemuUndo};
use crate::{BackendError, How, Journal, Kind};

/// Free bytes in the scratch folder of this machine below which the capture of disks is given up: a full overlay would make
/// QEMU fail the *guest's* writes.
const RESERVE: u64 = 64 << 20;

/// See the module.
#[derive(Clone)]
pub(super) enum Place {
    /// This machine, by descriptors.
    Passed { scratch: PathBuf },
    /// A machine, by names.
    Named { machine: Machine, folder: String, scratch: String },
}

/// Where the server listens until all have connected.
pub(super) struct Server {
    socket: String,
    _folder: Option<TempDir>,
}

impl Place {
    /// Chooses the place and, if it has a name, makes it.
    pub(super) async fn make(
        session: &mut Session,
        how: &How,
        tid: Option<i32>,
        journal: &mut dyn Journal,
    ) -> Result<Self, BackendError> {
        let Some(machine) = session.machine.clone() else { return Ok(Self::Passed { scratch: how.scratch.clone() }) };
        let scratch = machine::scratch(how.scratch_there.as_ref());
        let free = machine.free(&scratch).await?;
        if free < machine::RESERVE.saturating_mul(2) {
            let why = format!("{} MiB are free in {scratch}, and overlays need room", free >> 20);
            return Err(BackendError::unsupported("capture disks", machine.name(), why)
                .advise("name a folder with more room on that machine (--scratch), or take memory alone (--memory)"));
        }
        let tid = tid.ok_or_else(|| {
            BackendError::unsupported("capture disks", machine.name(), "QEMU does not tell its process")
        })?;
        let folder = format!("{scratch}/{PREFIX}{}", how.run);
        session.about_to(journal, &format!("make {folder}"), QemuUndo::Folder { path: folder.clone() })?;
        machine.make_folder(&folder, tid).await?;
        session.wrote(format!(
            "{folder} on {}: what the guest overwrote meanwhile, unnamed once it was open and gone now; the NBD server's socket likewise",
            machine.name()
        ));
        Ok(Self::Named { machine, folder, scratch })
    }

    /// Starts the NBD server.
    pub(super) async fn serve(
        &self,
        session: &mut Session,
        run: &str,
        journal: &mut dyn Journal,
    ) -> Result<Server, BackendError> {
        let (address, server) = match self {
            Self::Passed { .. } => {
                let broke =
                    |e: std::io::Error| BackendError::io("listen for QEMU's NBD server", "a temporary folder", &e);
                let temp = tempfile::Builder::new().prefix("impound-").tempdir().map_err(broke)?;
                let socket = temp.path().join("nbd.sock");
                let listener = UnixListener::bind(&socket).map_err(broke)?;
                let fd_name = format!("{PREFIX}{run}-nbd");
                session.about_to(journal, "pass a socket to QEMU", QemuUndo::NamedFd { name: fd_name.clone() })?;
                session.qmp().await.ask_with_fd("getfd", json!({ "fdname": fd_name }), listener.as_fd()).await?;
                let address = json!({ "type": "fd", "data": { "str": fd_name } });
                (address, Server { socket: socket.display().to_string(), _folder: Some(temp) })
            }
            Self::Named { folder, .. } => {
                let socket = format!("{folder}/nbd.sock");
                (json!({ "type": "unix", "data": { "path": socket } }), Server { socket, _folder: None })
            }
        };
        session.about_to(journal, "start an NBD server", QemuUndo::NbdServer)?;
        let started = session.qmp().await.ask("nbd-server-start", json!({ "addr": address })).await;
        let Err(error) = started else { return Ok(server) };
        // What runs is not ours to stop.
        session.forget(journal, |undo| *undo == QemuUndo::NbdServer);
        if !error.why.contains("already running") {
            return Err(error);
        }
        let why = "somebody else's NBD server is running in this QEMU, and a QEMU has only one";
        Err(BackendError::unsupported("capture disks", error.on, why)
            .advise("wait for that backup to end, or capture memory alone (--memory)"))
    }

    /// Connects to the server.
    pub(super) async fn connect(&self, server: &Server, disk: &str) -> Result<UnixStream, BackendError> {
        match self {
            Self::Passed { .. } => UnixStream::connect(&server.socket)
                .await
                .map_err(|e| BackendError::io("connect to QEMU's NBD server", disk, &e)),
            Self::Named { machine, .. } => machine.socket(&server.socket).await,
        }
    }

    /// Makes an empty file for the overlay of disk `number` and opens it in QEMU as the node `names.file`.
    pub(super) async fn open_file(
        &self,
        session: &mut Session,
        names: &Names,
        number: usize,
        journal: &mut dyn Journal,
    ) -> Result<(), BackendError> {
        let path = match self {
            Self::Passed { scratch } => {
                let file = tempfile::tempfile_in(scratch).map_err(|e| unwritable(scratch, &e))?;
                let added = session.add_fd("pass a file to QEMU", file.as_fd(), journal).await?;
                format!("/dev/fdset/{}", added.set)
            }
            Self::Named { folder, .. } => {
                let path = format!("{folder}/overlay{number}");
                session.about_to(journal, "make the overlay's file", QemuUndo::Job { id: names.create.clone() })?;
                let file = json!({ "driver": "file", "filename": path, "size": 0 });
                let create = json!({ "job-id": names.create, "options": file });
                session.qmp().await.ask("blockdev-create", create).await?;
                concluded(session, &names.create).await?;
                session.undo(journal, |undo| matches!(undo, QemuUndo::Job { id } if *id == names.create)).await?;
                path
            }
        };
        session.about_to(journal, "open the overlay's file", QemuUndo::Node { name: names.file.clone() })?;
        let node = json!({ "driver": "file", "node-name": names.file, "filename": path, "discard": "unmap" });
        session.qmp().await.ask("blockdev-add", node).await.map(|_: Value| ())
    }

    /// Takes all names away: QEMU has everything open.
    pub(super) async fn hide(&self, session: &mut Session, journal: &mut dyn Journal) -> Result<(), BackendError> {
        match self {
            Self::Passed { .. } => Ok(()),
            Self::Named { folder, .. } => {
                session.undo(journal, |undo| matches!(undo, QemuUndo::Folder { path } if path == folder)).await
            }
        }
    }

    /// Is there room left for what the guest overwrites? If not, in words.
    pub(super) async fn is_full(&self) -> Option<String> {
        let (free, reserve, place) = match self {
            Self::Passed { scratch } => {
                let state = rustix::fs::statvfs(scratch).ok()?;
                (state.f_bavail.saturating_mul(state.f_frsize), RESERVE, scratch.display().to_string())
            }
            Self::Named { machine, scratch, .. } => {
                let free = machine.free(scratch).await.ok()?;
                (free, machine::RESERVE, format!("{scratch} on {}", machine.name()))
            }
        };
        (free < reserve).then(|| format!("less than {} MiB are left in {place}", reserve >> 20))
    }

    /// How often to look.
    pub(super) fn look(&self) -> Duration {
        match self {
            Self::Passed { .. } => Duration::from_millis(100),
            Self::Named { .. } => Duration::from_millis(500),
        }
    }
}

fn unwritable(scratch: &Path, error: &std::io::Error) -> BackendError {
    let on = scratch.display().to_string();
    BackendError::new(Kind::Io, "make a file for what the guest overwrites", on, error.to_string())
}
