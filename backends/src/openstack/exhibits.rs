//! What Nova and Cinder say of a server, as exhibits: its console's log, the server with its network and history, its volumes.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::api::Api;
use super::disks::{Disk, Of};
use super::keystone::Who;
use crate::{BackendError, Capture, Consistency, Item, ItemKind, Method, Piece, Region};

/// The most that one of them takes, in bytes, and far more than any was seen to.
pub(super) const MOST: u64 = 16 << 20;
/// How long one of them may hold up the snapshots.
const WITHIN: Duration = Duration::from_secs(20);

/// Names, and how each is asked for, in the order in which they are taken: what lasts least comes first.
const ALL: &[(&str, &str)] = &[("console", "os-getConsoleOutput"), ("config", "describe"), ("volumes", "describe")];
/// What else Nova knows of a server.
const PARTS: &[&str] = &["os-interface", "os-security-groups", "os-volume_attachments", "os-instance-actions"];

pub(super) fn items(id: &str) -> Vec<Item> {
    let item = |(name, method): &(&str, &str)| Item {
        kind: ItemKind::Config,
        name: (*name).to_owned(),
        len: None,
        source: format!("server {id}"),
        resumable: false,
        file: None,
        methods: vec![Method {
            name: (*method).to_owned(),
            consistency: Consistency::Live,
            pause: "none".to_owned(),
            holds_guest: false,
            unusable: None,
        }],
    };
    ALL.iter().map(item).collect()
}

/// What a plan says of it.
pub(super) fn command(item: &Item, id: &str) -> String {
    match item.name.as_str() {
        "console" => format!("nova os-getConsoleOutput of {id}"),
        "volumes" => "cinder show, each volume".to_owned(),
        _ => format!("nova show {id}, {}", PARTS.join(", ")),
    }
}

/// A document, or why there is none.
type Document = Result<Bytes, BackendError>;

/// Takes all that are wanted, none of which may hold up the snapshots for long.
pub(super) async fn take(api: &Api, id: &str, disks: &[Disk], wanted: &[Item]) -> BTreeMap<String, Document> {
    let mut documents = BTreeMap::new();
    let is_wanted = |name: &str| wanted.iter().any(|item| item.kind == ItemKind::Config && item.name == name);
    for (name, method) in ALL.iter().filter(|(name, _)| is_wanted(name)) {
        let late = || {
            let why = format!("no answer within {} s, and the disks could not wait", WITHIN.as_secs());
            Err(BackendError::unsupported(*method, id, why))
        };
        let document = timeout(WITHIN, one(api, id, disks, name)).await.unwrap_or_else(|_| late());
        documents.insert((*name).to_owned(), document);
    }
    documents
}

async fn one(api: &Api, id: &str, disks: &[Disk], name: &str) -> Document {
    match name {
        "console" => {
            let log = api.console(id).await?;
            if log.is_empty() {
                return Err(BackendError::unsupported("read the console", id, "Nova keeps none for this server"));
            }
            Ok(log.into())
        }
        "volumes" => volumes(api, disks).await,
        _ => config(api, id, disks).await,
    }
}

fn pretty(document: &Value) -> Bytes {
    serde_json::to_vec_pretty(document).unwrap_or_default().into()
}

/// Everything Nova says of the server, and Glance of the image that it was made of. A part that is refused is said to be.
async fn config(api: &Api, id: &str, disks: &[Disk]) -> Document {
    let mut all = serde_json::Map::new();
    all.insert("server".to_owned(), api.server(id).await?);
    for part in PARTS {
        let answer = api.of_server(id, part).await;
        let answer = answer.unwrap_or_else(|refused| json!({ "not_told": refused.error.why }));
        all.insert((*part).to_owned(), answer);
    }
    if let Some(Of::Server { image, .. }) = disks.first().map(|disk| &disk.of) {
        all.insert("image".to_owned(), image.clone().unwrap_or_default());
    }
    Ok(pretty(&Value::Object(all)))
}

/// Everything Cinder says of the volumes.
async fn volumes(api: &Api, disks: &[Disk]) -> Document {
    let mut all = Vec::new();
    for volume in disks.iter().filter_map(Disk::volume) {
        let now = api.volume(&volume.id).await?;
        all.push(now.map_or_else(|| json!({ "id": volume.id, "gone": true }), |now| now.about));
    }
    Ok(pretty(&json!({ "volumes": all })))
}

/// A document as a capture of one piece.
pub(super) fn capture(item: &Item, document: Option<Document>, who: &Who) -> Capture {
    let missing = || Err(BackendError::caller("capture", &item.source, format!("`{}` was not asked for", item.name)));
    let document = document.unwrap_or_else(missing);
    let len = document.as_ref().map_or(0, |bytes| bytes.len() as u64);
    let (to, pieces) = mpsc::channel(1);
    // One piece fits into an empty channel of one.
    let _ = to.try_send(document.map(|bytes| Piece::Data { at: 0, bytes }));
    let region = Region { at: 0, len, name: item.name.clone() };
    Capture {
        method: ALL.iter().find(|(name, _)| *name == item.name).map_or("describe", |(_, method)| method),
        item: item.clone(),
        len,
        regions: (len > 0).then_some(region).into_iter().collect(),
        consistency: Consistency::Live,
        holds_guest: false,
        facts: json!({ "provider": "OpenStack", "caller": who }),
        pieces,
    }
}
