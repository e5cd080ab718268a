//! A virtual machine as a target: its disks, what Compute Engine says of it, and the order in which they are taken.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::json;

use super::api::{Api, Service, text};
use super::chosen::Chosen;
use super::credentials::Caller;
use super::machine::{Disk, Machine};
use super::run::{self, Run};
use super::take::{self, Of, Wanted};
use super::{Place, exhibits, told, undo};
use crate::cloud;
use crate::{BackendError, Capture, Check, Facts, Finished, GRAIN, How, Item, ItemKind, Journal, Plan, Target, Undo};

/// See the module.
pub(super) struct Vm {
    run: Run,
    machine: Machine,
    prepared: Option<(Vec<Item>, How)>,
}

impl Vm {
    pub(super) fn new(api: Arc<Api>, caller: Caller, place: Place, machine: Machine) -> Self {
        Self { run: Run::new(api, caller, place), machine, prepared: None }
    }

    fn item(disk: &Disk) -> Item {
        Item {
            kind: ItemKind::Disk,
            name: disk.name.clone(),
            len: Some(disk.len),
            source: format!("{} ({})", disk.path, disk.id),
            // What is refused leaves nothing to go on with.
            resumable: disk.refused.is_none(),
            file: None,
            methods: vec![run::method(disk.refused)],
        }
    }

    /// The disk that is asked for; none for a document.
    fn disk(&self, item: &Item) -> Result<Option<&Disk>, BackendError> {
        cloud::disk_of(
            item,
            &self.machine.path,
            &self.machine.disks,
            |disk| &disk.name,
            &exhibits::items(&self.machine),
        )
    }

    fn disks(&self, items: &[Item]) -> Result<Vec<&Disk>, BackendError> {
        let found: Result<Vec<_>, _> = items.iter().map(|item| self.disk(item)).collect();
        Ok(found?.into_iter().flatten().collect())
    }

    /// What is to be taken of the disks. Refuses what cannot be.
    fn wanted(&self, items: &[Item], how: &How) -> Result<Vec<Wanted>, BackendError> {
        cloud::allowed(how, &self.machine.path, "machine")?;
        let disks = self.disks(items)?;
        if let (Some(disk), true) = (disks.first(), disks.iter().all(|disk| disk.refused.is_some())) {
            return Err(BackendError::unsupported("take the disk", &disk.name, disk.refused.unwrap_or_default()));
        }
        let mut wanted = Vec::new();
        for disk in disks.into_iter().filter(|disk| disk.refused.is_none()) {
            let one = Wanted::new(&disk.name, Of::Disk(disk.clone()), how);
            cloud::check_start(&disk.name, one.from, GRAIN)?;
            wanted.push(one);
        }
        Ok(wanted)
    }
}

#[async_trait]
impl Target for Vm {
    async fn describe(&mut self) -> Result<Facts, BackendError> {
        let about = &self.machine.about;
        let disks: Vec<_> = self.machine.disks.iter().collect();
        Ok(Facts {
            name: text(about, "/name").to_owned(),
            id: Some(text(about, "/id").to_owned()).filter(|id| !id.is_empty()),
            hypervisor: format!("Google Compute Engine ({})", run::kind(about, "/machineType")),
            version: text(about, "/cpuPlatform").to_owned(),
            state: self.machine.state(),
            cpus: None,
            memory: None,
            clocks: None,
            warnings: told::warnings(&self.machine, &disks),
            details: json!({
                "caller": self.run.caller,
                "shown": told::shown(&self.machine),
                "documents": self.machine.documents(),
            }),
        })
    }

    async fn items(&mut self) -> Result<Vec<Item>, BackendError> {
        Ok(self.machine.disks.iter().map(Self::item).chain(exhibits::items(&self.machine)).collect())
    }

    fn keeps(&self, item: &Item) -> &'static [Check] {
        if item.kind == ItemKind::Disk { &[Check::Md5, Check::Crc32c] } else { &[] }
    }

    fn begins_slowly(&self) -> bool {
        true
    }

    async fn plan(&mut self, items: &[Item], how: &How) -> Result<Plan, BackendError> {
        let wanted = self.wanted(items, how)?;
        let mut commands: Vec<_> = items.iter().filter_map(exhibits::command).collect();
        if !wanted.is_empty() {
            let chosen = Chosen::of(how)?;
            chosen.check(&self.run.api).await?;
            for one in &wanted {
                commands.extend(take::commands(&self.run.place, &chosen.bucket, one));
            }
            commands.extend(chosen.remove.then(|| "DELETE what lies in the bucket, if it came whole".to_owned()));
        }
        let planned: Result<Vec<_>, BackendError> =
            items.iter().map(|item| Ok(cloud::planned(item, self.disk(item)?.map(|disk| disk.len), how))).collect();
        let warnings = told::warnings(&self.machine, &self.disks(items)?);
        Ok(Plan { items: planned?, pause: "none".to_owned(), commands, scratch_bytes: 0, warnings })
    }

    async fn prepare(&mut self, items: &[Item], how: &How, _journal: &mut dyn Journal) -> Result<(), BackendError> {
        if !self.wanted(items, how)?.is_empty() {
            Chosen::of(how)?;
        }
        self.prepared = Some((items.to_vec(), how.clone()));
        Ok(())
    }

    /// What lasts least is taken first: the screen, the serial ports, what Compute Engine says; then the disks.
    async fn begin(&mut self, journal: &mut dyn Journal) -> Result<Vec<Capture>, BackendError> {
        let Some((items, how)) = self.prepared.take() else { return Ok(Vec::new()) };
        let wanted = self.wanted(&items, &how)?;
        let (api, place) = (&self.run.api, &self.run.place);
        let mut documents =
            exhibits::ALL.take(&self.machine.path, &items, |name| exhibits::one(api, place, &self.machine, name)).await;
        let mut taken = self.run.begin(&wanted, &how, journal).await?;
        let mut captures = Vec::new();
        for item in &items {
            let one = wanted.iter().find(|one| item.kind == ItemKind::Disk && one.item == item.name);
            let refused = self.disk(item)?.and_then(|disk| disk.refused);
            captures.push(match (one.zip(taken.remove(&item.name)), refused) {
                (Some((one, taken)), _) => self.run.capture(item, one, taken),
                (None, Some(why)) => self.run.failed(item, BackendError::unsupported("take the disk", &item.name, why)),
                (None, None) => {
                    exhibits::ALL.capture(item, documents.remove(&item.name), run::provenance(&self.run.caller))
                }
            });
        }
        Ok(captures)
    }

    async fn finish(&mut self, journal: &mut dyn Journal) -> Result<Finished, BackendError> {
        self.prepared = None;
        let mut finished = Finished::default();
        self.run.finish(&mut finished, journal).await;
        let now =
            self.run.api.get("ask for the state of the virtual machine", Service::Compute, &self.machine.path).await;
        finished.state = now.map_or_else(|_| "not known".to_owned(), |now| text(&now, "/status").to_lowercase());
        Ok(finished)
    }

    async fn recover(&mut self, undo: &[Undo]) -> Result<Vec<String>, BackendError> {
        undo::all(&self.run.api, &self.run.place, undo).await
    }
}
