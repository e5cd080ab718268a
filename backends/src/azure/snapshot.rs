//! Snapshots as evidence: how one is made and found again, what the manifest says of it, and how it stays.
//!
//! They are incremental (`"incremental": true`): only what is written is stored and paid for, each stands for the whole disk, any may be
//! deleted without harm to another, and it is the only kind that Ultra disks and Premium SSD v2 have. ARM names them as it is told, so the
//! run's id is in the name, and to ask twice for one makes no second.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::sleep;

use super::api::{Api, DISK, clip, text, with_body};
use super::blob::{self, Work};
use super::credentials::Caller;
use super::sas::Access;
use super::target::{METHOD, provenance};
use super::vhd::FOOTER;
use super::vm::Disk;
use crate::wire::http::Method;
use crate::{BackendError, Capture, GRAIN, How, Item, cloud};

/// The tag with the run's id.
pub(super) const RUN_TAG: &str = "impound:run";
/// Longest value of a tag.
const TAG_MAX: usize = 256;
/// How long to wait before it is asked again how far a copy in the background is: at first, and at most.
const POLL: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));
/// How often: four hours and a half.
const POLLS: u32 = 1100;

/// A snapshot.
#[derive(Debug, Clone)]
pub(super) struct Snapshot {
    pub(super) id: String,
    /// Length of its disk in bytes.
    pub(super) len: u64,
    /// The disk that it is of.
    pub(super) disk: String,
    pub(super) about: Value,
}

impl Snapshot {
    /// Reads the document.
    fn of(id: &str, about: Value) -> Result<Self, BackendError> {
        let len = about.pointer("/properties/diskSizeBytes").and_then(Value::as_u64);
        let len = len.filter(|len| *len > 0 && len.is_multiple_of(GRAIN)).ok_or_else(|| {
            BackendError::corrupt("read the snapshot", id, "diskSizeBytes", "the length of a disk", "none")
        })?;
        let disk = text(&about, "/properties/creationData/sourceResourceId").to_owned();
        Ok(Self { id: id.to_owned(), len, disk, about })
    }

    fn run(&self) -> &str {
        self.about.get("tags").and_then(|tags| tags.get(RUN_TAG)).and_then(Value::as_str).unwrap_or_default()
    }

    fn is_of(&self, disk: &str) -> bool {
        self.disk.eq_ignore_ascii_case(disk)
    }

    /// The command that takes it away, for the one who decides.
    pub(super) fn left(&self) -> String {
        format!("snapshot {} of {}; to delete it: az snapshot delete --ids {}", self.id, self.disk, self.id)
    }
}

/// Where the snapshot of a disk is that a run makes: in the group of its machine.
pub(super) fn id(group: &str, run: &str, disk: &str) -> String {
    format!("{group}/providers/Microsoft.Compute/snapshots/impound-{run}-{disk}")
}

/// Takes one, and waits until ARM has it.
pub(super) async fn create(api: &Api, id: &str, disk: &Disk, how: &How) -> Result<Snapshot, BackendError> {
    const CREATE: &str = "take the snapshot";
    let body = json!({
        "location": disk.location,
        "tags": { RUN_TAG: how.run, "impound:by": clip(&how.holder, TAG_MAX) },
        "properties": {
            "creationData": { "createOption": "Copy", "sourceResourceId": disk.id },
            "incremental": true,
        },
    });
    api.act(with_body(api.request(CREATE, Method::Put, id, DISK)?, &body)).await?;
    let made = get(api, id).await?;
    if made.run() == how.run && made.is_of(&disk.id) && made.len == disk.len {
        return Ok(made);
    }
    let expected = format!("a snapshot of {} with {} bytes and the tag of this run", disk.id, disk.len);
    let found = format!("one of {} with {} bytes and the tag {:?}", made.disk, made.len, made.run());
    Err(BackendError::corrupt(CREATE, id, "the answer", expected, found))
}

/// One that is there.
pub(super) async fn get(api: &Api, id: &str) -> Result<Snapshot, BackendError> {
    Snapshot::of(id, api.get("describe the snapshot", id, DISK).await?)
}

/// The snapshot of a disk that an earlier run made.
pub(super) async fn of_run(api: &Api, id: &str, run: &str, disk: &Disk) -> Result<Snapshot, BackendError> {
    let refuse = |why: &str| {
        BackendError::unsupported("go on with the snapshot", id, why)
            .advise("begin anew, without --resume: half of one instant and half of another is of no instant")
    };
    match api.get("describe the snapshot", id, DISK).await {
        Err(refused) if refused.code.ends_with("NotFound") => Err(refuse("it is not there any more")),
        about => {
            let found = Snapshot::of(id, about?)?;
            let same = found.run() == run && found.is_of(&disk.id) && found.len == disk.len;
            if same { Ok(found) } else { Err(refuse("it is not the one that this run made of this disk")) }
        }
    }
}

/// Waits until all of it can be read: some kinds of disks are copied in the background.
pub(super) async fn until_complete(api: &Api, id: &str) -> Result<(), BackendError> {
    let mut wait = POLL.0;
    for _ in 0..POLLS {
        let about = api.get("wait for the snapshot", id, DISK).await?;
        let state = text(&about, "/properties/provisioningState");
        if matches!(state, "Failed" | "Canceled") {
            return Err(BackendError::unsupported("wait for the snapshot", id, format!("its state is {state}")));
        }
        let percent = about.pointer("/properties/completionPercent").and_then(Value::as_f64);
        if percent.is_none_or(|percent| percent >= 100.0) {
            return Ok(());
        }
        sleep(wait).await;
        wait = (wait * 2).min(POLL.1);
    }
    Err(BackendError::unsupported("wait for the snapshot", id, "it is not complete after hours")
        .advise("go on with --resume later"))
}

/// One capture of a snapshot, once it is complete.
pub(super) fn capture(
    api: &Arc<Api>,
    caller: &Caller,
    item: Item,
    snapshot: &Snapshot,
    from: u64,
    room: &Arc<Semaphore>,
) -> Capture {
    let mut facts = provenance(caller);
    if let Some(facts) = facts.as_object_mut() {
        facts.insert("snapshot".to_owned(), json!(snapshot.id));
        facts.insert("disk".to_owned(), json!(snapshot.disk));
        facts.insert("instant".to_owned(), json!(text(&snapshot.about, "/properties/timeCreated")));
        facts.insert("answer".to_owned(), snapshot.about.clone());
        facts.insert(
            "export".to_owned(),
            json!({ "format": "fixed VHD", "footer": { "at": snapshot.len, "len": FOOTER, "in_image": false } }),
        );
        facts.insert("started_at".to_owned(), json!(from));
    }
    let (len, id) = (snapshot.len, snapshot.id.clone());
    let work = Work { api: Arc::clone(api), access: Access::new(api, &id), len, from };
    cloud::disk(item, METHOD, len, facts, blob::start(Arc::new(work), room))
}
