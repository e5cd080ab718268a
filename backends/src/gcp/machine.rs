//! What Compute Engine says of a virtual machine and its disks.
//!
//! After `instances.get`, `disks.get` and `regionDisks.get` of the Compute Engine API v1.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::api::{Api, Service, number, rows, text};
use super::{Place, is_name, is_number, is_project};
use crate::wire::http::Method;
use crate::{BackendError, GRAIN};

/// Most disks of a machine that are asked for; Compute Engine allows fewer.
const DISKS_MAX: usize = 256;
/// A disk under a key that only the customer has.
const CUSTOMERS_KEY: &str = "it is encrypted with a key that the customer keeps (CSEK): each call would need that key, and impound asks for none; take it as a snapshot under another key first, or image it in the guest";

/// A persistent disk.
#[derive(Debug, Clone)]
pub(super) struct Disk {
    /// As `--disk` has it.
    pub(super) name: String,
    /// Its path below the API.
    pub(super) path: String,
    /// Its number, which no other disk ever has.
    pub(super) id: String,
    /// In bytes.
    pub(super) len: u64,
    pub(super) about: Value,
    /// Why no snapshot of it is taken, if so.
    pub(super) refused: Option<&'static str>,
}

/// A virtual machine with its disks.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    /// Its path below the API.
    pub(super) path: String,
    pub(super) about: Value,
    pub(super) disks: Vec<Disk>,
    /// Disks that cannot be taken, and why.
    pub(super) out_of_reach: Vec<String>,
}

impl Machine {
    /// Asks for all of it.
    pub(super) async fn open(api: &Api, place: &Place, vm: &str) -> Result<Self, BackendError> {
        let path = place.zonal(&format!("instances/{vm}"));
        let about = api.get("describe the virtual machine", Service::Compute, &path).await?;
        let mut out_of_reach = Vec::new();
        let attached = attached(&about, &mut out_of_reach)?;
        let (mut disks, mut names) = (Vec::<Disk>::new(), BTreeSet::new());
        for path in attached {
            let about = api.get("describe the disk", Service::Compute, &path).await?;
            let mut disk = Disk::of(path, about)?;
            if !names.insert(disk.name.clone()) {
                // A disk of the zone and one of the region may be called alike.
                disk.name = format!("{}-{}", disk.name, disk.id);
            }
            disks.push(disk);
        }
        Ok(Self { path, about, disks, out_of_reach })
    }

    /// `running`, `terminated` …
    pub(super) fn state(&self) -> String {
        text(&self.about, "/status").to_lowercase()
    }

    /// Is there a screen to be seen?
    pub(super) fn has_screen(&self) -> bool {
        self.about.pointer("/displayDevice/enableDisplay") == Some(&Value::Bool(true))
    }

    /// Names of its network interfaces.
    pub(super) fn interfaces(&self) -> Vec<String> {
        rows(&self.about, "/networkInterfaces")
            .map(|nic| text(nic, "/name").to_owned())
            .filter(|name| is_name(name))
            .collect()
    }

    /// All documents as one.
    pub(super) fn documents(&self) -> Value {
        let disks = self.disks.iter().map(|disk| (disk.name.clone(), disk.about.clone())).collect::<Map<_, _>>();
        json!({ "instance": self.about, "disks": disks })
    }
}

impl Disk {
    fn of(path: String, about: Value) -> Result<Self, BackendError> {
        let wrong = |what: &str| BackendError::corrupt("read what Compute Engine says", &path, "a disk", what, "none");
        let (name, id) = (text(&about, "/name").to_owned(), text(&about, "/id").to_owned());
        if !is_name(&name) || !is_number(&id) {
            return Err(wrong("its name and its number"));
        }
        let len = gib(&about, "/sizeGb").ok_or_else(|| wrong("its size"))?;
        let refused = has_customers_key(&about, "/diskEncryptionKey").then_some(CUSTOMERS_KEY);
        Ok(Self { name, path, id, len, about, refused })
    }
}

/// A length that is told in GiB, in bytes.
pub(super) fn gib(about: &Value, path: &str) -> Option<u64> {
    number(about, path)?.checked_mul(1 << 30).filter(|len| *len > 0 && len.is_multiple_of(GRAIN))
}

/// Is there a key that is neither Google's nor in Cloud KMS? Of such a one only the digest is told.
pub(super) fn has_customers_key(about: &Value, path: &str) -> bool {
    let key = about.pointer(path).filter(|key| !key.is_null());
    key.is_some_and(|key| text(key, "/kmsKeyName").is_empty() && key.get("sha256").is_some())
}

/// Paths of the persistent disks; what is none is said in `out_of_reach`.
fn attached(about: &Value, out_of_reach: &mut Vec<String>) -> Result<Vec<String>, BackendError> {
    let mut found = Vec::new();
    for disk in rows(about, "/disks").take(DISKS_MAX) {
        let (device, source) = (text(disk, "/deviceName"), text(disk, "/source"));
        if text(disk, "/type") == "SCRATCH" {
            out_of_reach.push(format!("{device}: a local SSD of the host, of which no snapshot can be taken: it is not taken, and is lost when the machine is stopped"));
        } else {
            found.push(below(source).ok_or_else(|| {
                BackendError::corrupt(
                    "read what Compute Engine says",
                    device,
                    "a disk",
                    "the address of one",
                    "another thing",
                )
            })?);
        }
    }
    Ok(found)
}

/// `/projects/P/zones/Z/disks/D` out of the address of a disk.
fn below(address: &str) -> Option<String> {
    let (_, rest) = address.split_once("/projects/")?;
    let parts: Vec<_> = rest.split('/').collect();
    let [project, kind, place, "disks", name] = parts.as_slice() else { return None };
    let good = is_project(project) && matches!(*kind, "zones" | "regions") && is_name(place) && is_name(name);
    good.then(|| format!("/projects/{rest}"))
}

/// The machines of a zone.
pub(super) async fn list(api: &Api, place: &Place) -> Result<Vec<Value>, BackendError> {
    let request = api.request("list the virtual machines", Method::Get, Service::Compute, &place.zonal("instances"));
    Ok(api.list(request, "items").await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_taken_is_said_and_what_can_is_found() {
        let at = "https://www.googleapis.com/compute/v1/projects/lab/zones/z/disks/d";
        let about = json!({ "disks": [
            { "type": "PERSISTENT", "deviceName": "boot", "source": at },
            { "type": "SCRATCH", "deviceName": "local-ssd-0" },
        ] });
        let mut out = Vec::new();
        assert_eq!(attached(&about, &mut out).unwrap(), ["/projects/lab/zones/z/disks/d"]);
        assert!(out.len() == 1 && out[0].starts_with("local-ssd-0: a local SSD"), "{out:?}");
        for bad in [
            "",
            "d",
            "/projects/lab/zones/z/disks/..",
            "/projects/lab/zones/z/disks/a/b",
            "/projects/lab/zones/z/images/d",
            "x/projects/../zones/z/disks/d",
        ] {
            assert!(attached(&json!({ "disks": [{ "source": bad }] }), &mut out).is_err(), "{bad}");
        }
        for damaged in [json!(null), json!({ "disks": 5 }), json!({ "disks": {} })] {
            assert_eq!(attached(&damaged, &mut out).unwrap().len(), 0, "{damaged}");
        }
        assert!(attached(&json!({ "disks": [5] }), &mut out).is_err());
    }

    #[test]
    fn a_disk_is_read_or_refused() {
        let of = |about: Value| Disk::of("/x".to_owned(), about);
        let disk = of(json!({ "name": "d", "id": "77", "sizeGb": "10" })).unwrap();
        assert!(disk.len == 10 << 30 && disk.refused.is_none());
        let key =
            |key: Value| of(json!({ "name": "d", "id": "77", "sizeGb": 1, "diskEncryptionKey": key })).unwrap().refused;
        assert!(key(json!({ "sha256": "x" })).is_some());
        assert!(key(json!({ "kmsKeyName": "projects/p/x", "sha256": "x" })).is_none() && key(json!(null)).is_none());
        for bad in [
            json!(null),
            json!({ "name": "d", "id": "77" }),
            json!({ "name": "d", "id": "77", "sizeGb": "0" }),
            json!({ "name": "d", "id": "77", "sizeGb": "18446744073709551615" }),
            json!({ "name": "d", "id": "../1", "sizeGb": "1" }),
            json!({ "name": "../d", "id": "1", "sizeGb": "1" }),
        ] {
            assert!(of(bad.clone()).is_err(), "{bad}");
        }
    }
}
