//! Cinder: volumes, snapshots of them, volumes made of snapshots, and images made of those.
//!
//! After the Block Storage API v3 reference, version 3.14.

use serde_json::{Value, json};

use super::api::{Api, Ask, Refused, Service};
use super::nova::RUN_KEY;
use super::{is_id, text};
use crate::BackendError;
use crate::wire::http::Method;

/// A volume.
#[derive(Debug, Clone)]
pub(super) struct Volume {
    pub(super) id: String,
    pub(super) status: String,
    /// In bytes.
    pub(super) len: u64,
    /// The generic group that it is in.
    pub(super) group: Option<String>,
    pub(super) encrypted: bool,
    pub(super) about: Value,
}

/// A snapshot.
#[derive(Debug, Clone)]
pub(super) struct Snapshot {
    pub(super) id: String,
    pub(super) volume: String,
    pub(super) status: String,
    pub(super) about: Value,
}

fn corrupt(on: &str, expected: &str) -> Refused {
    BackendError::corrupt("read what Cinder says", on, "the answer", expected, "another").into()
}

/// The inside of an answer.
fn inner(mut answer: Value, key: &str) -> Value {
    answer.get_mut(key).map(Value::take).unwrap_or_default()
}

fn volume(about: Value) -> Result<Volume, Refused> {
    let id = text(&about, "id").to_owned();
    let len = about.get("size").and_then(Value::as_u64).and_then(|gib| gib.checked_mul(1 << 30));
    let Some(len) = len.filter(|len| *len > 0 && is_id(&id)) else {
        return Err(corrupt(&id, "a volume with id and size"));
    };
    let group = text(&about, "group_id");
    Ok(Volume {
        status: text(&about, "status").to_owned(),
        group: Some(group.to_owned()).filter(|group| is_id(group)),
        encrypted: about.get("encrypted").and_then(Value::as_bool).unwrap_or(false),
        id,
        len,
        about,
    })
}

fn snapshot(about: Value) -> Result<Snapshot, Refused> {
    let (id, volume) = (text(&about, "id").to_owned(), text(&about, "volume_id").to_owned());
    if !is_id(&id) || !is_id(&volume) {
        return Err(corrupt(&id, "a snapshot with its id and its volume's"));
    }
    Ok(Snapshot { status: text(&about, "status").to_owned(), id, volume, about })
}

impl Api {
    /// A volume; none if there is none of that id.
    pub(super) async fn volume(&self, id: &str) -> Result<Option<Volume>, Refused> {
        match self.json(Ask::get(Service::Cinder, "describe the volume", format!("/volumes/{id}"))).await {
            Err(refused) if refused.status == 404 => Ok(None),
            answer => volume(inner(answer?, "volume")).map(Some),
        }
    }

    /// A snapshot; none if there is none of that id.
    pub(super) async fn snapshot(&self, id: &str) -> Result<Option<Snapshot>, Refused> {
        match self.json(Ask::get(Service::Cinder, "describe the snapshot", format!("/snapshots/{id}"))).await {
            Err(refused) if refused.status == 404 => Ok(None),
            answer => snapshot(inner(answer?, "snapshot")).map(Some),
        }
    }

    /// Volumes of this name that a run of impound made.
    pub(super) async fn volumes_named(&self, name: &str, run: &str) -> Result<Vec<Volume>, Refused> {
        let ask = Ask::get(Service::Cinder, "look for volumes", "/volumes/detail").query("name", name);
        let Value::Array(found) = inner(self.json(ask).await?, "volumes") else {
            return Err(corrupt(name, "a list of volumes"));
        };
        found.into_iter().filter(|about| is_ours(about, name, run)).map(volume).collect()
    }

    /// Snapshots of this name of a volume.
    pub(super) async fn snapshots_named(&self, of: &str, name: &str) -> Result<Vec<Snapshot>, Refused> {
        let ask = Ask::get(Service::Cinder, "look for snapshots", "/snapshots/detail")
            .query("volume_id", of)
            .query("name", name);
        let Value::Array(found) = inner(self.json(ask).await?, "snapshots") else {
            return Err(corrupt(name, "a list of snapshots"));
        };
        let ours = found.into_iter().filter(|about| text(about, "name") == name && text(about, "volume_id") == of);
        ours.map(snapshot).collect()
    }

    /// Takes a snapshot of a volume, attached or not.
    pub(super) async fn create_snapshot(&self, of: &str, name: &str, run: &str, by: &str) -> Result<Snapshot, Refused> {
        let asked = json!({
            "volume_id": of, "name": name, "description": by, "force": true, "metadata": { RUN_KEY: run },
        });
        let ask = Ask::post(Service::Cinder, "take a snapshot", "/snapshots", json!({ "snapshot": asked }));
        let made = snapshot(inner(self.json(ask).await?, "snapshot"))?;
        if made.volume == of { Ok(made) } else { Err(corrupt(of, "a snapshot of this volume")) }
    }

    /// Takes one snapshot of all volumes of a group.
    pub(super) async fn create_group_snapshot(&self, group: &str, name: &str, by: &str) -> Result<(), Refused> {
        let asked = json!({ "group_id": group, "name": name, "description": by });
        let ask = Ask::post(
            Service::Cinder,
            "take a snapshot of the group",
            "/group_snapshots",
            json!({ "group_snapshot": asked }),
        );
        self.ask(ask).await.map(drop)
    }

    /// Does its type promise one instant for the whole group? None if these credentials are not told.
    pub(super) async fn is_consistent(&self, group: &str) -> Option<bool> {
        let get = |path: String| self.json::<Value>(Ask::get(Service::Cinder, "ask about the group", path));
        let group = inner(get(format!("/groups/{group}")).await.ok()?, "group");
        let kind = text(&group, "group_type");
        if !is_id(kind) {
            return None;
        }
        let kind = inner(get(format!("/group_types/{kind}")).await.ok()?, "group_type");
        let specs = kind.get("group_specs")?.as_object()?;
        let said = specs.get("consistent_group_snapshot_enabled").and_then(Value::as_str).unwrap_or_default();
        Some(said.split_whitespace().last().is_some_and(|word| word.eq_ignore_ascii_case("true")))
    }

    /// Has a volume made of a snapshot.
    pub(super) async fn create_volume(&self, from: &str, len: u64, name: &str, run: &str) -> Result<Volume, Refused> {
        let asked = json!({
            "snapshot_id": from, "size": len >> 30, "name": name, "description": "temporary, of impound",
            "metadata": { RUN_KEY: run },
        });
        let ask =
            Ask::post(Service::Cinder, "have a volume made of the snapshot", "/volumes", json!({ "volume": asked }));
        let made = volume(inner(self.json(ask).await?, "volume"))?;
        if made.len == len { Ok(made) } else { Err(corrupt(&made.id, "a volume as large as its snapshot")) }
    }

    /// Has an image made of a volume, byte by byte (`os-volume_upload_image`). Answers its id; it is not there yet.
    pub(super) async fn upload(&self, volume: &str, name: &str) -> Result<String, Refused> {
        let asked = json!({ "image_name": name, "disk_format": "raw", "container_format": "bare", "force": false });
        let body = json!({ "os-volume_upload_image": asked });
        let ask =
            Ask::post(Service::Cinder, "have an image made of the volume", format!("/volumes/{volume}/action"), body);
        let made = inner(self.json(ask).await?, "os-volume_upload_image");
        let id = text(&made, "image_id");
        if is_id(id) { Ok(id.to_owned()) } else { Err(corrupt(volume, "the id of an image")) }
    }

    /// Removes a volume; one that is gone is as good.
    pub(super) async fn delete_volume(&self, id: &str) -> Result<(), Refused> {
        let ask = Ask::get(Service::Cinder, "remove the temporary volume", format!("/volumes/{id}"));
        match self.ask(Ask { method: Method::Delete, ..ask }).await {
            Err(refused) if refused.status == 404 => Ok(()),
            answer => answer.map(drop),
        }
    }
}

/// Made by this run of impound: by its name and by what it says of itself, and not attached to anything.
fn is_ours(about: &Value, name: &str, run: &str) -> bool {
    let said = about.get("metadata").map(|metadata| text(metadata, RUN_KEY));
    text(about, "name") == name && said == Some(run) && !text(about, "snapshot_id").is_empty()
}
