//! One VM of a host: which way it is taken, and in which order.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::{Value as Json, json};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::address::Https;
use super::browser::Browser;
use super::files::{FileAt, path_of};
use super::items::{self, Source, Sourced};
use super::plan::{KEEP, Way};
use super::reading::{self, Read, Reading, Ways};
use super::shell::Shell;
use super::snapshot::{self, Wanted, Writer, is_ours, name_of};
use super::survey::Survey;
use super::undo::{EsxUndo, change, power_state};
use super::{command, disks};
use crate::{
    ActId, BackendError, Capture, Facts, Finished, Freeze, How, Item, Journal, Pause, Plan, PlannedItem, Stall, Target,
    Undo,
};

/// Pieces of one file that wait for the writer, 1 MiB each.
const AHEAD: usize = 4;
/// How long the last stream may take to notice that nobody listens.
const LAST_WORD: Duration = Duration::from_secs(10);

/// What was prepared.
struct Ready {
    way: Way,
    chosen: Vec<Sourced>,
    keep: bool,
    name: String,
    about: String,
    /// Length of the VM's log before anything was done.
    log: Option<FileAt>,
}

/// See the module.
pub(super) struct EsxTarget {
    shell: Arc<Shell>,
    pub(super) survey: Survey,
    patience: Duration,
    /// Files come by HTTPS, and how.
    https: Option<Https>,
    browser: Option<Arc<Browser>>,
    ready: Option<Ready>,
    /// What is open in the journal.
    act: Option<(ActId, EsxUndo)>,
    /// The snapshot is to stay, and how to remove it.
    kept: Option<String>,
    reading: Option<JoinHandle<Read>>,
    pauses: Vec<Pause>,
    /// From before the snapshot until it was there.
    took: Option<(Timestamp, Duration)>,
}

impl EsxTarget {
    pub(super) fn new(shell: Arc<Shell>, survey: Survey, patience: Duration, https: Option<Https>) -> Self {
        let (browser, ready, act, kept, reading, took) = (None, None, None, None, None, None);
        Self { shell, survey, patience, https, browser, ready, act, kept, reading, pauses: Vec::new(), took }
    }

    /// Logs in at the host's pages, if files come from there.
    async fn open_browser(&mut self) -> Result<(), BackendError> {
        let Some(how) = &self.https else { return Ok(()) };
        let browser = Browser::of(&self.shell, how, &self.survey.volumes).await?;
        browser.check(&self.survey.vmx).await?;
        self.browser = Some(Arc::new(browser));
        Ok(())
    }

    /// Makes the snapshot, and answers its number and what it wrote.
    async fn snapshot(&mut self, ready: &Ready, memory: bool, journal: &mut dyn Journal) -> Result<Json, BackendError> {
        let undo = EsxUndo::Snapshot { name: ready.name.clone() };
        let act = journal.about_to(&format!("create the snapshot {}", ready.name), undo.for_journal());
        let act = act.map_err(|error| BackendError::io("write the journal", &ready.name, &error))?;
        self.act = Some((act, undo));
        let (began, clock) = (Timestamp::now(), std::time::Instant::now());
        let vm = self.survey.vm.id;
        let wanted = Wanted { vm, name: &ready.name, about: &ready.about, memory, patience: self.patience };
        let made = snapshot::create(&self.shell, &wanted).await?;
        self.took = Some((began, clock.elapsed()));
        if ready.keep {
            let id = made.id.map_or("VMID …".to_owned(), |id| format!("{vm} {id}"));
            self.kept = Some(format!("snapshot {}; remove it with: vim-cmd vmsvc/snapshot.remove {id}", ready.name));
        }
        if memory && !made.running {
            let why = "it was powered off meanwhile, and its snapshot has no memory";
            return Err(BackendError::unsupported("take memory", &self.survey.vm.name, why));
        }
        // Two runs may have begun at the same time: the one that came first has it.
        let all = snapshot::list(&self.shell, vm).await?;
        if let Some(other) = all.iter().find(|one| is_ours(&one.name) && one.name != made.name && one.id < made.id) {
            let why = format!("another run was first: {}", other.about.escape_debug());
            return Err(BackendError::unsupported("take the VM", &self.survey.vm.name, why));
        }
        let (now, volumes) = (self.survey.list(&self.shell).await?, self.shell.volumes().await?);
        let created: Vec<_> = self
            .survey
            .fresh(&now)
            .into_iter()
            .map(|f| json!({ "path": f.path, "bytes": f.allocated, "len": f.len }))
            .collect();
        let working = self.survey.working();
        let free =
            |volumes: &[super::listing::Volume]| super::files::volume_of(volumes, &working).map(|volume| volume.free);
        Ok(json!({
            "snapshot": { "name": made.name, "id": made.id }, "took_ms": u64::try_from(clock.elapsed().as_millis()).ok(),
            "created": created, "free_before": free(&self.survey.volumes), "free_after": free(&volumes),
        }))
    }

    /// The files of saved memory: by what the host says they are, or the only ones of their kind that are new.
    async fn saved(&self, writer: Writer) -> Result<(String, Option<String>), BackendError> {
        let layout = self.shell.object(&command::layout(self.survey.vm.id)).await?;
        let saved = snapshot::saved(&layout, writer);
        let path = |name: String| path_of(&self.survey.volumes, &name).ok();
        let (state, memory) = (saved.state.and_then(path), saved.memory.and_then(path));
        let now = self.survey.list(&self.shell).await?;
        let fresh = if self.survey.runs() { self.survey.fresh(&now) } else { now.iter().collect() };
        let only = |ending: &str| {
            let mut found = fresh.iter().filter(|file| file.path.ends_with(ending));
            found.next().filter(|_| found.next().is_none()).map(|file| file.path.clone())
        };
        let state = state.or_else(|| only(if writer == Writer::Suspending { ".vmss" } else { ".vmsn" }));
        let Some(state) = state else {
            let why = "no file of its state is there: was it powered off meanwhile?";
            return Err(BackendError::unsupported("find the saved memory", &self.survey.vm.name, why));
        };
        let beside = state.rsplit_once('.').map(|(stem, _)| format!("{stem}.vmem"));
        let memory = memory.or_else(|| beside.filter(|path| now.iter().any(|file| file.path == *path)));
        Ok((state, memory))
    }

    /// What each item is read from, measured now that nothing writes it any more.
    async fn sources(&self, chosen: Vec<Sourced>, writer: Writer, way: Way) -> Result<Vec<Reading>, BackendError> {
        let memory = chosen.iter().any(|one| matches!(one.source, Source::State | Source::Memory));
        let saved = if memory { Some(self.saved(writer).await?) } else { None };
        let uncovered = if matches!(way, Way::Snapshot { .. }) { self.uncovered().await? } else { Vec::new() };
        let mut readings = Vec::new();
        for Sourced { mut item, source } in chosen {
            let whole = item.file.as_ref().and_then(|file| file.of.clone()).unwrap_or_else(|| item.name.clone());
            let path = match source {
                Source::File(_) if uncovered.contains(&whole) => {
                    Err("the snapshot does not cover it: its files are still written".to_owned())
                }
                Source::File(file) => Ok(Some(file.path)),
                Source::Refused(why) => Err(why),
                Source::State => Ok(saved.as_ref().map(|(state, _)| state.clone())),
                Source::Memory => Ok(saved.as_ref().and_then(|(_, memory)| memory.clone())),
            };
            let file = match path {
                Err(why) => Err(why),
                Ok(None) => Ok(None),
                Ok(Some(path)) => match self.shell.measure(&path).await {
                    Ok(file) => Ok(Some(file)),
                    Err(error) if error.kind == crate::Kind::Io => return Err(error),
                    Err(error) => Err(error.to_string()),
                },
            };
            if let (Ok(Some(file)), Some(host)) = (&file, &mut item.file) {
                host.path.clone_from(&file.path);
                item.source.clone_from(&file.path);
            }
            readings.push(Reading { item, file });
        }
        Ok(readings)
    }

    /// Disks whose files of before are not under a new one now.
    async fn uncovered(&self) -> Result<Vec<String>, BackendError> {
        let devices = self.shell.object(&command::devices(self.survey.vm.id)).await?;
        let now = disks::of(&self.shell, &devices, &self.survey.volumes).await?;
        let paths = |disk: &disks::Disk| disk.parts.iter().map(|part| part.file.path.clone()).collect::<Vec<_>>();
        let covered = |old: &&disks::Disk| {
            let (before, after) =
                (paths(old), now.iter().find(|disk| disk.name == old.name).map(paths).unwrap_or_default());
            after.len() > before.len() && after.ends_with(&before)
        };
        Ok(self
            .survey
            .disks
            .iter()
            .filter(|disk| !disk.parts.is_empty() && !covered(disk))
            .map(|disk| disk.name.clone())
            .collect())
    }

    /// Starts to read, one file after the other.
    fn start(&mut self, readings: Vec<Reading>, way: Way, facts: &Json) -> Vec<Capture> {
        let (mut captures, mut queue) = (Vec::new(), Vec::new());
        for reading in readings {
            let (out, pieces) = mpsc::channel(AHEAD);
            let mut facts = facts.clone();
            if let (Ok(None), Some(facts)) = (&reading.file, facts.as_object_mut()) {
                facts.insert("absent".to_owned(), Json::from("memory is inside the .vmsn"));
            }
            captures.push(Capture {
                method: way.name(),
                len: reading.file.as_ref().ok().and_then(Option::as_ref).map_or(0, |file| file.len),
                regions: Vec::new(),
                consistency: way.class(&reading.item, self.survey.runs()),
                holds_guest: way == Way::Suspend,
                facts,
                item: reading.item.clone(),
                pieces,
            });
            queue.push((reading, out));
        }
        let digests = self.survey.has("sha256sum").then(|| format!("sha256sum of {}", self.shell.name()));
        let ways = Ways { shell: Arc::clone(&self.shell), browser: self.browser.clone(), digests };
        self.reading = Some(tokio::spawn(reading::all(ways, queue)));
        captures
    }

    /// What is open is taken back, or stays on purpose.
    async fn take_back(&mut self, finished: &mut Finished, journal: &mut dyn Journal) {
        let Some((act, undo)) = self.act.take() else { return };
        let held = matches!(undo, EsxUndo::Suspended);
        let undone = match self.kept.take() {
            Some(kept) => {
                finished.left.push(kept);
                Ok(true)
            }
            None => undo.apply(&self.shell, self.survey.vm.id, self.patience).await,
        };
        match undone.map(|_| journal.done(act)) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => finished.problems.push(format!("could not write the journal: {error}")),
            Err(error) => {
                finished.guest_unsure = held;
                finished.problems.push(error.to_string());
            }
        }
    }

    /// How long the guest stood, as its log says; else at most as long as the snapshot took.
    async fn stood(&mut self, finished: &mut Finished) {
        finished.pauses.append(&mut self.pauses);
        let Some((began, took)) = self.took.take() else { return };
        if let Some(log) = self.ready.as_ref().and_then(|ready| ready.log.as_ref()) {
            finished.pauses.extend(reading::pauses(&self.shell, log).await);
        }
        if finished.pauses.is_empty() {
            let how = format!("at most: the snapshot was asked for at {began}, and the VM's log tells no stun");
            finished.stall = Some(Stall { worst_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX), how });
        }
    }
}

#[async_trait]
impl Target for EsxTarget {
    async fn describe(&mut self) -> Result<Facts, BackendError> {
        Ok(self.survey.facts())
    }

    async fn items(&mut self) -> Result<Vec<Item>, BackendError> {
        Ok(items::all(&self.survey).into_iter().map(|one| one.item).collect())
    }

    async fn plan(&mut self, items: &[Item], how: &How) -> Result<Plan, BackendError> {
        let chosen = self.chosen(items)?;
        let way = self.way(&chosen, how)?;
        self.check_space(way)?;
        self.check_claim(&name_of(&how.run))?;
        let planned = |one: &Sourced| {
            let refused = matches!(one.source, Source::Refused(_));
            let (len, allocated) = match &one.source {
                Source::File(file) => (file.len, file.allocated.min(file.len)),
                _ => (one.item.len.filter(|_| !refused).unwrap_or(0), 0),
            };
            let (item, method) = (one.item.name.clone(), way.name().to_owned());
            PlannedItem { item, method, consistency: way.class(&one.item, self.survey.runs()), bytes: len, allocated }
        };
        let mut warnings = self.survey.facts().warnings;
        if matches!(way, Way::Snapshot { .. }) {
            let volume =
                self.survey.volume(&self.survey.working()).map_or("its datastore", |volume| volume.name.as_str());
            warnings.push(format!(
                "while the snapshot is there, what the guest writes goes to {volume}: watch its free space"
            ));
        }
        let pause = match way {
            Way::Snapshot { .. } => "a stun at the snapshot and at its removal; vmware.log tells for how long",
            Way::Suspend => "until all is copied",
            Way::Read => "none",
        };
        Ok(Plan {
            items: chosen.iter().map(planned).collect(),
            pause: pause.to_owned(),
            commands: self.acts(way, how),
            scratch_bytes: 0,
            warnings,
        })
    }

    async fn prepare(&mut self, items: &[Item], how: &How, journal: &mut dyn Journal) -> Result<(), BackendError> {
        self.survey = Survey::of(&self.shell, self.survey.vm.id).await?;
        let chosen = self.chosen(items)?;
        let way = self.way(&chosen, how)?;
        self.check_space(way)?;
        let name = name_of(&how.run);
        self.check_claim(&name)?;
        self.open_browser().await?;
        if way != Way::Read {
            snapshot::quiet(&self.shell, self.survey.vm.id).await?;
        }
        let log = format!("{}/vmware.log", self.survey.folder());
        let log = self.survey.files.iter().find(|file| file.path == log).cloned();
        if way == Way::Suspend {
            let undo = EsxUndo::Suspended;
            let act = journal.about_to("suspend the VM", undo.for_journal());
            self.act = Some((act.map_err(|error| BackendError::io("write the journal", &name, &error))?, undo));
        }
        self.ready =
            Some(Ready { way, chosen, keep: how.options.contains_key(KEEP), name, about: how.holder.clone(), log });
        Ok(())
    }

    async fn begin(&mut self, journal: &mut dyn Journal) -> Result<Vec<Capture>, BackendError> {
        let Some(mut ready) = self.ready.take() else { return Ok(Vec::new()) };
        let chosen = std::mem::take(&mut ready.chosen);
        let (way, mut facts) = (ready.way, json!({}));
        if let Way::Snapshot { memory } = way {
            let made = self.snapshot(&ready, memory, journal).await;
            self.ready = Some(ready);
            facts = made?;
        }
        let id = facts.pointer("/snapshot/id").and_then(Json::as_u64);
        let writer = if matches!(way, Way::Snapshot { .. }) { Writer::Snapshot(id) } else { Writer::Suspending };
        let transport = self.browser.as_ref().map_or_else(|| json!({ "by": "ssh" }), |browser| browser.told());
        if let Some(facts) = facts.as_object_mut() {
            facts.insert("transport".to_owned(), transport);
        }
        let readings = self.sources(chosen, writer, way).await?;
        Ok(self.start(readings, way, &facts))
    }

    async fn finish(&mut self, journal: &mut dyn Journal) -> Result<Finished, BackendError> {
        let mut finished = Finished::default();
        if let Some(mut reading) = self.reading.take() {
            match timeout(LAST_WORD, &mut reading).await {
                Ok(Ok(read)) => (finished.witnesses, finished.problems) = (read.witnesses, read.problems),
                Ok(Err(_)) => finished.problems.push("the reader stopped".to_owned()),
                Err(_) => reading.abort(),
            }
        }
        self.take_back(&mut finished, journal).await;
        self.stood(&mut finished).await;
        finished.state = power_state(&self.shell, self.survey.vm.id).await.unwrap_or_else(|_| "unknown".to_owned());
        if finished.state != self.survey.state {
            let (was, is) = (&self.survey.state, &finished.state);
            finished.problems.push(format!("it was {} and is {} now", was.to_lowercase(), is.to_lowercase()));
        }
        Ok(finished)
    }

    async fn recover(&mut self, undo: &[Undo]) -> Result<Vec<String>, BackendError> {
        let read: Vec<_> = undo.iter().map(EsxUndo::from_journal).collect::<Result<_, _>>()?;
        let mut did = Vec::new();
        for undo in read.iter().rev() {
            let done = undo.apply(&self.shell, self.survey.vm.id, self.patience).await?;
            did.push(if done { undo.say() } else { format!("{}: nothing to do", undo.say()) });
        }
        Ok(did)
    }

    fn freezer(&mut self) -> Option<&mut dyn Freeze> {
        let suspends = self.ready.as_ref().is_some_and(|ready| ready.way == Way::Suspend)
            || self.act.as_ref().is_some_and(|(_, undo)| *undo == EsxUndo::Suspended);
        if suspends { Some(self) } else { None }
    }
}

#[async_trait]
impl Freeze for EsxTarget {
    async fn freeze(&mut self, _journal: &mut dyn Journal) -> Result<(), BackendError> {
        let vm = self.survey.vm.id;
        self.pauses.push(Pause { stopped: Timestamp::now(), resumed: None });
        change(&self.shell, vm, &command::suspend(vm), ("Suspended", "suspend"), self.patience).await
    }

    async fn thaw(&mut self, journal: &mut dyn Journal) -> Result<(), BackendError> {
        let Some((act, undo)) = &self.act else { return Ok(()) };
        undo.apply(&self.shell, self.survey.vm.id, self.patience).await?;
        if let Some(pause) = self.pauses.last_mut() {
            pause.resumed = Some(Timestamp::now());
        }
        journal.done(*act).map_err(|error| BackendError::io("write the journal", &self.survey.vm.name, &error))?;
        self.act = None;
        Ok(())
    }
}
