//! A snapshot that is there already, as a target: `gcp://PROJECT/ZONE#snapshot:NAME`. The zone is where its export works.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::json;

use super::Place;
use super::api::{Api, text};
use super::chosen::Chosen;
use super::credentials::Caller;
use super::run::{self, Run};
use super::snapshot::Snapshot;
use super::take::{self, Of, Wanted};
use super::undo;
use crate::cloud;
use crate::{BackendError, Capture, Check, Facts, Finished, GRAIN, How, Item, ItemKind, Journal, Plan, Target, Undo};

/// See the module.
pub(super) struct Taken {
    run: Run,
    snapshot: Snapshot,
    prepared: Option<How>,
}

impl Taken {
    pub(super) fn new(api: Arc<Api>, caller: Caller, place: Place, snapshot: Snapshot) -> Self {
        Self { run: Run::new(api, caller, place), snapshot, prepared: None }
    }

    fn item(&self) -> Item {
        Item {
            kind: ItemKind::Disk,
            name: self.snapshot.name.clone(),
            len: Some(self.snapshot.len),
            source: format!("snapshot {} ({}) of {}", self.snapshot.name, self.snapshot.id, self.snapshot.disk),
            resumable: true,
            file: None,
            methods: vec![run::method(None)],
        }
    }

    fn only(&self, items: &[Item], how: &How) -> Result<Wanted, BackendError> {
        cloud::allowed(how, &self.snapshot.name, "machine")?;
        self.snapshot.check_key()?;
        if items.len() != 1 || items.iter().any(|item| item.name != self.snapshot.name) {
            return Err(BackendError::caller("capture", &self.snapshot.name, "a snapshot holds one disk, once"));
        }
        let wanted = Wanted::new(&self.snapshot.name, Of::Snapshot(self.snapshot.clone()), how);
        cloud::check_start(&self.snapshot.name, wanted.from, GRAIN)?;
        Ok(wanted)
    }
}

#[async_trait]
impl Target for Taken {
    async fn describe(&mut self) -> Result<Facts, BackendError> {
        let about = &self.snapshot.about;
        Ok(Facts {
            name: self.snapshot.name.clone(),
            id: Some(self.snapshot.id.clone()),
            hypervisor: "Google Compute Engine (snapshot)".to_owned(),
            version: String::new(),
            state: text(about, "/status").to_lowercase(),
            cpus: None,
            memory: None,
            clocks: None,
            warnings: Vec::new(),
            details: json!({ "caller": self.run.caller, "snapshot": about }),
        })
    }

    async fn items(&mut self) -> Result<Vec<Item>, BackendError> {
        Ok(vec![self.item()])
    }

    fn keeps(&self, _item: &Item) -> &'static [Check] {
        &[Check::Md5, Check::Crc32c]
    }

    fn begins_slowly(&self) -> bool {
        true
    }

    async fn plan(&mut self, items: &[Item], how: &How) -> Result<Plan, BackendError> {
        let (wanted, chosen) = (self.only(items, how)?, Chosen::of(how)?);
        chosen.check(&self.run.api).await?;
        let planned = items.iter().map(|item| cloud::planned(item, Some(self.snapshot.len), how));
        Ok(Plan {
            items: planned.collect(),
            pause: "none".to_owned(),
            commands: take::commands(&self.run.place, &chosen.bucket, &wanted),
            scratch_bytes: 0,
            warnings: Vec::new(),
        })
    }

    async fn prepare(&mut self, items: &[Item], how: &How, _journal: &mut dyn Journal) -> Result<(), BackendError> {
        self.only(items, how)?;
        Chosen::of(how)?;
        self.prepared = Some(how.clone());
        Ok(())
    }

    async fn begin(&mut self, journal: &mut dyn Journal) -> Result<Vec<Capture>, BackendError> {
        let Some(how) = self.prepared.take() else { return Ok(Vec::new()) };
        let item = self.item();
        let wanted = self.only(std::slice::from_ref(&item), &how)?;
        let taken = self.run.begin(std::slice::from_ref(&wanted), &how, journal).await?;
        Ok(taken.into_values().map(|taken| self.run.capture(&item, &wanted, taken)).collect())
    }

    async fn finish(&mut self, journal: &mut dyn Journal) -> Result<Finished, BackendError> {
        self.prepared = None;
        let state = text(&self.snapshot.about, "/status").to_lowercase();
        let mut finished = Finished { state, ..Finished::default() };
        self.run.finish(&mut finished, journal).await;
        Ok(finished)
    }

    async fn recover(&mut self, undo: &[Undo]) -> Result<Vec<String>, BackendError> {
        undo::all(&self.run.api, &self.run.place, undo).await
    }
}
