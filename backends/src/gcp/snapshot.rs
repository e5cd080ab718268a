//! Snapshots as evidence: how one is made and found again, and how it stays.
//!
//! After `disks.createSnapshot` and `snapshots.get` of the Compute Engine API v1. Compute Engine names a snapshot as it is told, so the run's
//! id is in the name as well as in a label, and to ask twice for one makes no second.

use serde_json::{Value, json};

use super::api::{Api, Refused, Service, clip, exists, is_missing, text, with_body};
use super::machine::{Disk, gib, has_customers_key};
use super::operation::{self, Wait};
use super::{Place, is_name, is_number};
use crate::wire::http::Method;
use crate::{BackendError, How};

/// The label with the run's id.
pub(super) const RUN_LABEL: &str = "impound-run";
/// Longest description.
const DESCRIPTION_MAX: usize = 1000;

/// A snapshot.
#[derive(Debug, Clone)]
pub(super) struct Snapshot {
    pub(super) name: String,
    /// Its number, which no other snapshot ever has.
    pub(super) id: String,
    /// The address of the disk that it is of, and its number.
    pub(super) disk: String,
    disk_id: String,
    /// Length of its disk in bytes.
    pub(super) len: u64,
    pub(super) about: Value,
}

impl Snapshot {
    /// Reads the document.
    fn of(about: Value) -> Result<Self, BackendError> {
        let wrong = |what: &str| {
            BackendError::corrupt("read what Compute Engine says", "a snapshot", "the answer", what, "none")
        };
        let part = |path: &str| text(&about, path).to_owned();
        let (name, id) = (part("/name"), part("/id"));
        if !is_name(&name) || !is_number(&id) {
            return Err(wrong("its name and its number"));
        }
        let len = gib(&about, "/diskSizeGb").ok_or_else(|| wrong("the size of its disk"))?;
        Ok(Self { name, id, disk: part("/sourceDisk"), disk_id: part("/sourceDiskId"), len, about })
    }

    fn run(&self) -> &str {
        run_of(&self.about)
    }

    /// Is it the one that this run made of this disk?
    fn is_ours(&self, run: &str, disk: &Disk) -> bool {
        self.run() == run && self.disk_id == disk.id && self.len == disk.len
    }

    /// Refuses one under a key that only the customer has.
    pub(super) fn check_key(&self) -> Result<(), BackendError> {
        if has_customers_key(&self.about, "/snapshotEncryptionKey") {
            let why = "it is encrypted with a key that the customer keeps (CSEK), and impound asks for none";
            return Err(BackendError::unsupported("read the snapshot", &self.name, why));
        }
        Ok(())
    }

    /// The command that takes it away, for the one who decides.
    pub(super) fn left(&self, place: &Place) -> String {
        let (name, project) = (&self.name, &place.project);
        format!(
            "snapshot {name} of {}; to delete it: gcloud compute snapshots delete {name} --project {project}",
            self.disk
        )
    }
}

/// The run that a label names.
pub(super) fn run_of(about: &Value) -> &str {
    about.get("labels").and_then(|labels| labels.get(RUN_LABEL)).and_then(Value::as_str).unwrap_or_default()
}

fn path(place: &Place, name: &str) -> String {
    place.global(&format!("snapshots/{name}"))
}

/// Takes one, and waits until it is whole.
pub(super) async fn create(
    api: &Api,
    place: &Place,
    disk: &Disk,
    name: &str,
    run: &str,
    how: &How,
) -> Result<Snapshot, Refused> {
    const CREATE: &str = "take the snapshot";
    let body = json!({
        "name": name,
        "description": clip(&format!("{}, disk {}", how.holder, disk.name), DESCRIPTION_MAX),
        "labels": { RUN_LABEL: run },
    });
    let request = api.request(CREATE, Method::Post, Service::Compute, &format!("{}/createSnapshot", disk.path));
    match api.json(with_body(request, &body)).await {
        // It was asked for before, and no answer came.
        Err(refused) if exists(&refused) => {}
        operation => operation::end(api, CREATE, place, operation?).await?,
    }
    let made = until_ready(api, place, name).await?;
    if made.is_ours(run, disk) {
        return Ok(made);
    }
    let expected = format!("a snapshot of {} with {} bytes and the label of this run", disk.path, disk.len);
    let found = format!("one of {} with {} bytes and the label {:?}", made.disk, made.len, clip(made.run(), 40));
    Err(BackendError::corrupt(CREATE, name, "the answer", expected, found).into())
}

/// One that is there.
pub(super) async fn get(api: &Api, place: &Place, name: &str) -> Result<Snapshot, BackendError> {
    Snapshot::of(api.get("describe the snapshot", Service::Compute, &path(place, name)).await?)
}

/// One of this name, if it is there.
pub(super) async fn find(api: &Api, place: &Place, name: &str) -> Result<Option<Snapshot>, Refused> {
    match api.get("look for the snapshot", Service::Compute, &path(place, name)).await {
        Err(refused) if is_missing(&refused) => Ok(None),
        about => Ok(Some(Snapshot::of(about?)?)),
    }
}

/// The snapshot that a run made of a disk, if it did; whole.
pub(super) async fn of_run(
    api: &Api,
    place: &Place,
    disk: &Disk,
    name: &str,
    run: &str,
) -> Result<Option<Snapshot>, Refused> {
    if find(api, place, name).await?.is_none() {
        return Ok(None);
    }
    let found = until_ready(api, place, name).await?;
    if found.is_ours(run, disk) {
        return Ok(Some(found));
    }
    let why = "it is not the one that this run made of this disk";
    Err(BackendError::unsupported("go on with the snapshot", name, why)
        .advise("begin anew, without --resume: half of one instant and half of another is of no instant")
        .into())
}

async fn until_ready(api: &Api, place: &Place, name: &str) -> Result<Snapshot, Refused> {
    const WAIT: &str = "wait for the snapshot";
    let mut wait = Wait::new(WAIT, name);
    loop {
        let about = api.get(WAIT, Service::Compute, &path(place, name)).await?;
        match text(&about, "/status") {
            "READY" => return Ok(Snapshot::of(about)?),
            "CREATING" | "UPLOADING" => wait.again().await?,
            other => {
                let why = format!("its status is {:?}", clip(other, 40));
                return Err(BackendError::unsupported(WAIT, name, why).into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_read_or_refused() {
        let good = json!({ "name": "s", "id": "5", "diskSizeGb": "1", "sourceDisk": "x", "sourceDiskId": "7", "labels": { RUN_LABEL: "a1" } });
        let read = Snapshot::of(good).unwrap();
        let disk = |id: &str, len| Disk {
            name: "d".to_owned(),
            path: "/d".to_owned(),
            id: id.to_owned(),
            len,
            about: Value::Null,
            refused: None,
        };
        assert!(read.is_ours("a1", &disk("7", 1 << 30)));
        assert!(
            !read.is_ours("a2", &disk("7", 1 << 30))
                && !read.is_ours("a1", &disk("8", 1 << 30))
                && !read.is_ours("a1", &disk("7", 2 << 30))
        );
        for bad in [
            json!(null),
            json!([]),
            json!({ "name": "s", "id": "5" }),
            json!({ "name": "s", "id": 5, "diskSizeGb": "1" }),
            json!({ "name": "../s", "id": "5", "diskSizeGb": "1" }),
            json!({ "name": "s", "id": "5", "diskSizeGb": "-1" }),
        ] {
            assert!(Snapshot::of(bad.clone()).is_err(), "{bad}");
        }
        assert_eq!(run_of(&json!({ "labels": [1] })), "");
    }
}
