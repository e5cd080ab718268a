//! All disks at one instant, by fleecing: a `blockdev-backup` with `sync=none` copies what the guest is about to overwrite
//! into an overlay, and an NBD export of the overlay shows the disk as it was when the jobs began.
//!
//! Where the overlays and the server's socket are is a matter of [`Place`].
//! Source: QEMU docs/interop/live-block-operations.rst, "Live disk backup", and libvirt's pull-mode backups.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};

use super::pieces::Sender;
use super::place::Place;
use super::session::{Monitor, Session};
use super::survey::DiskFound;
use super::undo::{self, PREFIX, QemuUndo};
use crate::wire::nbd::{self, Client, NbdError};
use crate::{BackendError, How, Journal, Kind, Piece, PieceStream};

/// Pieces between the reader and the writer of one disk.
const CHANNEL: usize = 32;
/// How long QEMU may take to format an overlay.
const CREATE_TIME: Duration = Duration::from_secs(60);

/// One disk made ready.
struct Ready {
    disk: DiskFound,
    /// The overlay's node and the job to be, for disks that the guest can write to.
    fleece: Option<(String, String)>,
    client: Client<UnixStream>,
}

/// All disks made ready.
pub(super) struct Disks {
    ready: Vec<Ready>,
    place: Place,
}

impl Disks {
    /// Makes overlays, exports and connections. Nothing is copied yet.
    pub(super) async fn prepare(
        session: &mut Session,
        disks: Vec<DiskFound>,
        how: &How,
        tid: Option<i32>,
        journal: &mut dyn Journal,
    ) -> Result<Self, BackendError> {
        let place = Place::make(session, how, tid, journal).await?;
        let server = place.serve(session, &how.run, journal).await?;
        let mut ready = Vec::new();
        for (number, disk) in disks.into_iter().enumerate() {
            let names = Names::new(&how.run, number);
            let fleece = if disk.read_only {
                None
            } else {
                Some(overlay(session, &place, &disk, &names, number, journal).await?)
            };
            let node = fleece.as_ref().map_or(&disk.node, |(node, _)| node);
            session.about_to(
                journal,
                &format!("export disk {}", disk.name),
                QemuUndo::Export { id: names.export.clone() },
            )?;
            let arguments = json!({ "type": "nbd", "id": names.export, "node-name": node, "name": names.export, "writable": false });
            session.qmp().await.ask("block-export-add", arguments).await?;
            let stream = place.connect(&server, &disk.name).await?;
            let client = Client::open(stream, &names.export).await.map_err(|e| told(&disk.name, &e))?;
            if client.size() != disk.size {
                let found = client.size();
                return Err(BackendError::corrupt("open the export", &disk.name, "its size", disk.size, found));
            }
            if let Some((_, job)) = &fleece {
                // Written down here and not in `begin`, where the guest would stand still for a write to the disk.
                let act = format!("keep what the guest overwrites on {}", disk.name);
                session.about_to(journal, &act, QemuUndo::Job { id: job.clone() })?;
            }
            ready.push(Ready { disk, fleece, client });
        }
        place.hide(session, journal).await?;
        Ok(Self { ready, place })
    }

    /// Begins to keep what the guest overwrites, for all disks in one transaction; reading begins once `thawed` says so.
    /// The guest stands still when this is called, or the disks are of one instant among themselves alone.
    pub(super) async fn begin(
        self,
        session: &mut Session,
        thawed: &watch::Receiver<bool>,
    ) -> Result<Vec<(DiskFound, PieceStream)>, BackendError> {
        let mut actions = Vec::new();
        let mut jobs = Vec::new();
        for ready in &self.ready {
            let Some((node, job)) = &ready.fleece else { continue };
            let backup = json!({ "job-id": job, "device": ready.disk.node, "target": node, "sync": "none" });
            actions.push(json!({ "type": "blockdev-backup", "data": backup }));
            jobs.push(job.clone());
        }
        if !actions.is_empty() {
            session.qmp().await.ask("transaction", json!({ "actions": actions })).await?;
        }
        let mut streams = Vec::new();
        let guard = Arc::new(Guard {
            monitor: Arc::clone(&session.monitor),
            jobs,
            place: self.place,
            ended: AtomicBool::new(false),
            why: OnceLock::new(),
        });
        for ready in self.ready {
            let (to, pieces) = mpsc::channel(CHANNEL);
            tokio::spawn(read(ready.client, ready.disk.name.clone(), to, Arc::clone(&guard), thawed.clone()));
            streams.push((ready.disk, pieces));
        }
        Ok(streams)
    }
}

/// The names of what is made for one disk. QEMU allows node names of 31 characters.
pub(super) struct Names {
    pub(super) file: String,
    overlay: String,
    pub(super) create: String,
    pub(super) job: String,
    export: String,
}

impl Names {
    pub(super) fn new(run: &str, number: usize) -> Self {
        let name = |what: &str| format!("{PREFIX}{run}-{what}{number}");
        Self { file: name("f"), overlay: name("o"), create: name("c"), job: name("j"), export: name("e") }
    }
}

/// Makes the overlay over a disk, formatted by QEMU as qcow2. Answers its node and the job to be.
async fn overlay(
    session: &mut Session,
    place: &Place,
    disk: &DiskFound,
    names: &Names,
    number: usize,
    journal: &mut dyn Journal,
) -> Result<(String, String), BackendError> {
    place.open_file(session, names, number, journal).await?;
    session.about_to(journal, "format the overlay", QemuUndo::Job { id: names.create.clone() })?;
    let format = json!({ "driver": "qcow2", "file": names.file, "size": disk.size.next_multiple_of(512) });
    session.qmp().await.ask("blockdev-create", json!({ "job-id": names.create, "options": format })).await?;
    concluded(session, &names.create).await?;
    session.undo(journal, |undo| matches!(undo, QemuUndo::Job { id } if *id == names.create)).await?;
    session.about_to(journal, "open the overlay", QemuUndo::Node { name: names.overlay.clone() })?;
    let node = json!({ "driver": "qcow2", "node-name": names.overlay, "file": names.file, "backing": disk.node });
    session.qmp().await.ask("blockdev-add", node).await?;
    Ok((names.overlay.clone(), names.job.clone()))
}

/// Waits for a job to conclude, and fails if it did.
pub(super) async fn concluded(session: &Session, id: &str) -> Result<(), BackendError> {
    let deadline = tokio::time::Instant::now() + CREATE_TIME;
    loop {
        let jobs = session.qmp().await.ask("query-jobs", Value::Null).await?;
        let job = jobs.as_array().into_iter().flatten().find(|job| job.get("id").and_then(Value::as_str) == Some(id));
        let failed = |why: &str| Err(BackendError::unsupported("format an overlay", "QEMU", why));
        match job {
            None => return failed("its job is gone"),
            Some(job) if job.get("status") == Some(&json!("concluded")) => {
                return job.get("error").and_then(Value::as_str).map_or(Ok(()), failed);
            }
            Some(_) if tokio::time::Instant::now() > deadline => return failed("it did not end within a minute"),
            Some(_) => tokio::time::sleep(Duration::from_millis(2)).await,
        }
    }
}

/// What ends the fleecing before a full scratch folder could hurt the guest.
struct Guard {
    monitor: Monitor,
    jobs: Vec<String>,
    place: Place,
    /// The overlays no longer keep the instant: what is read from now on is not evidence.
    ended: AtomicBool,
    why: OnceLock<String>,
}

impl Guard {
    /// Waits until space is nearly used up, then ends the jobs: what is not read by then cannot be read any more.
    async fn watch(&self) {
        loop {
            tokio::time::sleep(self.place.look()).await;
            if self.ended.load(Ordering::SeqCst) {
                return;
            }
            if self.jobs.is_empty() {
                continue;
            }
            if let Some(why) = self.place.is_full().await {
                // First the flag, then the jobs: no byte read after a job's end is taken for the instant's.
                let _ = self.why.set(why);
                self.ended.store(true, Ordering::SeqCst);
                let mut qmp = self.monitor.lock().await;
                for job in &self.jobs {
                    // A job that cannot be ended now is ended with the run.
                    let _ = undo::end_job(&mut qmp, job).await;
                }
                return;
            }
        }
    }

    fn why_ended(&self, disk: &str) -> BackendError {
        let full = self.why.get().map_or("the scratch folder is full", String::as_str);
        let why = format!("{full}; a full overlay would break the guest's writes, so the capture of disks was ended");
        BackendError::new(Kind::Io, "read the disk", disk, why)
            .advise("free space there, or name another folder with --scratch")
    }

    /// Fails if a job is gone: somebody ended it, and from then on the overlay showed what the guest wrote.
    async fn still_kept(&self, disk: &str) -> Result<(), BackendError> {
        let jobs = self.monitor.lock().await.ask("query-jobs", Value::Null).await?;
        let runs = |id: &String| {
            let mut list = jobs.as_array().into_iter().flatten();
            list.any(|job| {
                job.get("id").and_then(Value::as_str) == Some(id) && job.get("status") == Some(&json!("running"))
            })
        };
        match self.jobs.iter().find(|job| !runs(job)) {
            None => Ok(()),
            Some(job) => Err(BackendError::new(
                Kind::Io,
                "keep the disk's instant",
                disk,
                format!("job {job} ended meanwhile, so later bytes may be newer than the instant"),
            )),
        }
    }
}

struct ToChannel<'a>(&'a Sender, &'a Guard);

impl nbd::Take for ToChannel<'_> {
    async fn take(&mut self, piece: Piece) -> bool {
        !self.1.ended.load(Ordering::SeqCst) && self.0.send(Ok(piece)).await.is_ok()
    }
}

async fn read(
    mut client: Client<UnixStream>,
    disk: String,
    to: Sender,
    guard: Arc<Guard>,
    mut thawed: watch::Receiver<bool>,
) {
    // Reading makes QEMU work, and it should have nothing else to do while the guest stands still. Without a thaw the run
    // is over.
    if thawed.wait_for(|thawed| *thawed).await.is_err() {
        return;
    }
    let mut sink = ToChannel(&to, &guard);
    let outcome = tokio::select! {
        outcome = client.read_all(&mut sink) => outcome.map_err(|e| told(&disk, &e)),
        () = guard.watch() => Err(guard.why_ended(&disk)),
    };
    let outcome = match outcome {
        _ if guard.ended.load(Ordering::SeqCst) => Err(guard.why_ended(&disk)),
        Ok(()) => guard.still_kept(&disk).await,
        failed => failed,
    };
    if let Err(error) = outcome {
        // Nobody listens once the run is given up.
        let _ = to.send(Err(error)).await;
    }
}

fn told(disk: &str, error: &NbdError) -> BackendError {
    let kind = match error {
        NbdError::Io(_) | NbdError::Closed => Kind::Io,
        NbdError::Refused { .. } => Kind::Unsupported,
        NbdError::Corrupt { .. } => Kind::Corrupt,
    };
    BackendError::new(kind, "read the disk over NBD", disk, error.to_string())
}
