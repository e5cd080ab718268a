//! What Nova and Cinder say of a server, as exhibits: its console's log, the server with its network and history, its volumes.

use serde_json::{Value, json};

use super::api::Api;
use super::disks::{Disk, Of};
use crate::cloud::{Document, Documents, pretty};
use crate::{BackendError, Item};

/// All of them.
pub(super) const ALL: Documents =
    Documents(&[("console", "os-getConsoleOutput"), ("config", "describe"), ("volumes", "describe")]);
/// What else Nova knows of a server.
const PARTS: &[&str] = &["os-interface", "os-security-groups", "os-volume_attachments", "os-instance-actions"];

/// What every server offers.
pub(super) fn items(id: &str) -> Vec<Item> {
    ALL.items(&format!("server {id}"), |_| true)
}

/// What a plan says of it.
pub(super) fn command(item: &Item, id: &str) -> String {
    match item.name.as_str() {
        "console" => format!("nova os-getConsoleOutput of {id}"),
        "volumes" => "cinder show, each volume".to_owned(),
        _ => format!("nova show {id}, {}", PARTS.join(", ")),
    }
}

/// One of them.
pub(super) async fn one(api: &Api, id: &str, disks: &[Disk], name: &str) -> Document {
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
