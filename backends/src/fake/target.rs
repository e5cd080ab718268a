//! The fake VM as a target: what a hypervisor would do, done to a [`super::State`].

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::content::Stream;
use super::{Vm, state};
use crate::{
    ActId, BackendError, Capture, Clocks, Consistency, Facts, Finished, Freeze, How, Item, ItemKind, Journal, Method,
    Pause, Plan, PlannedItem, Region, Target, Undo,
};

/// One run on a fake VM.
pub(super) struct FakeTarget {
    vm: Vm,
    /// Acts not yet undone: what `how` of their undo says, and their names in the journal.
    open: Vec<(Value, ActId)>,
    pauses: Vec<Pause>,
    /// What `begin` takes.
    prepared: Option<(Vec<Item>, How)>,
}

impl FakeTarget {
    pub(super) fn new(vm: Vm) -> Self {
        Self { vm, open: Vec::new(), pauses: Vec::new(), prepared: None }
    }

    fn on(&self) -> String {
        format!("fake VM {}", self.vm.script.name)
    }

    /// Writes an act down; it is done next.
    fn about_to(&mut self, journal: &mut dyn Journal, act: &str, say: &str, how: Value) -> Result<(), BackendError> {
        let holds_guest = how.get("act").and_then(Value::as_str) == Some("resume");
        let undo = Undo { say: say.into(), holds_guest, how: how.clone() };
        let failed = |error: std::io::Error| BackendError::io("write the journal", act, &error);
        let id = journal.about_to(act, undo).map_err(failed)?;
        self.open.push((how, id));
        Ok(())
    }

    /// Undoes the acts that `which` picks, last first.
    fn undo(&mut self, journal: &mut dyn Journal, which: impl Fn(&Value) -> bool) -> Result<(), BackendError> {
        while let Some(index) = self.open.iter().rposition(|(how, _)| which(how)) {
            let (how, id) = self.open.remove(index);
            self.take_back(&how)?;
            journal.done(id).map_err(|error| BackendError::io("write the journal", how.to_string(), &error))?;
        }
        Ok(())
    }

    /// Undoes one act; what is already gone is fine. What comes from a journal is not trusted to be ours.
    fn take_back(&mut self, how: &Value) -> Result<String, BackendError> {
        let text = |key: &str| how.get(key).and_then(Value::as_str).map(str::to_owned);
        match (text("act").as_deref(), text("name")) {
            (Some("release"), Some(holder)) => self.vm.change(|state| match &state.holder {
                Some(now) if *now == holder => {
                    state.holder = None;
                    format!("released the claim of {holder}")
                }
                _ => "the claim was already gone".into(),
            }),
            (Some("resume"), _) => {
                if let Some(pause) = self.pauses.last_mut() {
                    pause.resumed.get_or_insert_with(Timestamp::now);
                }
                self.vm.change(|state| "running".clone_into(&mut state.run))?;
                Ok("resumed the guest".into())
            }
            (Some("remove"), Some(name)) => {
                self.vm.change(|state| state.snapshots.retain(|snapshot| *snapshot != name))?;
                Ok(format!("removed the snapshot {name}"))
            }
            _ => Err(BackendError::corrupt("undo", self.on(), "the journal", "an act of a fake VM", how)),
        }
    }

    fn item(&self, name: String, len: u64, memory: bool) -> Item {
        let method = |name: &str, consistency, pause: &str, holds_guest| Method {
            name: name.into(),
            consistency,
            pause: pause.into(),
            holds_guest,
            unusable: None,
        };
        let snapshot = method("snapshot", Consistency::QuasiInstantaneous, "a few ms", false);
        let paused = method("paused", Consistency::Instantaneous, "as long as the copy takes", true);
        Item {
            kind: if memory { ItemKind::Memory } else { ItemKind::Disk },
            source: format!("{} {name}", self.on()),
            name,
            len: Some(len),
            resumable: !memory,
            methods: if memory { vec![snapshot, paused] } else { vec![snapshot] },
            file: None,
        }
    }

    fn all(&self) -> Vec<Item> {
        let script = &self.vm.script;
        let memory = script.memory + script.hole.map_or(0, |(_, len)| len);
        let first = (script.memory > 0).then(|| self.item("memory".into(), memory, true));
        let disks = ('a'..='z').zip(&script.disks).map(|(c, len)| self.item(format!("vd{c}"), *len, false));
        first.into_iter().chain(disks).collect()
    }

    fn method(&self, item: &Item, how: &How) -> Result<Method, BackendError> {
        let wanted = how.memory_method.as_deref().filter(|_| item.kind == ItemKind::Memory);
        let fits =
            |method: &&Method| wanted.is_none_or(|name| name == method.name) && method.consistency <= how.require;
        item.methods.iter().find(fits).cloned().ok_or_else(|| {
            let why = format!("`{}` has no such method that is at least {}", item.name, how.require.name());
            BackendError::unsupported("choose a method", self.on(), why)
        })
    }

    fn regions(&self, item: &Item) -> Vec<Region> {
        let script = &self.vm.script;
        if item.kind != ItemKind::Memory {
            return Vec::new();
        }
        let region = |at, len, name: &str| Region { at, len, name: name.into() };
        match script.hole {
            None => vec![region(0, script.memory, "ram")],
            Some((at, len)) => vec![region(0, at, "ram.low"), region(at + len, script.memory - at, "ram.high")],
        }
        .into_iter()
        .filter(|region| region.len > 0)
        .collect()
    }

    fn capture(&self, item: &Item, how: &How) -> Result<Capture, BackendError> {
        let method = self.method(item, how)?;
        let (len, regions) = (item.len.unwrap_or(0), self.regions(item));
        let from = how.start_at.get(&item.name).copied().unwrap_or(0).min(len);
        let stream = Stream {
            script: self.vm.script.clone(),
            item: item.name.clone(),
            len,
            regions: regions.clone(),
            from,
            memory: item.kind == ItemKind::Memory,
        };
        Ok(Capture {
            item: item.clone(),
            method: if method.holds_guest { "paused" } else { "snapshot" },
            len,
            regions,
            consistency: method.consistency,
            holds_guest: method.holds_guest,
            facts: json!({ "fake": true, "started_at": from }),
            pieces: stream.start(),
        })
    }
}

#[async_trait]
impl Target for FakeTarget {
    async fn describe(&mut self) -> Result<Facts, BackendError> {
        self.vm.call("describe").await?;
        let (now, script) = (Timestamp::now(), &self.vm.script);
        let facts = Facts {
            name: script.name.clone(),
            id: Some("00000000-0000-4000-8000-00000000fa4e".into()),
            hypervisor: "fake".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            state: state::read(script)?.run,
            cpus: Some(1),
            memory: Some(script.memory),
            clocks: Some(Clocks { host: now, guest: now, offset_seconds: 0 }),
            warnings: Vec::new(),
            details: json!({ "fake": true }),
        };
        self.vm.late("describe")?;
        Ok(facts)
    }

    async fn items(&mut self) -> Result<Vec<Item>, BackendError> {
        self.vm.call("items").await?;
        self.vm.late("items")?;
        Ok(self.all())
    }

    async fn plan(&mut self, items: &[Item], how: &How) -> Result<Plan, BackendError> {
        self.vm.call("plan").await?;
        let plan = |item: &Item| {
            self.method(item, how).map(|method| PlannedItem {
                item: item.name.clone(),
                method: method.name,
                consistency: method.consistency,
                bytes: item.len.unwrap_or(0),
                allocated: item.len.unwrap_or(0) / 8 * 7,
            })
        };
        let planned = items.iter().map(plan).collect::<Result<_, _>>()?;
        self.vm.late("plan")?;
        let commands = items.iter().map(|item| format!("snapshot {}", item.name)).collect();
        Ok(Plan { items: planned, pause: "a few ms".into(), commands, scratch_bytes: 0, warnings: Vec::new() })
    }

    async fn prepare(&mut self, items: &[Item], how: &How, journal: &mut dyn Journal) -> Result<(), BackendError> {
        self.vm.call("prepare").await?;
        let holder = format!("{} (run {})", how.holder, how.run);
        if let Some(other) = state::read(&self.vm.script)?.holder {
            return Err(BackendError::caller("claim", self.on(), format!("it is held by {other}"))
                .advise("wait, or undo a run that was killed: impound case recover"));
        }
        for item in items {
            self.method(item, how)?;
        }
        let undo = json!({ "act": "release", "name": holder });
        self.about_to(journal, "claim the VM", "release the claim", undo)?;
        self.vm.change(|state| state.holder = Some(holder))?;
        // Snapshots are made in `begin`; what undoes them is written down here, while the guest still runs.
        for item in items {
            let name = format!("impound-{}-{}", how.run, item.name);
            let undo = json!({ "act": "remove", "name": name });
            self.about_to(journal, &format!("snapshot {}", item.name), &format!("remove the snapshot {name}"), undo)?;
        }
        self.prepared = Some((items.to_vec(), how.clone()));
        self.vm.late("prepare")
    }

    async fn begin(&mut self, _journal: &mut dyn Journal) -> Result<Vec<Capture>, BackendError> {
        self.vm.call("begin").await?;
        let (items, how) =
            self.prepared.take().ok_or_else(|| BackendError::caller("begin", self.on(), "nothing was prepared"))?;
        let names = items.iter().map(|item| format!("impound-{}-{}", how.run, item.name));
        self.vm.change(|state| state.snapshots.extend(names))?;
        self.vm.late("begin")?;
        items.iter().map(|item| self.capture(item, &how)).collect()
    }

    async fn finish(&mut self, journal: &mut dyn Journal) -> Result<Finished, BackendError> {
        self.vm.call("finish").await?;
        self.undo(journal, |_| true)?;
        self.vm.late("finish")?;
        let state = state::read(&self.vm.script)?.run;
        Ok(Finished { pauses: std::mem::take(&mut self.pauses), state, ..Finished::default() })
    }

    async fn recover(&mut self, undo: &[Undo]) -> Result<Vec<String>, BackendError> {
        self.vm.call("recover").await?;
        let done = undo.iter().rev().map(|undo| self.take_back(&undo.how)).collect::<Result<_, _>>()?;
        self.vm.late("recover")?;
        Ok(done)
    }

    fn freezer(&mut self) -> Option<&mut dyn Freeze> {
        if self.vm.script.freezer { Some(self) } else { None }
    }
}

#[async_trait]
impl Freeze for FakeTarget {
    async fn freeze(&mut self, journal: &mut dyn Journal) -> Result<(), BackendError> {
        self.vm.call("freeze").await?;
        if state::read(&self.vm.script)?.run == "running" {
            self.about_to(journal, "stop the guest", "resume the guest", json!({ "act": "resume" }))?;
            self.vm.change(|state| "paused".clone_into(&mut state.run))?;
            self.pauses.push(Pause { stopped: Timestamp::now(), resumed: None });
        }
        self.vm.late("freeze")
    }

    async fn thaw(&mut self, journal: &mut dyn Journal) -> Result<(), BackendError> {
        self.vm.call("thaw").await?;
        self.undo(journal, |how| how.get("act").is_some_and(|act| act == "resume"))?;
        self.vm.late("thaw")
    }
}
