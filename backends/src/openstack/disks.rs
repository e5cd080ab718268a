//! What disks a server has: its own, made of an image, and volumes of Cinder.

use std::collections::BTreeSet;

use serde_json::Value;

use super::api::Api;
use super::cinder::Volume;
use super::text;
use crate::{BackendError, Consistency, Item, ItemKind, Method};

/// The way to take a server's own disk.
pub(super) const IMAGE: &str = "image";
/// The way to take a volume.
pub(super) const SNAPSHOT: &str = "snapshot";

/// A disk.
#[derive(Debug, Clone)]
pub(super) struct Disk {
    pub(super) name: String,
    pub(super) of: Of,
}

/// What it is.
#[derive(Debug, Clone)]
pub(super) enum Of {
    /// The server's own, on the disk of its host or in a pool of Nova's.
    Server {
        /// The server's id.
        id: String,
        /// In bytes, if the flavor tells.
        len: Option<u64>,
        /// What Glance says of the image that it was made of, if that is still there.
        image: Option<Value>,
    },
    /// A volume that is attached.
    Volume(Volume),
}

impl Disk {
    /// The id of its volume, or of its server.
    pub(super) fn id(&self) -> &str {
        match &self.of {
            Of::Server { id, .. } => id,
            Of::Volume(volume) => &volume.id,
        }
    }

    /// The volume, if it is one.
    pub(super) fn volume(&self) -> Option<&Volume> {
        match &self.of {
            Of::Volume(volume) => Some(volume),
            Of::Server { .. } => None,
        }
    }

    /// In bytes, as far as it is known.
    pub(super) fn len(&self) -> Option<u64> {
        match &self.of {
            Of::Server { len, .. } => *len,
            Of::Volume(volume) => Some(volume.len),
        }
    }

    pub(super) fn method(&self) -> &'static str {
        match &self.of {
            Of::Server { .. } => IMAGE,
            Of::Volume(_) => SNAPSHOT,
        }
    }

    pub(super) fn item(&self) -> Item {
        let (source, pause) = match &self.of {
            Of::Server { id, .. } => (
                format!("server {id}"),
                "none where the cloud takes live snapshots; else Nova holds the guest while it copies its disk",
            ),
            Of::Volume(volume) => (
                format!("volume {}", volume.id),
                "none: Cinder keeps each block as it is at the instant; what the guest holds back in memory is not in it",
            ),
        };
        Item {
            kind: ItemKind::Disk,
            name: self.name.clone(),
            len: self.len(),
            source,
            resumable: true,
            file: None,
            methods: vec![Method {
                name: self.method().to_owned(),
                consistency: Consistency::QuasiInstantaneous,
                pause: pause.to_owned(),
                holds_guest: false,
                unusable: None,
            }],
        }
    }
}

/// The disks of a server, its own first.
pub(super) async fn of(api: &Api, server: &Value) -> Result<Vec<Disk>, BackendError> {
    let id = text(server, "id");
    let (mut disks, mut seen) = (Vec::new(), BTreeSet::new());
    // A server that boots from a volume has an empty text here.
    if let Some(image) = server.get("image").filter(|image| image.is_object()) {
        let image = match api.image(text(image, "id")).await {
            Err(refused) if matches!(refused.status, 403 | 404) => None,
            found => found?.map(|image| image.about),
        };
        let gib = server.pointer("/flavor/disk").and_then(Value::as_u64).filter(|gib| *gib > 0);
        let len = gib.and_then(|gib| gib.checked_mul(1 << 30));
        let device = Some(text(server, "OS-EXT-SRV-ATTR:root_device_name")).filter(|device| !device.is_empty());
        let name = name(device, "root", &mut seen);
        disks.push(Disk { name, of: Of::Server { id: id.to_owned(), len, image } });
    }
    for attached in api.attachments(id).await? {
        let volume = api.volume(&attached.volume).await?.ok_or_else(|| {
            BackendError::unsupported(
                "describe the volume",
                &attached.volume,
                "it is attached, and Cinder does not show it",
            )
        })?;
        let device = attached.device.as_deref().filter(|device| !device.is_empty());
        let name = name(device, &format!("volume-{}", volume.id), &mut seen);
        disks.push(Disk { name, of: Of::Volume(volume) });
    }
    Ok(disks)
}

/// The device's name, made safe; another where it is not known or is there already.
fn name(device: Option<&str>, other: &str, seen: &mut BTreeSet<String>) -> String {
    let named = device.map_or(other.to_owned(), |device| crate::file::safe_name(std::path::Path::new(device)));
    let mut name = named.clone();
    let mut number = 2;
    while !seen.insert(name.clone()) {
        name = format!("{named}-{number}");
        number += 1;
    }
    name
}
