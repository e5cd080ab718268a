//! A server as a target: its disks, what Nova says of it, and the order in which they are taken.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::api::Api;
use super::copy::{self, Notes, Source, Work};
use super::disks::{Disk, Of};
use super::fetch::UNDER_WAY;
use super::keystone::Who;
use super::take::{self, Taken};
use super::undo::{self, OpenstackUndo};
use super::{exhibits, text, told};
use crate::cloud;
use crate::{
    ActId, BackendError, Capture, Check, Facts, Finished, GRAIN, HostFile, How, Item, ItemKind, Journal, Plan, Target,
    Undo,
};

/// See the module.
pub(super) struct Server {
    api: Arc<Api>,
    who: Who,
    id: String,
    about: Value,
    disks: Vec<Disk>,
    /// What Cinder promises of their group.
    promise: Option<String>,
    prepared: Option<(Vec<Item>, How)>,
    /// What the journal says was begun; ended by `finish`.
    begun: Vec<(ActId, OpenstackUndo)>,
    /// Who makes images for streams.
    makers: Vec<JoinHandle<()>>,
    notes: Arc<Mutex<Notes>>,
}

/// Memory in bytes.
pub(super) fn memory(server: &Value) -> Option<u64> {
    server.pointer("/flavor/ram").and_then(Value::as_u64)?.checked_mul(1 << 20)
}

/// Number of virtual CPUs.
pub(super) fn cpus(server: &Value) -> Option<u32> {
    server.pointer("/flavor/vcpus").and_then(Value::as_u64)?.try_into().ok()
}

impl Server {
    pub(super) fn new(api: &Arc<Api>, who: Who, about: Value, disks: Vec<Disk>, promise: Option<String>) -> Self {
        let id = text(&about, "id").to_owned();
        Self {
            api: Arc::clone(api),
            who,
            id,
            about,
            disks,
            promise,
            prepared: None,
            begun: Vec::new(),
            makers: Vec::new(),
            notes: Arc::default(),
        }
    }

    /// The disk that is asked for; none if it is a document.
    fn disk(&self, item: &Item) -> Result<Option<&Disk>, BackendError> {
        cloud::disk_of(item, &self.id, &self.disks, |disk| &disk.name, &exhibits::items(&self.id))
    }

    /// The disks that are asked for, each with the run in whose name it was begun, if that was another.
    fn chosen(&self, items: &[Item], how: &How) -> Result<Vec<(Disk, Option<String>)>, BackendError> {
        let mut chosen = Vec::new();
        for item in items {
            if let Some(disk) = self.disk(item)? {
                chosen.push((disk.clone(), how.begun_by.get(&item.name).cloned()));
            }
        }
        Ok(chosen)
    }

    fn warnings(&self) -> Vec<String> {
        told::warnings(&self.about, &self.disks, self.promise.as_ref())
    }

    /// The runs in whose name disks are made, with the ids of these disks.
    fn runs(chosen: &[(Disk, Option<String>)], how: &How) -> BTreeMap<String, Vec<String>> {
        let mut runs: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (disk, begun_by) in chosen {
            let run = begun_by.as_ref().unwrap_or(&how.run);
            runs.entry(run.clone()).or_default().push(disk.id().to_owned());
        }
        runs
    }

    /// One capture of a disk.
    fn read(&mut self, item: &Item, disk: &Disk, run: &str, taken: Taken, how: &How, room: &Arc<Semaphore>) -> Capture {
        let mut item = item.clone();
        let mut facts = json!({ "provider": "OpenStack", "caller": self.who, "run": run });
        let len = match &taken {
            Ok(Source::Image(image)) => {
                let size = image.size.unwrap_or_default();
                if !image.is_raw() {
                    item.file = Some(container(image));
                }
                item.len = Some(size);
                add(&mut facts, "image", &image.about);
                size
            }
            Ok(Source::Snapshot(snapshot)) => {
                add(&mut facts, "snapshot", &snapshot.about);
                disk.len().unwrap_or_default()
            }
            Err(_) => disk.len().unwrap_or_default(),
        };
        let from = how.start_at.get(&item.name).copied().unwrap_or(0);
        add(&mut facts, "started_at", &json!(from));
        let work = Work {
            api: Arc::clone(&self.api),
            item: item.name.clone(),
            of: disk.id().to_owned(),
            len,
            from,
            run: run.to_owned(),
            notes: Arc::clone(&self.notes),
        };
        let (pieces, maker) = copy::start(work, taken, room);
        self.makers.push(maker);
        cloud::disk(item, disk.method(), len, facts, pieces)
    }

    /// What stays, and the temporary volumes, which do not.
    async fn tidy_up(&mut self, finished: &mut Finished, journal: &mut dyn Journal) {
        // Whoever makes something hears soon that nobody waits for it any more.
        for maker in self.makers.drain(..) {
            if maker.await.is_err() {
                finished.problems.push("who makes the images stopped".to_owned());
            }
        }
        for (act, undo) in std::mem::take(&mut self.begun).into_iter().rev() {
            let done = match &undo {
                OpenstackUndo::Kept { run, of } => {
                    undo::kept(&self.api, run, of).await.map(|kept| finished.left.extend(kept))
                }
                OpenstackUndo::Temporary { run, of } => undo::remove(&self.api, run, of).await.map(drop),
            };
            match done.map(|()| journal.done(act)) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => finished.problems.push(format!("could not write the journal: {error}")),
                Err(refused) => finished.problems.push(refused.error.to_string()),
            }
        }
    }
}

fn add(facts: &mut Value, key: &str, value: &Value) {
    if let Some(facts) = facts.as_object_mut() {
        facts.insert(key.to_owned(), value.clone());
    }
}

/// An image that is a file in a format of its own, and is kept so.
fn container(image: &super::glance::Image) -> HostFile {
    let format = image.disk_format.as_deref().unwrap_or_default();
    let bare = image.container_format.as_deref().is_none_or(|container| container == "bare");
    let known = ["qcow2", "vmdk", "vdi", "vhd", "vhdx"].into_iter().find(|known| bare && *known == format);
    let wrapping = known.unwrap_or("raw").to_owned();
    HostFile { path: format!("{}.{wrapping}", image.id), wrapping, of: None }
}

#[async_trait]
impl Target for Server {
    async fn describe(&mut self) -> Result<Facts, BackendError> {
        let volumes = self.disks.iter().filter_map(|disk| Some((disk.name.clone(), disk.volume()?.about.clone())));
        let image = self.disks.iter().find_map(|disk| match &disk.of {
            Of::Server { image, .. } => image.clone(),
            Of::Volume(_) => None,
        });
        let flavor = self.about.pointer("/flavor/original_name").and_then(Value::as_str).unwrap_or("unknown");
        Ok(Facts {
            name: text(&self.about, "name").to_owned(),
            id: Some(self.id.clone()),
            hypervisor: format!("OpenStack Nova ({flavor})"),
            version: text(&self.about, "OS-EXT-SRV-ATTR:hypervisor_hostname").to_owned(),
            state: text(&self.about, "status").to_lowercase(),
            cpus: cpus(&self.about),
            memory: memory(&self.about),
            clocks: None,
            warnings: self.warnings(),
            details: json!({
                "cloud": self.api.settings.from,
                "caller": self.who,
                "shown": told::shown(&self.about, &self.disks),
                "server": self.about,
                "image": image,
                "volumes": volumes.collect::<Map<_, _>>(),
            }),
        })
    }

    async fn items(&mut self) -> Result<Vec<Item>, BackendError> {
        Ok(self.disks.iter().map(Disk::item).chain(exhibits::items(&self.id)).collect())
    }

    fn keeps(&self, item: &Item) -> &'static [Check] {
        if item.kind == ItemKind::Disk { &[Check::Sha512] } else { &[] }
    }

    async fn plan(&mut self, items: &[Item], how: &How) -> Result<Plan, BackendError> {
        cloud::allowed(how, &self.id, "server")?;
        let chosen = self.chosen(items, how)?;
        let mut planned = Vec::new();
        for item in items {
            let disk = self.disk(item)?;
            planned.push(cloud::planned(item, disk.map(|disk| disk.len().unwrap_or(0)), how));
        }
        let documents = items.iter().filter(|item| item.kind == ItemKind::Config);
        let mut commands: Vec<_> = documents.map(|item| exhibits::command(item, &self.id)).collect();
        commands.extend(take::commands(&chosen));
        Ok(Plan { items: planned, pause: "none".to_owned(), commands, scratch_bytes: 0, warnings: self.warnings() })
    }

    async fn prepare(&mut self, items: &[Item], how: &How, _journal: &mut dyn Journal) -> Result<(), BackendError> {
        cloud::allowed(how, &self.id, "server")?;
        self.chosen(items, how)?;
        for (name, from) in &how.start_at {
            cloud::check_start(name, *from, GRAIN)?;
        }
        self.prepared = Some((items.to_vec(), how.clone()));
        Ok(())
    }

    /// What lasts least is taken first: the console's log, what Nova and Cinder say; then the disks.
    async fn begin(&mut self, journal: &mut dyn Journal) -> Result<Vec<Capture>, BackendError> {
        let Some((items, how)) = self.prepared.take() else { return Ok(Vec::new()) };
        let chosen = self.chosen(&items, &how)?;
        for (run, of) in Self::runs(&chosen, &how) {
            for (act, undo) in [
                ("take snapshots and make images", OpenstackUndo::Kept { run: run.clone(), of: of.clone() }),
                ("make volumes of the snapshots", OpenstackUndo::Temporary { run, of }),
            ] {
                self.begun.push((cloud::note(journal, act, undo.for_journal())?, undo));
            }
        }
        let mut documents =
            exhibits::ALL.take(&self.id, &items, |name| exhibits::one(&self.api, &self.id, &self.disks, name)).await;
        let mut taken = take::all(&self.api, &chosen, &how).await;
        let room = Arc::new(Semaphore::new(UNDER_WAY));
        let mut captures = Vec::new();
        for item in &items {
            captures.push(match taken.remove(&item.name) {
                Some(came) => {
                    let run = how.begun_by.get(&item.name).unwrap_or(&how.run);
                    let disk = self.disk(item)?.cloned();
                    let disk = disk.ok_or_else(|| BackendError::caller("capture", &item.name, "it is no disk"))?;
                    self.read(item, &disk, run, came, &how, &room)
                }
                None => exhibits::ALL.capture(
                    item,
                    documents.remove(&item.name),
                    json!({ "provider": "OpenStack", "caller": self.who }),
                ),
            });
        }
        Ok(captures)
    }

    async fn finish(&mut self, journal: &mut dyn Journal) -> Result<Finished, BackendError> {
        self.prepared = None;
        let mut finished = Finished::default();
        self.tidy_up(&mut finished, journal).await;
        let now = self.api.server(&self.id).await;
        finished.state = now.map_or_else(|_| "not known".to_owned(), |now| text(&now, "status").to_lowercase());
        let notes = std::mem::take(&mut *self.notes.lock().unwrap_or_else(PoisonError::into_inner));
        finished.witnesses = notes.witnesses;
        finished.problems.extend(notes.problems);
        Ok(finished)
    }

    async fn recover(&mut self, undo: &[Undo]) -> Result<Vec<String>, BackendError> {
        undo::all(&self.api, undo).await
    }
}
