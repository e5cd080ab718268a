//! A snapshot that is there already, as a target: `azure://SUBSCRIPTION/GROUP#snapshot:NAME`.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::json;
use tokio::sync::Semaphore;

use super::Place;
use super::api::{Api, text};
use super::blob::UNDER_WAY;
use super::credentials::Caller;
use super::snapshot::{self, Snapshot};
use super::target::{Granted, METHOD, allowed, method};
use crate::cloud;
use crate::{
    BackendError, Capture, Consistency, Facts, Finished, GRAIN, How, Item, ItemKind, Journal, Plan, PlannedItem,
    Target, Undo,
};

/// See the module.
pub(super) struct Taken {
    api: Arc<Api>,
    caller: Caller,
    place: Place,
    snapshot: Snapshot,
    from: Option<u64>,
    granted: Granted,
}

impl Taken {
    pub(super) fn new(api: &Arc<Api>, caller: &Caller, place: Place, snapshot: Snapshot) -> Self {
        let (api, caller) = (Arc::clone(api), caller.clone());
        Self { api, caller, place, snapshot, from: None, granted: Granted::default() }
    }

    fn item(&self) -> Item {
        Item {
            kind: ItemKind::Disk,
            name: crate::file::safe_name(std::path::Path::new(text(&self.snapshot.about, "/name"))),
            len: Some(self.snapshot.len),
            source: format!("{} of {}", self.snapshot.id, self.snapshot.disk),
            resumable: true,
            file: None,
            methods: vec![method()],
        }
    }

    /// Where to begin.
    fn only(&self, items: &[Item], how: &How) -> Result<u64, BackendError> {
        allowed(how, &self.snapshot.id)?;
        if items.len() != 1 || items.iter().any(|item| item.name != self.item().name) {
            return Err(BackendError::caller("capture", &self.snapshot.id, "a snapshot holds one disk, once"));
        }
        let from = how.start_at.values().next().copied().unwrap_or(0);
        cloud::check_start(&self.snapshot.id, from, GRAIN)?;
        Ok(from)
    }
}

#[async_trait]
impl Target for Taken {
    async fn describe(&mut self) -> Result<Facts, BackendError> {
        Ok(Facts {
            name: text(&self.snapshot.about, "/name").to_owned(),
            id: Some(text(&self.snapshot.about, "/properties/uniqueId").to_owned()).filter(|id| !id.is_empty()),
            hypervisor: "Azure managed disks".to_owned(),
            version: String::new(),
            state: text(&self.snapshot.about, "/properties/provisioningState").to_owned(),
            cpus: None,
            memory: None,
            clocks: None,
            warnings: Vec::new(),
            details: json!({ "caller": self.caller, "snapshot": self.snapshot.about }),
        })
    }

    async fn items(&mut self) -> Result<Vec<Item>, BackendError> {
        Ok(vec![self.item()])
    }

    async fn plan(&mut self, items: &[Item], how: &How) -> Result<Plan, BackendError> {
        let from = self.only(items, how)?;
        let planned = PlannedItem {
            item: self.item().name,
            method: METHOD.to_owned(),
            consistency: Consistency::QuasiInstantaneous,
            bytes: self.snapshot.len.saturating_sub(from),
            allocated: 0,
        };
        let id = &self.snapshot.id;
        Ok(Plan {
            items: vec![planned],
            pause: "none".to_owned(),
            commands: vec![format!("POST {id}/beginGetAccess, GET what is written, POST {id}/endGetAccess")],
            scratch_bytes: 0,
            warnings: Vec::new(),
        })
    }

    async fn prepare(&mut self, items: &[Item], how: &How, _journal: &mut dyn Journal) -> Result<(), BackendError> {
        self.from = Some(self.only(items, how)?);
        Ok(())
    }

    async fn begin(&mut self, journal: &mut dyn Journal) -> Result<Vec<Capture>, BackendError> {
        let Some(from) = self.from.take() else { return Ok(Vec::new()) };
        self.granted.begin(journal, vec![self.snapshot.id.clone()])?;
        let room = Arc::new(Semaphore::new(UNDER_WAY));
        Ok(vec![snapshot::capture(&self.api, &self.caller, self.item(), &self.snapshot, from, &room)])
    }

    async fn finish(&mut self, journal: &mut dyn Journal) -> Result<Finished, BackendError> {
        let problems = self.granted.end(&self.api, journal).await?;
        let state = text(&self.snapshot.about, "/properties/provisioningState").to_owned();
        Ok(Finished { state, problems, ..Finished::default() })
    }

    async fn recover(&mut self, undo: &[Undo]) -> Result<Vec<String>, BackendError> {
        super::undo::all(&self.api, &self.place.group, undo).await
    }
}
