//! A virtual machine as a target: its disks, what ARM says of it, and the order in which they are taken.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::api::{Api, text};
use super::blob::UNDER_WAY;
use super::credentials::Caller;
use super::undo::AzureUndo;
use super::vm::{Disk, Machine, power};
use super::{Place, exhibits, sas, snapshot};
use crate::cloud;
use crate::{
    ActId, BackendError, Capture, Facts, Finished, GRAIN, How, Item, ItemKind, Journal, Kind, Method, Plan, Target,
    Undo,
};
use snapshot::Snapshot;

/// The only way to take a disk.
pub(super) const METHOD: &str = "snapshot";
/// What is said where there are several disks.
const SEVERAL: &str = "Azure promises no common instant to snapshots of several disks: they are asked for at the same moment, each holds one instant of its own disk, and the manifest says when";

/// See the module.
pub(super) struct Vm {
    api: Arc<Api>,
    caller: Caller,
    place: Place,
    machine: Machine,
    prepared: Option<(Vec<Item>, How)>,
    /// What was made or taken up.
    snapshots: Vec<Snapshot>,
    granted: Granted,
    /// What the journal says was begun; ended by `finish`, so that after a kill the snapshots are found and listed.
    begun: Option<ActId>,
}

impl Vm {
    pub(super) fn new(api: &Arc<Api>, caller: &Caller, place: Place, machine: Machine) -> Self {
        let (api, caller, granted) = (Arc::clone(api), caller.clone(), Granted::default());
        Self { api, caller, place, machine, prepared: None, snapshots: Vec::new(), granted, begun: None }
    }

    fn item(disk: &Disk) -> Item {
        Item {
            kind: ItemKind::Disk,
            name: disk.name.clone(),
            len: Some(disk.len),
            source: disk.id.clone(),
            resumable: true,
            file: None,
            methods: vec![method()],
        }
    }

    /// The disk that is asked for; none for a document.
    fn disk(&self, item: &Item) -> Result<Option<&Disk>, BackendError> {
        cloud::disk_of(item, &self.machine.id, &self.machine.disks, |disk| &disk.name, &exhibits::items(&self.machine))
    }

    fn disks(&self, items: &[Item]) -> Result<Vec<&Disk>, BackendError> {
        let found: Result<Vec<_>, _> = items.iter().map(|item| self.disk(item)).collect();
        Ok(found?.into_iter().flatten().collect())
    }

    fn warnings(&self, disks: usize) -> Vec<String> {
        let mut warnings = self.machine.warnings();
        if disks > 1 {
            warnings.push(SEVERAL.to_owned());
        }
        warnings
    }

    /// Where the snapshot of an item is, and which run makes or made it.
    fn snapshot_id<'a>(&self, item: &Item, how: &'a How) -> (String, &'a str) {
        let run = how.begun_by.get(&item.name).unwrap_or(&how.run);
        (snapshot::id(&self.place.group, run, &item.name), run.as_str())
    }

    /// Snapshots for all disks that are asked for, at the same moment; those of the run that is gone on with are taken up.
    async fn take(
        &mut self,
        (items, how): &(Vec<Item>, How),
        journal: &mut dyn Journal,
    ) -> Result<Vec<(String, Result<Snapshot, BackendError>)>, BackendError> {
        let mut wanted = Vec::new();
        for item in items {
            if let Some(disk) = self.disk(item)? {
                let (id, run) = self.snapshot_id(item, how);
                wanted.push((disk.clone(), id, (*run != *how.run).then(|| run.to_owned())));
            }
        }
        let ids = |new: bool| wanted.iter().filter(move |(_, _, earlier)| !new || earlier.is_none());
        let (new, all): (Vec<_>, Vec<_>) =
            (ids(true).map(|(_, id, _)| id.clone()).collect(), ids(false).map(|(_, id, _)| id.clone()).collect());
        if !new.is_empty() {
            self.begun =
                Some(cloud::note(journal, "take the snapshots", AzureUndo::Snapshots { ids: new }.for_journal())?);
        }
        self.granted.begin(journal, all)?;
        let mut tasks = JoinSet::new();
        for (disk, id, earlier) in wanted {
            let (api, how) = (Arc::clone(&self.api), how.clone());
            tasks.spawn(async move {
                let taken = match earlier {
                    Some(run) => snapshot::of_run(&api, &id, &run, &disk).await,
                    None => snapshot::create(&api, &id, &disk, &how).await,
                };
                (disk.name, taken)
            });
        }
        let mut taken = Vec::new();
        while let Some(done) = tasks.join_next().await {
            taken.push(done.map_err(|error| {
                BackendError::new(Kind::Io, "take the snapshots", "this program", error.to_string())
            })?);
        }
        Ok(taken)
    }
}

/// Accesses to snapshots that the journal knows of.
#[derive(Debug, Default)]
pub(super) struct Granted {
    ids: Vec<String>,
    act: Option<ActId>,
}

impl Granted {
    /// Writes down that access to these comes next.
    pub(super) fn begin(&mut self, journal: &mut dyn Journal, ids: Vec<String>) -> Result<(), BackendError> {
        if !ids.is_empty() {
            self.act = Some(cloud::note(
                journal,
                "get access to the snapshots",
                AzureUndo::Access { ids: ids.clone() }.for_journal(),
            )?);
            self.ids = ids;
        }
        Ok(())
    }

    /// Ends all. What could not be ended stays in the journal.
    pub(super) async fn end(&mut self, api: &Api, journal: &mut dyn Journal) -> Result<Vec<String>, BackendError> {
        let mut problems = Vec::new();
        for id in self.ids.drain(..) {
            if let Err(refused) = sas::end(api, &id).await {
                problems.push(format!("whoever has the address of {id} may still read it: {}", refused.error));
            }
        }
        if let Some(act) = self.act.take().filter(|_| problems.is_empty()) {
            cloud::ended(journal, act)?;
        }
        Ok(problems)
    }
}

/// How every snapshot is.
pub(super) fn method() -> Method {
    let pause = "none: Azure keeps the disk as it is at the instant; what the guest holds back in memory is not in it";
    cloud::snapshot(METHOD, pause)
}

/// Refuses what no snapshot promises.
pub(super) fn allowed(how: &How, on: &str) -> Result<(), BackendError> {
    cloud::allowed(how, on, "machine")
}

/// What every exhibit of a machine says of where it came from.
pub(super) fn provenance(caller: &Caller) -> Value {
    json!({ "provider": "Azure", "caller": caller })
}

#[async_trait]
impl Target for Vm {
    async fn describe(&mut self) -> Result<Facts, BackendError> {
        let about = &self.machine.about;
        Ok(Facts {
            name: text(about, "/name").to_owned(),
            id: Some(text(about, "/properties/vmId").to_owned()).filter(|id| !id.is_empty()),
            hypervisor: format!("Azure ({})", text(about, "/properties/hardwareProfile/vmSize")),
            version: text(&self.machine.view, "/hyperVGeneration").to_owned(),
            state: self.machine.state(),
            cpus: None,
            memory: None,
            clocks: None,
            warnings: self.warnings(self.machine.disks.len()),
            details: json!({ "caller": self.caller, "documents": self.machine.documents() }),
        })
    }

    async fn items(&mut self) -> Result<Vec<Item>, BackendError> {
        Ok(self.machine.disks.iter().map(Self::item).chain(exhibits::items(&self.machine)).collect())
    }

    async fn plan(&mut self, items: &[Item], how: &How) -> Result<Plan, BackendError> {
        allowed(how, &self.machine.id)?;
        let mut planned = Vec::new();
        let mut commands: Vec<_> = items.iter().filter_map(exhibits::command).collect();
        for item in items {
            let disk = self.disk(item)?;
            planned.push(cloud::planned(item, disk.map(|disk| disk.len), how));
            if let Some(disk) = disk {
                let (id, run) = self.snapshot_id(item, how);
                if *run == *how.run {
                    commands.push(format!("PUT {id}, a snapshot of {}; it stays", disk.id));
                }
                commands.push(format!("POST {id}/beginGetAccess, GET what is written, POST {id}/endGetAccess"));
            }
        }
        let warnings = self.warnings(self.disks(items)?.len());
        Ok(Plan { items: planned, pause: "none".to_owned(), commands, scratch_bytes: 0, warnings })
    }

    async fn prepare(&mut self, items: &[Item], how: &How, _journal: &mut dyn Journal) -> Result<(), BackendError> {
        allowed(how, &self.machine.id)?;
        for disk in self.disks(items)? {
            cloud::check_start(&disk.name, how.start_at.get(&disk.name).copied().unwrap_or(0), GRAIN)?;
        }
        self.prepared = Some((items.to_vec(), how.clone()));
        Ok(())
    }

    /// What lasts least is taken first: the screen, the console's log, what ARM says; then the disks.
    async fn begin(&mut self, journal: &mut dyn Journal) -> Result<Vec<Capture>, BackendError> {
        let Some(prepared) = self.prepared.take() else { return Ok(Vec::new()) };
        let mut documents = exhibits::ALL
            .take(&self.machine.id, &prepared.0, |name| exhibits::one(&self.api, &self.machine.id, name))
            .await;
        let mut taken = self.take(&prepared, journal).await?;
        self.snapshots = taken.iter().filter_map(|(_, taken)| taken.as_ref().ok().cloned()).collect();
        if self.snapshots.is_empty()
            && let Some((_, Err(error))) = taken.pop()
        {
            return Err(error);
        }
        let room = Arc::new(Semaphore::new(UNDER_WAY));
        let mut captures = Vec::new();
        for item in &prepared.0 {
            let found = taken.iter().position(|(name, _)| item.kind == ItemKind::Disk && *name == item.name);
            captures.push(match found.map(|at| taken.swap_remove(at).1) {
                Some(Ok(snapshot)) => {
                    let from = prepared.1.start_at.get(&item.name).copied().unwrap_or(0);
                    snapshot::capture(&self.api, &self.caller, item.clone(), &snapshot, from, &room)
                }
                Some(Err(error)) => {
                    let (len, facts) = (item.len.unwrap_or(0), provenance(&self.caller));
                    cloud::disk(item.clone(), METHOD, len, facts, cloud::nothing(error))
                }
                None => exhibits::ALL.capture(item, documents.remove(&item.name), provenance(&self.caller)),
            });
        }
        Ok(captures)
    }

    async fn finish(&mut self, journal: &mut dyn Journal) -> Result<Finished, BackendError> {
        let problems = self.granted.end(&self.api, journal).await?;
        if let Some(act) = self.begun.take() {
            cloud::ended(journal, act)?;
        }
        let view = format!("{}/instanceView", self.machine.id);
        let view = self.api.get("ask for the state of the virtual machine", &view, super::api::COMPUTE).await;
        Ok(Finished {
            left: self.snapshots.iter().map(Snapshot::left).collect(),
            state: view.map_or_else(|_| "not known".to_owned(), |view| power(&view)),
            problems,
            ..Finished::default()
        })
    }

    async fn recover(&mut self, undo: &[Undo]) -> Result<Vec<String>, BackendError> {
        super::undo::all(&self.api, &self.place.group, undo).await
    }
}
