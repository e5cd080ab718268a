//! One QEMU as a target: which methods fit, and the order of a capture.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::dial::{Dial, Dialled};
use super::disks::Disks;
use super::flatview::MemoryMap;
use super::held::{Paused, Physical};
use super::methods::{self, MemoryMethod};
use super::quiesce::QUIESCE;
use super::session::Session;
use super::snapshot::Snapshot;
use super::spool::Spool;
use super::stall::StallWatch;
use super::survey::{DiskFound, Survey};
use super::undo::{self, CLAIM, QemuUndo, holder};
use super::{captures, config, live, plan, registers};
use crate::wire::qmp::Qmp;
use crate::{
    BackendError, Capture, Facts, Finished, Freeze, How, Item, ItemKind, Journal, Kind, Live, LiveMemory, PieceStream,
    Plan, Region, Target, Undo, WireLog,
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
    #[cfg(feature = "ssh")]
    watchman: Option<super::watchman::Watchman>,
    #[cfg(feature = "ssh")]
    domain: Option<super::libvirt::Domain>,
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
    Spool(Spool),
    Physical(Physical),
}

impl QemuTarget {
    pub(super) async fn open(mut dialled: Dialled, dial: Dial, wire: Arc<dyn WireLog>) -> Result<Self, BackendError> {
        let mut survey = Survey::make(&mut dialled.qmp).await?;
        survey.place = dialled.machine.as_ref().map(|machine| machine.name().to_owned());
        #[cfg(feature = "ssh")]
        if let Some(machine @ super::machine::Machine::There(_)) = &dialled.machine {
            survey.elsewhere = true;
            if let Err(error) = super::watchman::possible(machine, dial.kind()).await {
                survey
                    .of_the_way
                    .push(format!("if the link breaks while the guest stands still, nobody lets it go: {}", error.why));
            }
        }
        Ok(Self {
            session: Session::new(dialled, dial, wire),
            survey,
            prepared: None,
            stall: None,
            thawed: watch::Sender::new(false),
            snapshot: false,
            #[cfg(feature = "ssh")]
            watchman: None,
            #[cfg(feature = "ssh")]
            domain: None,
        })
    }

    /// The domain that this VM is to libvirt: its name, and what libvirt knows of it, for the exhibit of the configuration.
    #[cfg(feature = "ssh")]
    pub(super) fn behind(mut self, domain: super::libvirt::Domain) -> Self {
        self.survey.answers.extend(domain.told().into_iter().map(|(name, value)| (name.to_owned(), value)));
        self.survey.of_the_way.push(
            "libvirt marks the domain as tainted (custom-monitor) until it is next started; its definition stays as it is"
                .to_owned(),
        );
        self.survey.name.clone_from(&domain.name);
        self.domain = Some(domain);
        self
    }

    /// libvirt was passed by: is all as it knew it? If not, in words.
    #[cfg(feature = "ssh")]
    async fn checked_by_libvirt(&self) -> Option<String> {
        let (Some(before), Dial::Libvirt { daemon, domain }) = (&self.domain, self.session.dial()) else { return None };
        match daemon.domain(domain).await {
            Err(error) => Some(format!("could not ask libvirt whether the domain is as it was: {}", error.why)),
            Ok(after) => {
                let pairs = [
                    ("its state", &before.state, &after.state),
                    ("its job", &before.job, &after.job),
                    ("its definition", &before.xml, &after.xml),
                ];
                let differs = pairs.into_iter().find(|(_, before, after)| before != after);
                differs.map(|(what, _, after)| format!("libvirt finds {what} changed: {}", after.escape_debug()))
            }
        }
    }

    /// A thread of QEMU's, to know its process by.
    fn tid(&self) -> Option<i32> {
        self.survey.cpu_threads.first().copied()
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

    /// Is there an agent that can do what is asked of it?
    async fn probe_agent(&mut self) -> Result<(), BackendError> {
        match self.session.probe_agent().await {
            // Another run has it, and to claim the VM will say whose.
            Err(_) if holder(&mut *self.session.qmp().await).await.is_some() => Ok(()),
            other => other,
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
        let (tid, bytes) = (self.tid(), self.survey.memory().unwrap_or(0));
        let session = &mut self.session;
        Ok(match (method, session.machine.clone()) {
            (MemoryMethod::Snapshot, _) => Memory::Snapshot(Snapshot::prepare(session, how, tid, journal).await?),
            (MemoryMethod::Paused, Some(machine)) => {
                Memory::Spool(Spool::prepare(session, machine, how, (bytes, tid), journal).await?)
            }
            (MemoryMethod::Paused, None) => Memory::Paused(Paused::prepare(session, &how.run, journal).await?),
            (MemoryMethod::Pmemsave, _) => Memory::Physical(Physical::prepare(session, false, journal).await?),
            (MemoryMethod::Live, _) => Memory::Physical(Physical::prepare(session, true, journal).await?),
        })
    }

    /// Has somebody on the other machine see to it that a link that breaks does not harm the guest.
    #[cfg(feature = "ssh")]
    async fn post_watchman(&mut self, items: &[Item], how: &How) -> Result<(), BackendError> {
        use super::machine::Machine;
        use super::watchman::{self, Watchman, Way};
        let Some(Machine::There(there)) = &self.session.machine else { return Ok(()) };
        let way = match self.session.dial() {
            Dial::Socket { .. } => return Ok(()),
            Dial::Ssh { path, .. } => {
                Way::Socket { monitor: path.clone(), agent: self.session.channel.socket().map(ToOwned::to_owned) }
            }
            Dial::Libvirt { daemon, domain } => Way::Libvirt {
                daemon: daemon.over_there(),
                domain: domain.clone(),
                thaws: self.session.channel.is_ready(),
            },
        };
        // Without a way to speak to QEMU over there the responder was warned.
        if watchman::possible(&Machine::There(there.clone()), way.kind()).await.is_err() {
            return Ok(());
        }
        let disks = items.iter().filter(|item| item.kind == ItemKind::Disk).count();
        let mut lines = Vec::new();
        if items.iter().any(|item| item.kind == ItemKind::Memory) {
            lines.push(json!({ "execute": "migrate_cancel" }).to_string());
        }
        if self.survey.running {
            lines.push(json!({ "execute": "cont" }).to_string());
        }
        let jobs = (0..disks).map(|number| super::disks::Names::new(&how.run, number).job);
        lines.extend(jobs.map(|id| json!({ "execute": "job-cancel", "arguments": { "id": id } }).to_string()));
        self.watchman = Some(Watchman::post(&there.control, &way, &lines).await?);
        Ok(())
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
            // A thread leads to its process as well, where the monitor's other end is not QEMU.
            let pid = if self.survey.place.is_some() { self.tid() } else { self.session.qmp().await.peer_pid() };
            let pid = pid.filter(|_| !self.survey.elsewhere);
            self.stall = pid.and_then(|pid| StallWatch::start(pid, &self.survey.cpu_threads));
        }
        let pieces = match memory {
            Memory::Snapshot(snapshot) => snapshot.begin(&mut self.session, Arc::clone(&map)).await?,
            Memory::Paused(paused) => paused.begin(&mut self.session, Arc::clone(&map)).await?,
            Memory::Spool(spool) => spool.begin(&self.session, Arc::clone(&map), self.thawed.subscribe()).await?,
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
        if how.options.contains_key(QUIESCE) {
            self.probe_agent().await?;
        }
        self.claim(how, journal).await?;
        if how.options.contains_key(QUIESCE) && !self.session.channel.is_ready() {
            // Whoever had it let go between the two.
            self.session.probe_agent().await?;
        }
        #[cfg(feature = "ssh")]
        self.post_watchman(items, how).await?;
        let mut wanted = Vec::new();
        for item in items.iter().filter(|item| item.kind == ItemKind::Disk) {
            let disk = self.disk(&item.name).cloned();
            wanted.push(
                disk.ok_or_else(|| BackendError::caller("capture a disk", &item.name, "the VM has no such disk"))?,
            );
        }
        let mut disks = None;
        if !wanted.is_empty() {
            let tid = self.tid();
            disks = Some(Disks::prepare(&mut self.session, wanted, how, tid, journal).await?);
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
                    let held = method.holds_guest() && self.survey.place.is_none();
                    captures::memory(item, (method, held), &map, facts, pieces, self.survey.running)
                }
                ItemKind::Disk => {
                    let at = disks.iter().position(|(disk, _)| disk.name == item.name).ok_or_else(|| twice(&item))?;
                    let (disk, pieces) = disks.swap_remove(at);
                    captures::disk(item, &disk, pieces, self.survey.running)
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
        #[cfg(feature = "ssh")]
        if let Some(watchman) = self.watchman.take() {
            watchman.dismiss().await;
        }
        #[cfg(feature = "ssh")]
        problems.extend(self.checked_by_libvirt().await);
        if self.snapshot {
            problems.extend(snapshot_failure(&mut *self.session.qmp().await).await);
        }
        let status = self.session.qmp().await.ask("query-status", Value::Null).await;
        let state = match &status {
            Ok(status) => status.get("status").and_then(Value::as_str).unwrap_or("unknown").to_owned(),
            Err(error) => format!("unknown: {}", error.why),
        };
        let pauses = self.session.pauses().await;
        let (quiesced, lapsed) = self.session.channel.end();
        problems.extend(lapsed);
        let mut left = kept_descriptors(&mut *self.session.qmp().await).await;
        left.extend(
            self.session.written().iter().map(|what| format!("nothing any more, but this was written: {what}")),
        );
        Ok(Finished { pauses, stall, quiesced, left, state, problems, guest_unsure, ..Finished::default() })
    }

    async fn recover(&mut self, undo: &[Undo]) -> Result<Vec<String>, BackendError> {
        let (mut told, mut asleep) = (Vec::new(), None);
        for undo in undo {
            let undo = QemuUndo::from_journal(undo)?;
            match self.session.take_back(&undo).await {
                // An agent that does not answer is no reason to leave anything else behind.
                Err(error) if undo == QemuUndo::FileSystems => asleep = Some(error),
                other => other.map(|()| told.push(undo.say()))?,
            }
        }
        self.session.channel.end();
        asleep.map_or(Ok(told), Err)
    }

    fn freezer(&mut self) -> Option<&mut dyn Freeze> {
        Some(self)
    }

    fn live(&mut self) -> Option<&mut dyn Live> {
        // The memory of a process on another machine is not to be had.
        if self.session.machine.is_some() { None } else { Some(self) }
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
        // Both before either: to write them down takes time.
        if self.session.channel.is_ready() {
            self.session.about_to(journal, "freeze the guest's file systems", QemuUndo::FileSystems)?;
        }
        self.session.about_to(journal, "stop the guest", QemuUndo::RunState { running })?;
        if self.session.channel.is_ready() {
            self.session.channel.freeze().await?;
        }
        if running {
            let sent = Timestamp::now();
            self.session.qmp().await.run(&qapi::qmp::stop {}).await?;
            self.session.saw("STOP", sent);
        }
        Ok(())
    }

    async fn thaw(&mut self, journal: &mut dyn Journal) -> Result<(), BackendError> {
        if self.survey.running {
            // No question first: QEMU may be slow to answer while it protects memory, and `cont` is right in any case.
            undo::cont(&mut *self.session.qmp().await).await?;
            self.session.saw("RESUME", Timestamp::now());
        }
        self.thawed.send_replace(true);
        let file_systems = self.session.thaw_file_systems(journal).await;
        self.session.undo(journal, |undo| matches!(undo, QemuUndo::RunState { .. })).await.and(file_systems)
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
