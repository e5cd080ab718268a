//! What is said of a machine before anything starts: rows for `show`, and warnings.

use serde_json::{Value, json};

use super::api::{clip, rows, text};
use super::last;
use super::machine::{Disk, Machine};

/// What is said before anything starts.
pub(super) const NO_MEMORY: &str = "memory is not taken: no API of Google's cloud gives it (a suspended machine's memory can be read by nobody); only an agent in the guest could";
const SEVERAL: &str = "Google promises no common instant to snapshots of several disks: they are asked for at the same moment, each holds one instant of its own disk, and the manifest says when";
const EXPORT: &str = "for each export, Cloud Build starts a temporary machine in this project, as gcloud compute images export does: that takes time and money, and is seen in the project's logs";
/// Longest value of metadata that is shown; all of it is in the exhibit `config`.
const VALUE_MAX: usize = 200;

/// Rows for eyes: kind, name, value.
pub(super) fn shown(machine: &Machine) -> Value {
    let about = &machine.about;
    let mut shown: Vec<[String; 3]> = Vec::new();
    let mut row = |kind: &str, name: &str, value: String| shown.push([kind.to_owned(), name.to_owned(), value]);
    for disk in &machine.disks {
        row("disk", &disk.name, format!("{}, {}", last(text(&disk.about, "/type")), encryption(disk)));
    }
    for nic in rows(about, "/networkInterfaces") {
        let external: Vec<_> =
            rows(nic, "/accessConfigs").map(|access| text(access, "/natIP")).filter(|ip| !ip.is_empty()).collect();
        let network = last(text(nic, "/network"));
        row(
            "nic",
            text(nic, "/name"),
            format!("{} in {network}, outside {}", text(nic, "/networkIP"), external.join(" ")),
        );
    }
    for (key, value) in about.get("labels").and_then(Value::as_object).into_iter().flatten() {
        row("label", key, value.as_str().unwrap_or_default().to_owned());
    }
    for tag in rows(about, "/tags/items") {
        row("tag", tag.as_str().unwrap_or_default(), String::new());
    }
    for account in rows(about, "/serviceAccounts") {
        row(
            "service account",
            text(account, "/email"),
            rows(account, "/scopes").filter_map(Value::as_str).map(last).collect::<Vec<_>>().join(" "),
        );
    }
    for item in rows(about, "/metadata/items") {
        row("metadata", text(item, "/key"), clip(text(item, "/value"), VALUE_MAX));
    }
    json!(shown)
}

/// By whose key a disk is encrypted.
fn encryption(disk: &Disk) -> String {
    match (disk.refused, text(&disk.about, "/diskEncryptionKey/kmsKeyName")) {
        (Some(_), _) => "encrypted with a key that the customer keeps (CSEK)".to_owned(),
        (None, "") => "encrypted with a key of Google's".to_owned(),
        (None, key) => format!("encrypted with the key {key}"),
    }
}

/// What a responder has to know, of the machine and of those disks that are wanted.
pub(super) fn warnings(machine: &Machine, disks: &[&Disk]) -> Vec<String> {
    let mut warnings = vec![NO_MEMORY.to_owned()];
    warnings.extend(machine.out_of_reach.iter().cloned());
    for disk in disks {
        if let Some(why) = disk.refused {
            warnings.push(format!("{}: not taken: {why}", disk.name));
        }
        let key = text(&disk.about, "/diskEncryptionKey/kmsKeyName");
        if !key.is_empty() {
            warnings.push(format!("{}: encrypted with a customer's key ({key}): it can be read for as long as that key is enabled, and lies in the bucket under the bucket's own", disk.name));
        }
    }
    let yes = |path: &str| machine.about.pointer(path) == Some(&Value::Bool(true));
    if yes("/shieldedInstanceConfig/enableVtpm") {
        warnings.push(
            "the machine has a virtual TPM, which is not taken: what is sealed to it opens nowhere else".to_owned(),
        );
    }
    if yes("/confidentialInstanceConfig/enableConfidentialCompute") {
        warnings.push(
            "the machine is a confidential one: its memory is encrypted, its disks are taken as any other".to_owned(),
        );
    }
    if disks.len() > 1 {
        warnings.push(SEVERAL.to_owned());
    }
    if !disks.is_empty() {
        warnings.push(EXPORT.to_owned());
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_documents_are_shown_as_far_as_they_go() {
        for about in [
            json!(null),
            json!({ "networkInterfaces": [5, null, {}], "labels": [], "tags": { "items": [1] }, "metadata": { "items": [{}] } }),
        ] {
            let machine = Machine { path: String::new(), about, disks: Vec::new(), out_of_reach: Vec::new() };
            shown(&machine);
            assert_eq!(warnings(&machine, &[]), [NO_MEMORY]);
        }
    }
}
