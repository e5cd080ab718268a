//! One QEMU as a target: which methods fit, and the order of a capture.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::disks::Disks;
use super::flatview::MemoryMap;
use super::held::{Paused, Physical};
use super::methods::{self, MemoryMethod};
use super::session::Session;
use super::snapshot::Snapshot;
use super::stall::StallWatch;
use super::survey::{DiskFound, Survey};
use super::undo::{self, CLAIM, QemuUndo, holder};
use super::{config, live, plan, registers};
use crate::wire::qmp::Qmp;
use crate::{
    BackendError, Capture, Consistency, Facts, Finished, Freeze, How, Item, ItemKind, Journal, Kind, Live, LiveMemory,
    PieceStream, Plan, Region, Target, Undo, WireLog,
};

/// A VM behind a monitor of ours.
pub(super) struct QemuTarget {
    session: Session,
    survey: Survey,
    prepared: Option<Prepared>,
    stall: Option<StallWatch>,
    thawed: watch::Sender<bool>,
    /// A snapshot was begun.
    snapshot: bool,
}

/// What `prepare` made ready.
struct Prepared {
    items: Vec<Item>,
    memory: Option<(MemoryMethod, Memory)>,
    disks: Option<Disks>,
}

enum Memory {
    Snapshot(Snapshot),
    Paused(Paused),
    Physical(Physical),
}

impl QemuTarget {
    pub(super) async fn open(mut qmp: Qmp, wire: Arc<dyn WireLog>) -> Result<Self, BackendError> {
        let survey = Survey::make(&mut qmp).await?;
        Ok(Self {
            session: Session::new(qmp, wire),
            survey,
            prepared: None,
            stall: None,
            thawed: watch::Sender::new(false),
            snapshot: false,
        })
    }

    fn disk(&self, name: &str) -> Option<&DiskFound> {
        self.survey.disks.iter().find(|disk| disk.name == name)
    }

    /// Marks the VM as taken. QEMU itself keeps the mark, so every responder's run sees it, whatever machine it comes from.
    async fn claim(&mut self, how: &How, journal: &mut dyn Journal) -> Result<(), BackendError> {
        let release = QemuUndo::Release { holder: how.holder.clone() };
        self.session.about_to(journal, "mark the VM as taken", release.clone())?;
        let object = json!({ "qom-type": "authz-simple", "id": CLAIM, "identity": how.holder });
        let Err(error) = self.session.qmp().await.ask("object-add", object).await else { return Ok(()) };
        // Not ours to give free.
        self.session.forget(journal, |undo| *undo == release);
        match holder(&mut *self.session.qmp().await).await {
            None => Err(error),
            Some(holder) => {
                let why = format!("it is held by {}", holder.escape_debug());
                Err(BackendError::caller("take the VM for this run", &self.survey.name, why).advise(
                    "wait for that run; if it was killed, `impound case recover` on its case gives the VM free",
                ))
            }
        }
    }

    async fn prepare_memory(
        &mut self,
        how: &How,
        journal: &mut dyn Journal,
    ) -> Result<(MemoryMethod, Memory), BackendError> {
        let method = methods::choose(&self.survey, how)?;
        match self.prepare_method(method, how, journal).await {
            Ok(memory) => Ok((method, memory)),
            // Nothing has been captured yet, so the next best may be taken, if it was left to us.
            Err(error)
                if how.memory_method.is_none()
                    && error.kind == Kind::Unsupported
                    && method == MemoryMethod::Snapshot =>
            {
                let next = methods::without_snapshot(&self.survey, how, &error)?;
                self.prepare_method(next, how, journal).await.map(|memory| (next, memory))
            }
            Err(error) => Err(error),
        }
    }

    async fn prepare_method(
        &mut self,
        method: MemoryMethod,
        how: &How,
        journal: &mut dyn Journal,
    ) -> Result<Memory, BackendError> {
        let session = &mut self.session;
        Ok(match method {
            MemoryMethod::Snapshot => Memory::Snapshot(Snapshot::prepare(session, how, journal).await?),
            MemoryMethod::Paused => Memory::Paused(Paused::prepare(session, &how.run, journal).await?),
            MemoryMethod::Pmemsave => Memory::Physical(Physical::prepare(session, false, journal).await?),
            MemoryMethod::Live => Memory::Physical(Physical::prepare(session, true, journal).await?),
        })
    }

    /// Registers and memory map of the instant. The guest may have moved its video memory since the survey.
    async fn instant(&mut self) -> Result<(Arc<MemoryMap>, Value), BackendError> {
        let mut qmp = self.session.qmp().await;
        let registers = qmp.human("info registers -a").await?;
        let text = qmp.human("info mtree -f").await?;
        drop(qmp);
        let map = MemoryMap::parse(&text, &self.survey.main_memory)?;
        let left_out: Vec<Region> =
            map.left_out.iter().map(|r| Region { at: r.at, len: r.len, name: r.name.clone() }).collect();
        Ok((Arc::new(map), json!({ "registers": registers::parse(&registers), "left_out": left_out })))
    }

    async fn begin_memory(
        &mut self,
        method: MemoryMethod,
        memory: Memory,
    ) -> Result<(Arc<MemoryMap>, Value, PieceStream), BackendError> {
        let (map, facts) = self.instant().await?;
        self.snapshot = method == MemoryMethod::Snapshot;
        if self.snapshot {
            let pid = self.session.qmp().await.peer_pid();
            self.stall = pid.and_then(|pid| StallWatch::start(pid, &self.survey.cpu_threads));
        }
        let pieces = match memory {
            Memory::Snapshot(snapshot) => snapshot.begin(&mut self.session, Arc::clone(&map)).await?,
            Memory::Paused(paused) => paused.begin(&mut self.session, Arc::clone(&map)).await?,
            Memory::Physical(physical) => physical.begin(&self.session, &map)?,
        };
        Ok((map, facts, pieces))
    }

    /// A name in the address must be this VM's: a monitor has just one.
    pub(super) fn check_name(&self, vm: Option<&str>) -> Result<(), BackendError> {
        match vm {
            Some(vm) if vm != self.survey.name && self.survey.uuid().as_deref() != Some(vm) => {
                let why = format!("the VM behind this monitor is called `{}`", self.survey.name.escape_debug());
                Err(BackendError::caller("open the VM", vm, why).advise("leave out the #name: one monitor is one VM"))
            }
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Target for QemuTarget {
    async fn describe(&mut self) -> Result<Facts, BackendError> {
        Ok(self.survey.facts())
    }

    async fn items(&mut self) -> Result<Vec<Item>, BackendError> {
        Ok(methods::items(&self.survey))
    }

    async fn plan(&mut self, items: &[Item], how: &How) -> Result<Plan, BackendError> {
        plan::make(&self.survey, items, how)
    }

    async fn prepare(&mut self, items: &[Item], how: &How, journal: &mut dyn Journal) -> Result<(), BackendError> {
        // Everything that can be refused beforehand is refused before the VM is touched.
        plan::make(&self.survey, items, how)?;
        self.claim(how, journal).await?;
        let mut wanted = Vec::new();
        for item in items.iter().filter(|item| item.kind == ItemKind::Disk) {
            let disk = self.disk(&item.name).cloned();
            wanted.push(
                disk.ok_or_else(|| BackendError::caller("capture a disk", &item.name, "the VM has no such disk"))?,
            );
        }
        let mut disks = None;
        if !wanted.is_empty() {
            disks = Some(Disks::prepare(&mut self.session, wanted, &how.run, &how.scratch, journal).await?);
        }
        let mut memory = None;
        if items.iter().any(|item| item.kind == ItemKind::Memory) {
            memory = Some(self.prepare_memory(how, journal).await?);
        }
        self.prepared = Some(Prepared { items: items.to_vec(), memory, disks });
        Ok(())
    }

    async fn begin(&mut self, _journal: &mut dyn Journal) -> Result<Vec<Capture>, BackendError> {
        let prepared = self.prepared.take();
        let prepared =
            prepared.ok_or_else(|| BackendError::caller("begin", &self.survey.name, "nothing was prepared"))?;
        let mut disks = match prepared.disks {
            Some(disks) => disks.begin(&mut self.session, &self.thawed.subscribe()).await?,
            None => Vec::new(),
        };
        let mut memory = match prepared.memory {
            Some((method, memory)) => {
                let (map, facts, pieces) = self.begin_memory(method, memory).await?;
                Some((method, map, facts, pieces))
            }
            None => None,
        };
        let mut captures = Vec::new();
        for item in prepared.items {
            captures.push(match item.kind {
                ItemKind::Memory => {
                    let taken = memory.take();
                    let (method, map, facts, pieces) = taken.ok_or_else(|| twice(&item))?;
                    memory_capture(item, method, &map, facts, pieces, self.survey.running)
                }
                ItemKind::Disk => {
                    let at = disks.iter().position(|(disk, _)| disk.name == item.name).ok_or_else(|| twice(&item))?;
                    let (disk, pieces) = disks.swap_remove(at);
                    disk_capture(item, &disk, pieces, self.survey.running)
                }
                ItemKind::Container => config::container(item)?,
                ItemKind::Config => config::capture(item, &self.survey),
            });
        }
        Ok(captures)
    }

    async fn finish(&mut self, journal: &mut dyn Journal) -> Result<Finished, BackendError> {
        self.prepared = None;
        let stall = self.stall.take().and_then(StallWatch::end);
        let (mut problems, guest_unsure) = self.session.undo_all(journal).await;
        if self.snapshot {
            problems.extend(snapshot_failure(&mut *self.session.qmp().await).await);
        }
        let status = self.session.qmp().await.ask("query-status", Value::Null).await;
        let state = match &status {
            Ok(status) => status.get("status").and_then(Value::as_str).unwrap_or("unknown").to_owned(),
            Err(error) => format!("unknown: {}", error.why),
        };
        let pauses = self.session.pauses().await;
        let left = kept_descriptors(&mut *self.session.qmp().await).await;
        Ok(Finished { pauses, stall, left, state, problems, guest_unsure })
    }

    async fn recover(&mut self, undo: &[Undo]) -> Result<Vec<String>, BackendError> {
        let mut told = Vec::new();
        for undo in undo {
            let undo = QemuUndo::from_journal(undo)?;
            undo.apply(&mut *self.session.qmp().await).await?;
            told.push(undo.say());
        }
        Ok(told)
    }

    fn freezer(&mut self) -> Option<&mut dyn Freeze> {
        Some(self)
    }

    fn live(&mut self) -> Option<&mut dyn Live> {
        Some(self)
    }
}

#[async_trait]
impl Live for QemuTarget {
    async fn memory(&mut self) -> Result<Arc<dyn LiveMemory>, BackendError> {
        live::open(&mut *self.session.qmp().await, &self.survey).await
    }
}

#[async_trait]
impl Freeze for QemuTarget {
    async fn freeze(&mut self, journal: &mut dyn Journal) -> Result<(), BackendError> {
        let running = self.survey.running;
        self.session.about_to(journal, "stop the guest", QemuUndo::RunState { running })?;
        if running {
            self.session.qmp().await.run(&qapi::qmp::stop {}).await?;
        }
        Ok(())
    }

    async fn thaw(&mut self, journal: &mut dyn Journal) -> Result<(), BackendError> {
        if self.survey.running {
            // No question first: QEMU may be slow to answer while it protects memory, and `cont` is right in any case.
            undo::cont(&mut *self.session.qmp().await).await?;
        }
        self.thawed.send_replace(true);
        self.session.undo(journal, |undo| matches!(undo, QemuUndo::RunState { .. })).await
    }
}

/// A QEMU before 9.0 closes a removed descriptor only once the guest runs (monitor/fds.c, `monitor_fdset_cleanup`).
async fn kept_descriptors(qmp: &mut Qmp) -> Vec<String> {
    let sets = qmp.ask("query-fdsets", Value::Null).await.unwrap_or_default();
    let ours = |set: &&Value| set.to_string().contains("\"opaque\":\"impound\"");
    let sets = sets.as_array().into_iter().flatten().filter(ours);
    sets.map(|set| {
        let id = set.get("fdset-id").and_then(Value::as_u64).unwrap_or(0);
        format!("descriptor set {id}, removed and empty of use; this QEMU closes it once the guest runs again")
    })
    .collect()
}

/// The memory may be whole and the snapshot not: what follows memory in the stream is the state of the devices.
async fn snapshot_failure(qmp: &mut Qmp) -> Option<String> {
    let state = qmp.ask("query-migrate", Value::Null).await.ok()?;
    let text = |key: &str| state.get(key).and_then(Value::as_str);
    match text("status") {
        Some("completed") | None => None,
        Some(status) => {
            Some(format!("the snapshot ended as `{status}`: {}", text("error-desc").unwrap_or("no reason given")))
        }
    }
}

fn twice(item: &Item) -> BackendError {
    BackendError::caller("capture", &item.name, "it was asked for twice")
}

fn memory_capture(
    item: Item,
    method: MemoryMethod,
    map: &MemoryMap,
    facts: Value,
    pieces: PieceStream,
    running: bool,
) -> Capture {
    Capture {
        method: method.name(),
        len: map.len,
        regions: map.regions(),
        consistency: if running { method.consistency() } else { Consistency::Instantaneous },
        holds_guest: method.holds_guest(),
        item,
        facts,
        pieces,
    }
}

fn disk_capture(item: Item, disk: &DiskFound, pieces: PieceStream, running: bool) -> Capture {
    let facts = json!({ "node": disk.node, "file": disk.file, "format": disk.format, "read_only": disk.read_only });
    Capture {
        method: if disk.read_only { "export" } else { "fleece" },
        len: disk.size,
        regions: (disk.size > 0)
            .then(|| Region { at: 0, len: disk.size, name: disk.name.clone() })
            .into_iter()
            .collect(),
        consistency: if running && !disk.read_only {
            Consistency::QuasiInstantaneous
        } else {
            Consistency::Instantaneous
        },
        holds_guest: false,
        item,
        facts,
        pieces,
    }
}
