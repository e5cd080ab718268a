//! Snapshots as evidence: what the manifest says of one, how it stays, and one that was there before as a target of its own.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use tokio::sync::Semaphore;

use super::Caller;
use super::api::{Api, BLOCK};
use super::blocks::{self, UNDER_WAY, Work};
use super::ec2::{RUN_TAG, Snapshot};
use super::target::{METHOD, allowed, method, provenance};
use crate::cloud;
use crate::{
    BackendError, Capture, Consistency, Facts, Finished, How, Item, ItemKind, Journal, Kind, Plan, PlannedItem, Target,
    Undo,
};

/// How often snapshots are asked for.
const TRIES: u32 = 4;
/// How often it is looked whether they were made all the same, and how long in between.
const LOOKS: u32 = 3;
const LOOK_AGAIN: Duration = Duration::from_millis(700);

/// Takes the snapshots. Where no answer came, or one of a server that broke, AWS may have made them all the same: the tag of the run
/// tells, and only if it finds nothing they are asked for again.
pub(super) async fn create(api: &Api, run: &str, params: &[(String, String)]) -> Result<Vec<Snapshot>, BackendError> {
    let mut tries = 0;
    loop {
        tries += 1;
        match api.create_snapshots(params).await {
            Err(refused) if refused.error.kind == Kind::Io && tries < TRIES => {
                // What was made a moment ago may not be listed yet.
                for _ in 0..LOOKS {
                    let found = api.snapshots_of_run(run).await?;
                    if !found.is_empty() {
                        return Ok(found);
                    }
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
            }
            made => return Ok(made?),
        }
    }
}

/// The snapshot of a volume that an earlier run made.
pub(super) async fn of_run(api: &Api, run: &str, volume: &str) -> Result<Snapshot, BackendError> {
    let mut found = api.snapshots_of_run(run).await?;
    found.retain(|snapshot| snapshot.volume == volume && snapshot.tags().get(RUN_TAG).is_some_and(|tag| tag == run));
    match (found.pop(), found.len()) {
        (Some(snapshot), 0) => Ok(snapshot),
        (found, _) => {
            let why = if found.is_some() {
                "there are several, and no way to tell which it was"
            } else {
                "it is not there any more"
            };
            Err(BackendError::unsupported("go on with the snapshot", format!("{volume} of run {run}"), why)
                .advise("begin anew, without --resume: half of one instant and half of another is of no instant"))
        }
    }
}

/// The command that takes it away, for the one who decides.
pub(super) fn left(snapshot: &Snapshot, region: &str) -> String {
    let Snapshot { id, volume, .. } = snapshot;
    format!("snapshot {id} of {volume}; to delete it: aws ec2 delete-snapshot --region {region} --snapshot-id {id}")
}

pub(super) fn capture(item: Item, snapshot: &Snapshot, caller: &Caller, work: Work) -> Capture {
    let mut facts = provenance(caller);
    if let Some(facts) = facts.as_object_mut() {
        facts.insert("snapshot".to_owned(), json!(snapshot.id));
        facts.insert("volume".to_owned(), json!(snapshot.volume));
        facts.insert("answer".to_owned(), snapshot.about.to_json());
        facts.insert("block".to_owned(), json!(BLOCK));
        facts.insert("started_at".to_owned(), json!(work.from));
    }
    cloud::disk(item, METHOD, snapshot.len, facts, blocks::start(work))
}

/// A snapshot that is there already.
struct Taken {
    api: Arc<Api>,
    caller: Caller,
    snapshot: Snapshot,
    from: Option<u64>,
}

/// Opens one.
pub(super) async fn open(api: &Arc<Api>, caller: &Caller, id: &str) -> Result<Box<dyn Target>, BackendError> {
    let found = api.snapshots(&[id.to_owned()]).await?.into_iter().find(|snapshot| snapshot.id == id);
    let snapshot = found.ok_or_else(|| BackendError::caller("open a snapshot", id, "EC2 does not list it"))?;
    Ok(Box::new(Taken { api: Arc::clone(api), caller: caller.clone(), snapshot, from: None }))
}

impl Taken {
    fn item(&self) -> Item {
        Item {
            kind: ItemKind::Disk,
            name: self.snapshot.id.clone(),
            len: Some(self.snapshot.len),
            source: format!("{} of {}", self.snapshot.id, self.snapshot.volume),
            resumable: true,
            file: None,
            methods: vec![method()],
        }
    }

    fn only(&self, items: &[Item], how: &How) -> Result<(), BackendError> {
        allowed(how, &self.snapshot.id)?;
        match how.options.keys().next() {
            Some(option) => {
                Err(BackendError::caller("capture", &self.snapshot.id, format!("--{option} is for instances")))
            }
            None if items.iter().all(|item| item.name == self.snapshot.id) && items.len() == 1 => Ok(()),
            None => Err(BackendError::caller("capture", &self.snapshot.id, "a snapshot holds one disk, once")),
        }
    }
}

#[async_trait]
impl Target for Taken {
    async fn describe(&mut self) -> Result<Facts, BackendError> {
        Ok(Facts {
            name: self.snapshot.id.clone(),
            id: Some(self.snapshot.volume.clone()),
            hypervisor: "AWS EBS".to_owned(),
            version: String::new(),
            state: self.snapshot.state.clone(),
            cpus: None,
            memory: None,
            clocks: None,
            warnings: Vec::new(),
            details: json!({ "region": self.api.region, "caller": self.caller, "snapshot": self.snapshot.about.to_json() }),
        })
    }

    async fn items(&mut self) -> Result<Vec<Item>, BackendError> {
        Ok(vec![self.item()])
    }

    async fn plan(&mut self, items: &[Item], how: &How) -> Result<Plan, BackendError> {
        self.only(items, how)?;
        let from = how.start_at.values().next().copied().unwrap_or(0);
        let planned = PlannedItem {
            item: self.snapshot.id.clone(),
            method: METHOD.to_owned(),
            consistency: Consistency::QuasiInstantaneous,
            bytes: self.snapshot.len.saturating_sub(from),
            allocated: 0,
        };
        Ok(Plan {
            items: vec![planned],
            pause: "none".to_owned(),
            commands: vec![format!("ebs ListSnapshotBlocks, GetSnapshotBlock of {}", self.snapshot.id)],
            scratch_bytes: 0,
            warnings: Vec::new(),
        })
    }

    async fn prepare(&mut self, items: &[Item], how: &How, _journal: &mut dyn Journal) -> Result<(), BackendError> {
        self.only(items, how)?;
        let from = how.start_at.get(&self.snapshot.id).copied().unwrap_or(0);
        cloud::check_start(&self.snapshot.id, from, BLOCK)?;
        self.from = Some(from);
        Ok(())
    }

    async fn begin(&mut self, _journal: &mut dyn Journal) -> Result<Vec<Capture>, BackendError> {
        let Some(from) = self.from.take() else { return Ok(Vec::new()) };
        let under_way = Arc::new(Semaphore::new(UNDER_WAY));
        let work = Work::new(&self.api, self.snapshot.id.clone(), self.snapshot.len, from, &under_way);
        Ok(vec![capture(self.item(), &self.snapshot, &self.caller, work)])
    }

    async fn finish(&mut self, _journal: &mut dyn Journal) -> Result<Finished, BackendError> {
        Ok(Finished { state: self.snapshot.state.clone(), ..Finished::default() })
    }

    async fn recover(&mut self, _undo: &[Undo]) -> Result<Vec<String>, BackendError> {
        Ok(Vec::new())
    }
}
