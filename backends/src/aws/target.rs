//! An instance as a target: its volumes, what EC2 says of it, and the order in which they are taken.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::Caller;
use super::acts::Acts;
use super::api::{Api, BLOCK};
use super::blocks::{UNDER_WAY, Work};
use super::copies::Copies;
use super::copy::Vault;
use super::ec2::{RUN_TAG, Snapshot, Volume, snapshot_params};
use super::since::Earlier;
use super::undo::AwsUndo;
use super::{exhibits, isolate, lock, snapshot};
use crate::cloud;
use crate::wire::http::xml::Element;
use crate::{
    Access, ActId, BackendError, Capture, Facts, Finished, How, Item, ItemKind, Journal, Method, Plan, Target, Undo,
};

/// The only way to take a disk.
pub(super) const METHOD: &str = "snapshot";
/// What is said before anything starts.
pub(super) const NO_MEMORY: &str = "memory is not taken: no API of AWS gives it; only an agent in the guest could (SSM with AVML, say), or hibernation, which stops the guest and writes memory into the encrypted root volume";

/// See the module.
pub(super) struct Instance {
    api: Arc<Api>,
    caller: Caller,
    access: Access,
    id: String,
    about: Element,
    disks: Vec<(String, Volume)>,
    prepared: Option<Prepared>,
    /// What was made or taken up, disk by disk.
    snapshots: Vec<Snapshot>,
    /// Set by each stream that has sent all.
    whole: Vec<Arc<AtomicBool>>,
    problems: Vec<String>,
    /// What the journal says was begun; ended with the run, so that after a kill snapshots and copies are found and listed.
    begun: Vec<ActId>,
    /// Copies in another account, which are waited for in the end.
    copies: Option<Copies>,
}

struct Prepared {
    items: Vec<Item>,
    how: How,
    acts: Acts,
    vault: Option<Vault>,
}

/// Number of virtual CPUs.
pub(super) fn cpus(about: &Element) -> Option<u32> {
    let number = |path| about.get(path).and_then(|text| text.parse::<u32>().ok());
    number("cpuOptions/coreCount")?.checked_mul(number("cpuOptions/threadsPerCore").unwrap_or(1))
}

impl Instance {
    pub(super) fn new(api: &Arc<Api>, caller: &Caller, access: &Access, about: Element, volumes: Vec<Volume>) -> Self {
        let id = about.get("instanceId").unwrap_or_default().to_owned();
        let mut seen = BTreeSet::new();
        let disks = volumes.into_iter().map(|volume| {
            let name = crate::file::safe_name(std::path::Path::new(&volume.device));
            // Two devices of one name cannot be told apart by it, but their volumes can.
            let name = if seen.insert(name.clone()) { name } else { format!("{name}-{}", volume.id) };
            (name, volume)
        });
        Self {
            api: Arc::clone(api),
            caller: caller.clone(),
            access: access.clone(),
            disks: disks.collect(),
            about,
            id,
            prepared: None,
            snapshots: Vec::new(),
            whole: Vec::new(),
            problems: Vec::new(),
            begun: Vec::new(),
            copies: None,
        }
    }

    fn item(name: &str, volume: &Volume) -> Item {
        Item {
            kind: ItemKind::Disk,
            name: name.to_owned(),
            len: Some(volume.len),
            source: volume.id.clone(),
            resumable: true,
            file: None,
            methods: vec![method()],
        }
    }

    /// The volume of a disk that is asked for.
    fn volume(&self, item: &Item) -> Result<Option<&Volume>, BackendError> {
        if item.kind == ItemKind::Config {
            return exhibits::known(item, &self.about).map(|()| None);
        }
        let found = self.disks.iter().find(|(name, _)| item.kind == ItemKind::Disk && *name == item.name);
        found
            .map(|(_, volume)| Some(volume))
            .ok_or_else(|| BackendError::caller("capture", &self.id, format!("it has no `{}`", item.name)))
    }

    fn volumes(&self, items: &[Item]) -> Result<Vec<&Volume>, BackendError> {
        let found: Result<Vec<_>, _> = items.iter().map(|item| self.volume(item)).collect();
        Ok(found?.into_iter().flatten().collect())
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = vec![NO_MEMORY.to_owned()];
        if self.about.get("hibernationOptions/configured") == Some("true") {
            warnings.push("hibernation is configured: the root volume may hold memory of an earlier time".to_owned());
        }
        if let Some(key) = self.disks.iter().find(|(_, volume)| volume.encrypted) {
            let key = key.1.about.get("kmsKeyId").unwrap_or("a key that EC2 does not name");
            warnings.push(format!("volumes are encrypted: whoever reads them needs kms:Decrypt on {key}"));
        }
        warnings.push("disks of the instance's own host (instance store), if it has any, cannot be taken and are lost when it stops".to_owned());
        warnings
    }

    fn end_acts(&mut self, journal: &mut dyn Journal) -> Result<(), BackendError> {
        self.begun.drain(..).try_for_each(|act| cloud::ended(journal, act))
    }

    /// The snapshots: those of the run that is gone on with, else new ones.
    async fn take(
        &mut self,
        prepared: &Prepared,
        journal: &mut dyn Journal,
    ) -> Result<Vec<Option<Snapshot>>, BackendError> {
        let mut found: Vec<Option<Snapshot>> = Vec::new();
        for item in &prepared.items {
            let snapshot = match (self.volume(item)?, prepared.how.begun_by.get(&item.name)) {
                (Some(volume), Some(run)) => Some(snapshot::of_run(&self.api, run, &volume.id).await?),
                _ => None,
            };
            found.push(snapshot);
        }
        let missing: Vec<_> = prepared
            .items
            .iter()
            .zip(&found)
            .filter(|(_, found)| found.is_none())
            .map(|(item, _)| item.clone())
            .collect();
        let wanted: Vec<Volume> = self.volumes(&missing)?.into_iter().cloned().collect();
        if wanted.is_empty() {
            return Ok(found);
        }
        let made = self.create(prepared, &wanted, journal).await?;
        for (item, found) in prepared.items.iter().zip(&mut found) {
            if let (Some(volume), None) = (self.volume(item)?, &found) {
                *found = made.iter().find(|snapshot| snapshot.volume == volume.id).cloned();
            }
        }
        Ok(found)
    }

    async fn create(
        &mut self,
        prepared: &Prepared,
        wanted: &[Volume],
        journal: &mut dyn Journal,
    ) -> Result<Vec<Snapshot>, BackendError> {
        let is_wanted = |volume: &Volume| wanted.iter().any(|wanted| wanted.id == volume.id);
        let left_out: Vec<_> =
            self.disks.iter().map(|(_, volume)| volume).filter(|volume| !is_wanted(volume)).collect();
        let how = &prepared.how;
        let tags = [
            ("Name", format!("impound {} {}", self.id, how.run)),
            (RUN_TAG, how.run.clone()),
            ("impound:by", how.holder.clone()),
        ];
        let description = format!("impound run {} of {}", how.run, self.id);
        let params = snapshot_params(&self.id, &left_out, &description, &tags);
        let undo = AwsUndo::Snapshots { run: how.run.clone() };
        self.begun.push(cloud::note(journal, "take the snapshots", undo.for_journal())?);
        let made = snapshot::create(&self.api, &how.run, &params).await?;
        self.snapshots.extend(made.iter().cloned());
        if let Some(volume) = wanted
            .iter()
            .find(|volume| !made.iter().any(|snapshot| snapshot.volume == volume.id && snapshot.len == volume.len))
        {
            let expected = format!("a snapshot of {} with {} bytes", volume.id, volume.len);
            return Err(BackendError::corrupt("take the snapshots", &self.id, "the answer", expected, "none"));
        }
        if let Some(lock) = &prepared.acts.lock {
            lock::all(&self.api, lock, &made, &mut self.problems).await;
        }
        Ok(made)
    }

    /// One capture of a disk.
    fn read(
        &mut self,
        item: &Item,
        snapshot: &Snapshot,
        how: &How,
        under_way: &Arc<Semaphore>,
    ) -> Result<Capture, BackendError> {
        let from = how.start_at.get(&item.name).copied().unwrap_or(0);
        let mut work = Work::new(&self.api, snapshot.id.clone(), snapshot.len, from, under_way);
        let since = how.since.get(&item.name);
        work.earlier = since.map(|since| Earlier::open(since, snapshot.len)).transpose()?;
        self.whole.push(Arc::clone(&work.whole));
        let mut capture = snapshot::capture(item.clone(), snapshot, &self.caller, work);
        if let (Some(facts), Some(since)) = (capture.facts.as_object_mut(), since) {
            facts.insert("since".to_owned(), json!({ "snapshot": since.from, "exhibit": since.exhibit }));
        }
        Ok(capture)
    }
}

/// How every snapshot is.
pub(super) fn method() -> Method {
    let pause = "none: EBS keeps each block as it is at the instant; what the guest holds back in memory is not in it";
    cloud::snapshot(METHOD, pause)
}

/// Refuses what no snapshot promises.
pub(super) fn allowed(how: &How, on: &str) -> Result<(), BackendError> {
    cloud::allowed(how, on, "instance")
}

#[async_trait]
impl Target for Instance {
    async fn describe(&mut self) -> Result<Facts, BackendError> {
        let volumes: Vec<_> = self.disks.iter().map(|(name, volume)| (name.clone(), volume.about.to_json())).collect();
        let tags = super::ec2::tags(&self.about);
        Ok(Facts {
            name: tags.get("Name").cloned().unwrap_or_else(|| self.id.clone()),
            id: Some(self.id.clone()),
            hypervisor: format!("AWS EC2 ({})", self.about.get("instanceType").unwrap_or("unknown")),
            version: self.about.get("hypervisor").unwrap_or_default().to_owned(),
            state: self.about.get("instanceState/name").unwrap_or("unknown").to_owned(),
            cpus: cpus(&self.about),
            memory: None,
            clocks: None,
            warnings: self.warnings(),
            details: json!({
                "region": self.api.region,
                "caller": self.caller,
                "instance": self.about.to_json(),
                "volumes": volumes.into_iter().collect::<serde_json::Map<_, _>>(),
            }),
        })
    }

    async fn items(&mut self) -> Result<Vec<Item>, BackendError> {
        let disks = self.disks.iter().map(|(name, volume)| Self::item(name, volume));
        Ok(disks.chain(exhibits::items(&self.id, &self.about)).collect())
    }

    async fn plan(&mut self, items: &[Item], how: &How) -> Result<Plan, BackendError> {
        allowed(how, &self.id)?;
        let acts = Acts::of(how, &self.about)?;
        let mut planned = Vec::new();
        for item in items {
            let volume = self.volume(item)?;
            planned.push(cloud::planned(item, volume.map(|volume| volume.len), how));
        }
        let mut commands: Vec<_> = items.iter().filter_map(|item| exhibits::command(item, &self.id)).collect();
        let new: Vec<_> = items.iter().filter(|item| !how.begun_by.contains_key(&item.name)).cloned().collect();
        let volumes: Vec<_> = self.volumes(&new)?.iter().map(|volume| volume.id.as_str()).collect();
        if !volumes.is_empty() {
            commands.push(format!("ec2 CreateSnapshots {} of {}; they stay", self.id, volumes.join(", ")));
            commands.extend(acts.lock.as_ref().map(|lock| format!("ec2 LockSnapshot, each of them, {lock}")));
        }
        commands.push("ebs ListSnapshotBlocks, GetSnapshotBlock, once they are complete".to_owned());
        let (vault, unknown) = acts.ready(&self.api, &self.caller, &self.access, &self.volumes(items)?).await?;
        commands.extend(acts.commands(&self.id, vault.as_ref()));
        let warnings = self.warnings().into_iter().chain(unknown).collect();
        Ok(Plan { items: planned, pause: "none".to_owned(), commands, scratch_bytes: 0, warnings })
    }

    async fn prepare(&mut self, items: &[Item], how: &How, _journal: &mut dyn Journal) -> Result<(), BackendError> {
        allowed(how, &self.id)?;
        self.volumes(items)?;
        for (name, from) in &how.start_at {
            cloud::check_start(name, *from, BLOCK)?;
        }
        for item in items {
            if let (Some(since), Some(volume)) = (how.since.get(&item.name), self.volume(item)?) {
                Earlier::open(since, volume.len)?;
            }
        }
        let acts = Acts::of(how, &self.about)?;
        if let Some(isolation) = &acts.isolation {
            isolation.check(&self.api, &self.id).await?;
        }
        let (vault, _) = acts.ready(&self.api, &self.caller, &self.access, &self.volumes(items)?).await?;
        self.prepared = Some(Prepared { items: items.to_vec(), how: how.clone(), acts, vault });
        Ok(())
    }

    /// What lasts least is taken first: the screen, what EC2 says, the console's log; then the disks.
    async fn begin(&mut self, journal: &mut dyn Journal) -> Result<Vec<Capture>, BackendError> {
        let Some(prepared) = self.prepared.take() else { return Ok(Vec::new()) };
        let mut documents =
            exhibits::ALL.take(&self.id, &prepared.items, |name| exhibits::one(&self.api, &self.id, name)).await;
        let snapshots = self.take(&prepared, journal).await?;
        let under_way = Arc::new(Semaphore::new(UNDER_WAY));
        let mut captures = Vec::new();
        for (item, snapshot) in prepared.items.iter().zip(snapshots) {
            captures.push(match snapshot {
                Some(snapshot) => {
                    if !self.snapshots.iter().any(|known| known.id == snapshot.id) {
                        self.snapshots.push(snapshot.clone());
                    }
                    self.read(item, &snapshot, &prepared.how, &under_way)?
                }
                None => exhibits::ALL.capture(item, documents.remove(&item.name), provenance(&self.caller)),
            });
        }
        self.prepared = Some(prepared);
        Ok(captures)
    }

    async fn finish(&mut self, journal: &mut dyn Journal) -> Result<Finished, BackendError> {
        let (acts, vault) = self.prepared.take().map(|done| (done.acts, done.vault)).unwrap_or_default();
        let mut left: Vec<_> = self.snapshots.iter().map(|made| snapshot::left(made, &self.api.region)).collect();
        let all_came = !self.whole.is_empty() && self.whole.iter().all(|whole| whole.load(Ordering::Acquire));
        if !all_came && acts.any_after() {
            let why = "nothing was shared, copied or isolated, since not all of it was captured";
            self.problems.push(why.to_owned());
        } else {
            let copies = acts.hand_on(&self.api, &self.snapshots, vault, &mut left, &mut self.problems).await;
            if let Some(copies) = copies {
                let undo = copies.undo(&self.api.region).for_journal();
                self.begun.push(cloud::note(journal, "copy the snapshots", undo)?);
                self.copies = Some(copies);
            }
            if let Some(isolation) = &acts.isolation {
                match isolate::swap(&self.api, &self.id, isolation, journal).await {
                    Ok(said) => left.push(said),
                    Err(error) => self.problems.push(format!("it may not be isolated: {error}")),
                }
            }
        }
        // Until the copies have ended, what was made is told in no exhibit.
        if self.copies.is_none() {
            self.end_acts(journal)?;
        }
        let found = self.api.instances(Some(&self.id)).await;
        let state = found.ok().and_then(|found| Some(found.first()?.get("instanceState/name")?.to_owned()));
        Ok(Finished {
            left,
            state: state.unwrap_or_else(|| "not known".to_owned()),
            problems: std::mem::take(&mut self.problems),
            ..Finished::default()
        })
    }

    async fn settled(&mut self, journal: &mut dyn Journal, finished: &mut Finished, last: bool) -> Option<String> {
        let copies = self.copies.as_mut()?;
        let open = copies.look(finished, last).await;
        if open.is_some() && !last {
            return open;
        }
        copies.give_up(finished);
        self.copies = None;
        if let Err(error) = self.end_acts(journal) {
            finished.problems.push(error.to_string());
        }
        None
    }

    async fn recover(&mut self, undo: &[Undo]) -> Result<Vec<String>, BackendError> {
        super::undo::all(&self.api, &self.access, &self.id, undo).await
    }
}

/// What every exhibit of an instance says of where it came from.
pub(super) fn provenance(caller: &Caller) -> Value {
    json!({ "provider": "AWS", "caller": caller })
}
