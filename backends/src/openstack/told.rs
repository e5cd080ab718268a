//! What is said of a server before anything starts: rows for `show`, and warnings.

use serde_json::{Value, json};

use super::disks::{Disk, Of};
use super::text;

const NO_MEMORY: &str = "memory is not taken: no API of OpenStack gives it; only an agent in the guest could, or whoever runs the hypervisors";

/// Rows for eyes: kind, name, value.
pub(super) fn shown(server: &Value, disks: &[Disk]) -> Value {
    let mut rows: Vec<[String; 3]> = Vec::new();
    let mut row = |kind: &str, name: &str, value: String| rows.push([kind.to_owned(), name.to_owned(), value]);
    for disk in disks {
        match &disk.of {
            Of::Server { image, .. } => {
                let (id, told) =
                    (server.pointer("/image/id").and_then(Value::as_str).unwrap_or_default(), image.as_ref());
                let name = told.map_or("not there any more", |image| text(image, "name"));
                row("image", &disk.name, format!("{id} ({name})"));
            }
            Of::Volume(volume) => {
                let secret = if volume.encrypted { ", encrypted" } else { "" };
                let (name, kind) = (text(&volume.about, "name"), text(&volume.about, "volume_type"));
                row("volume", &disk.name, format!("{} ({name}, {kind}, {}{secret})", volume.id, volume.status));
            }
        }
    }
    for (network, addresses) in server.get("addresses").and_then(Value::as_object).into_iter().flatten() {
        for address in addresses.as_array().into_iter().flatten() {
            let mac = text(address, "OS-EXT-IPS-MAC:mac_addr");
            row("nic", network, format!("{} {mac}", text(address, "addr")));
        }
    }
    for group in server.get("security_groups").and_then(Value::as_array).into_iter().flatten() {
        row("security group", text(group, "name"), String::new());
    }
    for (key, value) in server.get("metadata").and_then(Value::as_object).into_iter().flatten() {
        row("metadata", key, value.as_str().unwrap_or_default().to_owned());
    }
    json!(rows)
}

/// What a responder must know. `promise` is what Cinder says of the volumes' group.
pub(super) fn warnings(server: &Value, disks: &[Disk], promise: Option<&String>) -> Vec<String> {
    let mut warnings = vec![NO_MEMORY.to_owned()];
    let own = disks.iter().find_map(|disk| match &disk.of {
        Of::Server { image, .. } => Some(image),
        Of::Volume(_) => None,
    });
    if let Some(image) = own {
        warnings.push(
            "where the cloud has live snapshots turned off, Nova stops the guest while it copies the server's own disk"
                .to_owned(),
        );
        let is_yes =
            |key: &str| image.as_ref().is_some_and(|image| matches!(text(image, key), "yes" | "true" | "True"));
        if is_yes("hw_qemu_guest_agent") || is_yes("os_require_quiesce") {
            warnings.push("the server's image names a guest agent (hw_qemu_guest_agent): Nova may have it freeze the file systems for the snapshot, which the guest notices".to_owned());
        }
    }
    let gib = |key: &str| server.pointer(&format!("/flavor/{key}")).and_then(Value::as_u64).unwrap_or(0);
    if gib("ephemeral") > 0 || gib("swap") > 0 {
        warnings.push(
            "disks of the flavor besides the first (ephemeral, swap) are not taken: no API gives them".to_owned(),
        );
    }
    warnings.extend(promise.cloned());
    if disks.len() > 1 && (promise.is_none() || own.is_some()) {
        warnings.push("the disks are asked for side by side, and are not of one instant".to_owned());
    }
    for volume in disks.iter().filter_map(Disk::volume).filter(|volume| volume.encrypted) {
        warnings.push(format!("volume {} is encrypted by the cloud: its image is ciphertext (LUKS), and the key is with the cloud's key manager", volume.id));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(image: Value) -> Disk {
        Disk { name: "vda".to_owned(), of: Of::Server { id: "1".to_owned(), len: None, image: Some(image) } }
    }

    #[test]
    fn what_a_snapshot_may_do_to_the_guest_is_said_where_the_image_says_so() {
        let server = json!({ "flavor": { "swap": 512 } });
        let said = |image: Value| warnings(&server, &[own(image)], None).join(" ");
        assert!(said(json!({ "hw_qemu_guest_agent": "yes" })).contains("freeze"));
        assert!(!said(json!({ "hw_qemu_guest_agent": "no" })).contains("freeze"));
        assert!(said(json!({})).contains("swap"));
        assert!(!warnings(&json!({}), &[own(json!({}))], None).join(" ").contains("swap"));
    }
}
