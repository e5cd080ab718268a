//! One domain as a target, and the order of a capture: mark, watchdog, pause, snapshots, core and held disks, unpause, snapshots
//! read, and everything taken away.

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::json;
use tokio::sync::watch;

use super::plan::{self, Way};
use super::scripts::{CLAIM, DUMP, DUMP_XM, PAUSE, READ, SNAPSHOT};
use super::stream::{self, What};
use super::survey::{Survey, Tool};
use super::undo::{self, Acts, XenUndo, claim, unpause};
use super::watchdog::Watchdog;
use crate::wire::ssh::Command;
use crate::{
    BackendError, Capture, Facts, Finished, Freeze, How, Item, ItemKind, Journal, Kind, Pause, Plan, Region, Target,
    Undo,
};

/// What CLAIM answers when somebody has the domain.
const TAKEN: i32 = 9;

/// A domain behind a connection of ours.
pub(super) struct XenTarget {
    survey: Survey,
    acts: Acts,
    prepared: Option<Prepared>,
    watchdog: Option<Watchdog>,
    thawed: watch::Sender<bool>,
    pauses: Vec<Pause>,
    problems: Vec<String>,
}

struct Prepared {
    items: Vec<(Item, Way)>,
    run: String,
}

impl XenTarget {
    pub(super) fn new(survey: Survey) -> Self {
        Self {
            survey,
            acts: Acts::default(),
            prepared: None,
            watchdog: None,
            thawed: watch::Sender::new(false),
            pauses: Vec::new(),
            problems: Vec::new(),
        }
    }

    fn tool(&self) -> Tool {
        self.survey.dom0.tool
    }

    /// A script that acts on the domain: `first DOMAIN UUID`.
    fn on_domain(&self, script: &'static str, first: &str) -> Command {
        let subject = self.survey.subject();
        Command::script(script).arg(first).arg(subject.id.to_string()).arg(subject.uuid)
    }

    /// Marks the domain as taken. dom0 keeps the mark until it is started anew, so every responder's run sees it.
    async fn claim(&mut self, how: &How, journal: &mut dyn Journal) -> Result<(), BackendError> {
        let uuid = self.survey.domain.uuid.clone();
        let release = XenUndo::Release { uuid: uuid.clone(), holder: how.holder.clone() };
        self.acts.about_to(journal, "mark the domain as taken", release.clone())?;
        let reach = &self.survey.dom0.reach;
        let said = reach.run(&Command::script(CLAIM).arg(claim(&uuid)).arg(&how.holder)).await?;
        if said.ending.good() {
            return Ok(());
        }
        // Not ours to give free.
        self.acts.forget(journal, |undo| *undo == release);
        let attempted = "take the domain for this run";
        if said.ending.status == Some(TAKEN) {
            let why = format!("it is held by {}", said.text().trim_end().escape_debug());
            return Err(BackendError::caller(attempted, &self.survey.domain.name, why).advise(
                "wait for that run; if it was killed, `impound case recover` on its case gives the domain free",
            ));
        }
        Err(BackendError::new(Kind::Unsupported, attempted, reach.name(), said.ending.told()))
    }

    /// Writes down what `begin` will make, and starts the watchdog that takes it away if we cannot.
    async fn arm(&mut self, ways: &[Way], how: &How, journal: &mut dyn Journal) -> Result<(), BackendError> {
        let run = how.run.clone();
        let mut snapshots = Vec::new();
        for way in ways {
            if let Way::Snapshot { volume, name, .. } = way {
                let (group, name) = (volume.group.clone(), name.clone());
                snapshots.push(format!("{group}/{name}"));
                let act = format!("make a snapshot of {group}/{}", volume.name);
                self.acts.about_to(journal, &act, XenUndo::Snapshot { group, name })?;
            }
        }
        if ways.iter().any(|way| *way != Way::Told) {
            self.acts.about_to(journal, "read on dom0", XenUndo::Readers { run: run.clone() })?;
        }
        let stops = self.survey.runs() && ways.iter().any(plan::needs_stop);
        if ways.iter().any(|way| *way != Way::Told) {
            let (dom0, subject) = (&self.survey.dom0, self.survey.subject());
            self.watchdog = Some(Watchdog::start(&dom0.reach, dom0.tool, &subject, &run, stops, snapshots).await?);
        }
        if stops {
            self.acts.about_to(journal, "stop the guest", unpause(&self.survey.subject()))?;
        }
        Ok(())
    }

    /// All snapshots with one command: the guest waits for them.
    async fn snapshots(&self, prepared: &Prepared) -> Result<(), BackendError> {
        let mut words = Vec::new();
        for (_, way) in &prepared.items {
            if let Way::Snapshot { volume, name, bytes } = way {
                words.extend([volume.group.clone(), volume.name.clone(), name.clone(), bytes.to_string()]);
            }
        }
        if words.is_empty() {
            return Ok(());
        }
        let command = Command::script(SNAPSHOT).args(words);
        self.survey.dom0.reach.must("make snapshots of the volumes", &command).await.map(|_| ())
    }

    async fn capture(&self, item: Item, way: &Way, run: &str) -> Result<Capture, BackendError> {
        let reach = &self.survey.dom0.reach;
        let what = |attempted| What {
            attempted,
            on: format!("{} of `{}`", item.name, self.survey.domain.name.escape_debug()),
        };
        let read = |path: String| Command::script(READ).arg(run).arg(path);
        let (len, pieces, facts) = match way {
            Way::Core { .. } => {
                let script = if self.tool() == Tool::Xl { DUMP } else { DUMP_XM };
                let (len, pieces) = stream::core(reach, &self.on_domain(script, run), what("dump the memory")).await?;
                (len, pieces, json!({ "type": self.survey.domain.kind }))
            }
            Way::Snapshot { volume, name, bytes } => {
                let path = format!("/dev/{}/{name}", volume.group);
                let when = Some(self.thawed.subscribe());
                let pieces = stream::disk(reach.clone(), read(path), volume.len, what("read the snapshot"), when);
                (volume.len, pieces, json!({ "origin": item.source, "snapshot": name, "snapshot_bytes": bytes }))
            }
            Way::Held { path, len } => {
                let pieces = stream::disk(reach.clone(), read(path.clone()), *len, what("read the disk"), None);
                (*len, pieces, json!({ "source": path }))
            }
            Way::Told => {
                let text = serde_json::to_vec_pretty(&self.survey.told).unwrap_or_default();
                return Ok(Capture::document(item, way.name(), Ok(text.into()), json!({ "format": "json" })));
            }
        };
        Ok(Capture {
            method: way.name(),
            len,
            // The ranges of a core are in its own tables.
            regions: whole(len, &item.name).into_iter().filter(|_| item.kind != ItemKind::Memory).collect(),
            consistency: way.consistency(self.survey.runs()),
            holds_guest: way.holds(),
            item,
            facts,
            pieces,
        })
    }

    async fn state(&self) -> String {
        let dom0 = &self.survey.dom0;
        let command = Command::new(dom0.tool.name()).arg("list").arg(self.survey.domain.id.to_string());
        let row = match dom0.reach.run(&command).await {
            Ok(said) => super::list::row_of(&said.text(), self.survey.domain.id).ok(),
            Err(_) => None,
        };
        row.map_or("unknown", |row| row.state.words()).to_owned()
    }
}

fn whole(len: u64, name: &str) -> Option<Region> {
    (len > 0).then(|| Region { at: 0, len, name: name.to_owned() })
}

#[async_trait]
impl Target for XenTarget {
    async fn describe(&mut self) -> Result<Facts, BackendError> {
        Ok(self.survey.facts())
    }

    async fn items(&mut self) -> Result<Vec<Item>, BackendError> {
        Ok(plan::items(&self.survey))
    }

    fn form(&self, item: &Item) -> Option<&'static str> {
        (item.kind == ItemKind::Memory).then_some("xen-core")
    }

    async fn plan(&mut self, items: &[Item], how: &How) -> Result<Plan, BackendError> {
        plan::make(&self.survey, items, how)
    }

    async fn prepare(&mut self, items: &[Item], how: &How, journal: &mut dyn Journal) -> Result<(), BackendError> {
        let ways = plan::ways(&self.survey, items, how)?;
        self.claim(how, journal).await?;
        self.arm(&ways, how, journal).await?;
        self.prepared = Some(Prepared { items: items.iter().cloned().zip(ways).collect(), run: how.run.clone() });
        Ok(())
    }

    async fn begin(&mut self, _journal: &mut dyn Journal) -> Result<Vec<Capture>, BackendError> {
        let prepared = self.prepared.take();
        let prepared =
            prepared.ok_or_else(|| BackendError::caller("begin", &self.survey.domain.name, "nothing was prepared"))?;
        self.snapshots(&prepared).await?;
        let mut captures = Vec::new();
        for (item, way) in &prepared.items {
            captures.push(self.capture(item.clone(), way, &prepared.run).await?);
        }
        Ok(captures)
    }

    async fn finish(&mut self, journal: &mut dyn Journal) -> Result<Finished, BackendError> {
        self.prepared = None;
        let tool = self.tool();
        let (mut problems, guest_unsure) = self.acts.undo_all((&mut self.survey.dom0.reach, tool), journal).await;
        problems.splice(..0, std::mem::take(&mut self.problems));
        if let Some(watchdog) = self.watchdog.take() {
            // With something left to undo it is not sent away: it tries once more when we are gone.
            if guest_unsure { drop(watchdog) } else { watchdog.dismiss().await }
        }
        if let Some(last) = self.pauses.last_mut().filter(|_| !guest_unsure) {
            last.resumed.get_or_insert_with(Timestamp::now);
        }
        let state = self.state().await;
        let pauses = std::mem::take(&mut self.pauses);
        Ok(Finished { pauses, state, problems, guest_unsure, ..Finished::default() })
    }

    async fn recover(&mut self, undo: &[Undo]) -> Result<Vec<String>, BackendError> {
        undo::recover(&self.survey.dom0.reach, self.tool(), undo).await
    }

    fn freezer(&mut self) -> Option<&mut dyn Freeze> {
        Some(self)
    }
}

#[async_trait]
impl Freeze for XenTarget {
    async fn freeze(&mut self, _journal: &mut dyn Journal) -> Result<(), BackendError> {
        if !self.survey.runs() {
            return Ok(());
        }
        // It was written down in `prepare`. Until the answer is here it may have been stopped at any time.
        let stopped = Timestamp::now();
        let command = self.on_domain(PAUSE, self.tool().name());
        self.survey.dom0.reach.must("stop the guest", &command).await?;
        self.pauses.push(Pause { stopped, resumed: None });
        Ok(())
    }

    async fn thaw(&mut self, journal: &mut dyn Journal) -> Result<(), BackendError> {
        if self.survey.runs() {
            if self.state().await != "paused" {
                // What was read is of no single instant then.
                self.problems.push("the guest did not stand still to the end: somebody else let it go".to_owned());
            }
            let (reach, tool) = (&self.survey.dom0.reach, self.survey.dom0.tool);
            self.acts.undo((reach, tool), journal, |undo| matches!(undo, XenUndo::Unpause { .. })).await?;
            if let Some(pause) = self.pauses.last_mut() {
                pause.resumed = Some(Timestamp::now());
            }
            if let Some(watchdog) = &mut self.watchdog {
                watchdog.thawed();
            }
        }
        self.thawed.send_replace(true);
        Ok(())
    }
}
