//! What ARM says of a virtual machine and its disks, and what a responder has to know of it before anything starts.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::api::{Api, COMPUTE, DISK, NETWORK, clip, text};
use crate::{BackendError, Kind};

/// Most disks and network interfaces of a machine that are asked for; Azure allows fewer.
const PARTS_MAX: usize = 128;
/// What is said before anything starts.
pub(super) const NO_MEMORY: &str = "memory is not taken: no API of Azure gives it; only an agent in the guest could (Run Command with AVML, say), or hibernation, which stops the guest and writes memory into the OS disk";

/// A managed disk.
#[derive(Debug, Clone)]
pub(super) struct Disk {
    /// `os`, `lun0` …
    pub(super) name: String,
    pub(super) id: String,
    /// In bytes.
    pub(super) len: u64,
    pub(super) location: String,
    /// The document.
    pub(super) about: Value,
}

/// A virtual machine with all that belongs to it.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    pub(super) id: String,
    pub(super) about: Value,
    pub(super) view: Value,
    pub(super) disks: Vec<Disk>,
    /// Network interfaces, or why one could not be had.
    pub(super) interfaces: Vec<Value>,
    /// Disks that cannot be taken, and why.
    out_of_reach: Vec<String>,
}

impl Machine {
    /// Asks for all of it.
    pub(super) async fn open(api: &Arc<Api>, id: &str) -> Result<Self, BackendError> {
        let about = api.get("describe the virtual machine", id, COMPUTE).await?;
        let view = api.get("ask for the state of the virtual machine", &format!("{id}/instanceView"), COMPUTE).await?;
        let (mut disks, mut out_of_reach) = (Vec::new(), Vec::new());
        let wanted = attached(&about, &mut out_of_reach);
        if wanted.len() > PARTS_MAX {
            return Err(too_many(id, "disks", wanted.len()));
        }
        for (name, id) in wanted {
            disks.push(disk(api, name, &id).await?);
        }
        let interfaces = interfaces(api, id, &about).await?;
        Ok(Self { id: id.to_owned(), about, view, disks, interfaces, out_of_reach })
    }

    /// `running`, `deallocated` …
    pub(super) fn state(&self) -> String {
        power(&self.view)
    }

    /// What ARM keeps of the screen and the serial console.
    pub(super) fn has_diagnostics(&self) -> bool {
        self.about.pointer("/properties/diagnosticsProfile/bootDiagnostics/enabled") == Some(&Value::Bool(true))
    }

    /// All documents as one.
    pub(super) fn documents(&self) -> Value {
        let disks = self.disks.iter().map(|disk| (disk.name.clone(), disk.about.clone()));
        json!({
            "virtualMachine": self.about,
            "instanceView": self.view,
            "disks": disks.collect::<serde_json::Map<_, _>>(),
            "networkInterfaces": self.interfaces,
        })
    }

    /// What a responder has to know.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings = vec![NO_MEMORY.to_owned()];
        warnings.extend(self.out_of_reach.iter().cloned());
        if self.about.pointer("/properties/additionalCapabilities/hibernationEnabled") == Some(&Value::Bool(true)) {
            warnings.push("hibernation is enabled: the OS disk may hold memory of an earlier time".to_owned());
        }
        for disk in &self.disks {
            let security = text(&disk.about, "/properties/securityProfile/securityType");
            if !security.is_empty() {
                warnings.push(format!(
                    "{}: {security}: the guest state beside the disk (VMGS: vTPM, UEFI variables) is not taken, and what is sealed to the vTPM opens nowhere else",
                    disk.name
                ));
            }
            let encryption = text(&disk.about, "/properties/encryption/type");
            let set = text(&disk.about, "/properties/encryption/diskEncryptionSetId");
            if !set.is_empty() {
                warnings.push(format!(
                    "{}: encrypted with a customer's key ({encryption}, {set}): it can be read for as long as that key is enabled",
                    disk.name
                ));
            }
            if disk.about.pointer("/properties/encryptionSettingsCollection/enabled") == Some(&Value::Bool(true)) {
                warnings.push(format!(
                    "{}: encrypted in the guest (Azure Disk Encryption, BitLocker or dm-crypt): it is taken as it is, and its key is in the key vault that the disk's document names",
                    disk.name
                ));
            }
        }
        warnings.push(
            "the temporary disk of the host, if there is one, cannot be taken and is lost when the machine is stopped"
                .to_owned(),
        );
        warnings
    }
}

/// `running` out of an instance view.
pub(super) fn power(view: &Value) -> String {
    let mut statuses = view.get("statuses").and_then(Value::as_array).into_iter().flatten();
    let power = statuses.find_map(|status| text(status, "/code").strip_prefix("PowerState/"));
    clip(power.unwrap_or("unknown"), 40)
}

/// Names and ids of the managed disks; what is none is said in `out_of_reach`.
fn attached(about: &Value, out_of_reach: &mut Vec<String>) -> Vec<(String, String)> {
    let storage = about.pointer("/properties/storageProfile").unwrap_or(&Value::Null);
    let data = storage.get("dataDisks").and_then(Value::as_array).into_iter().flatten();
    let data = data.map(|disk| (format!("lun{}", disk.get("lun").and_then(Value::as_u64).unwrap_or(0)), disk));
    let os = storage.get("osDisk").map(|disk| ("os".to_owned(), disk));
    let mut found = Vec::new();
    for (name, disk) in os.into_iter().chain(data) {
        let why = if disk.pointer("/diffDiskSettings/option").is_some() {
            "an ephemeral disk on the host, which Azure takes no snapshot of: it cannot be taken, and is lost when the machine is stopped"
        } else if !text(disk, "/managedDisk/id").is_empty() {
            found.push((name, text(disk, "/managedDisk/id").to_owned()));
            continue;
        } else if !text(disk, "/vhd/uri").is_empty() {
            "an unmanaged disk, a page blob in a storage account, which impound does not take: az storage blob snapshot"
        } else {
            "neither a managed disk nor a blob: it cannot be taken"
        };
        out_of_reach.push(format!("{name}: {why}"));
    }
    found
}

async fn disk(api: &Api, name: String, id: &str) -> Result<Disk, BackendError> {
    let about = api.get("describe the disk", id, DISK).await?;
    let len = about.pointer("/properties/diskSizeBytes").and_then(Value::as_u64).unwrap_or(0);
    Ok(Disk { name, id: id.to_owned(), len, location: text(&about, "/location").to_owned(), about })
}

/// The interfaces' documents. One that may not be read is no reason to take nothing.
async fn interfaces(api: &Arc<Api>, vm: &str, about: &Value) -> Result<Vec<Value>, BackendError> {
    let listed = about.pointer("/properties/networkProfile/networkInterfaces").and_then(Value::as_array);
    let ids: Vec<_> = listed.into_iter().flatten().map(|one| text(one, "/id").to_owned()).collect();
    if ids.len() > PARTS_MAX {
        return Err(too_many(vm, "network interfaces", ids.len()));
    }
    let mut found = Vec::new();
    for id in ids {
        let one = api.get("describe the network interface", &id, NETWORK).await;
        found.push(one.unwrap_or_else(|refused| json!({ "id": id, "absent": refused.error.why })));
    }
    Ok(found)
}

fn too_many(vm: &str, what: &str, found: usize) -> BackendError {
    BackendError::corrupt("describe the virtual machine", vm, what, format!("at most {PARTS_MAX}"), found)
}

/// The machines of a group, with their state.
pub(super) async fn list(api: &Arc<Api>, group: &str) -> Result<Vec<(Value, String)>, BackendError> {
    let machines = api
        .list("list the virtual machines", &format!("{group}/providers/Microsoft.Compute/virtualMachines"), COMPUTE)
        .await?;
    let mut states = JoinSet::new();
    for (n, machine) in machines.iter().enumerate() {
        let (api, id) = (Arc::clone(api), format!("{}/instanceView", text(machine, "/id")));
        states.spawn(async move {
            let view = api.get("ask for the state of the virtual machine", &id, COMPUTE).await;
            (n, view.map_or_else(|_| "unknown".to_owned(), |view| power(&view)))
        });
    }
    let mut all: Vec<_> = machines.into_iter().map(|machine| (machine, "unknown".to_owned())).collect();
    while let Some(done) = states.join_next().await {
        let (n, state) = done.map_err(|error| {
            BackendError::new(Kind::Io, "list the virtual machines", "this program", error.to_string())
        })?;
        if let Some(machine) = all.get_mut(n) {
            machine.1 = state;
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_taken_is_said_and_what_can_is_named() {
        let about = json!({ "properties": { "storageProfile": {
            "osDisk": { "name": "a", "diffDiskSettings": { "option": "Local" }, "managedDisk": { "id": "/x" } },
            "dataDisks": [
                { "lun": 3, "managedDisk": { "id": "/d" } },
                { "lun": 4, "vhd": { "uri": "https://x/y.vhd" } },
                { "lun": 5 },
            ],
        } } });
        let mut out = Vec::new();
        assert_eq!(attached(&about, &mut out), [("lun3".to_owned(), "/d".to_owned())]);
        assert!(out[0].starts_with("os: an ephemeral") && out[1].starts_with("lun4: an unmanaged"), "{out:?}");
        assert!(out[2].starts_with("lun5: neither") && out.len() == 3, "{out:?}");
        assert_eq!(
            power(
                &json!({ "statuses": [{ "code": "ProvisioningState/succeeded" }, { "code": "PowerState/running" }] })
            ),
            "running"
        );
        assert_eq!(power(&json!({})), "unknown");
    }
}
