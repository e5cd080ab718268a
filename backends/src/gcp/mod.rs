//! `gcp://PROJECT/ZONE#vm`: disks of a virtual machine of Google's Compute Engine, by snapshots that are exported to a bucket.
//!
//! Compute Engine gives the bytes of a snapshot to nobody. So a snapshot of each disk becomes an image, and Cloud Build exports that as
//! a file (qcow2) into a bucket of Cloud Storage, by the tool with which `gcloud compute images export` does it. The file is fetched in
//! parts, pinned to its generation, kept as it lies there, and compared with the MD5 and the CRC32C that Cloud Storage keeps of it.
//! Snapshots and files stay, named and labelled after the run, so that a run that broke off is gone on with; the image in
//! between is removed whatever happens. `gcp://PROJECT/ZONE#snapshot:NAME` takes a snapshot that is there already.
//!
//! Each snapshot holds one instant of its own disk. Instant snapshots are not used: they cannot be exported without a disk that is made
//! of them, and lie in the zone of the suspect.
//!
//! No API of Google's gives the memory of a machine: to suspend it keeps memory where nobody can read it. Screen, serial ports, firewall
//! rules and everything that Compute Engine says of the machine are exhibits of their own, taken before the snapshots, since they
//! last less long.
//!
//! The tests run against fake-gcs-server for the objects, and doubles of ours for Compute Engine, Cloud Build and OAuth; no test ran on
//! Google's cloud itself.

mod api;
mod bucket;
mod build;
mod chosen;
mod credentials;
mod doctor;
mod exhibits;
mod fetch;
mod file;
mod image;
mod jwt;
mod machine;
mod operation;
mod run;
mod settings;
mod snapshot;
mod take;
mod taken;
mod target;
mod tokens;
mod told;
mod undo;

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use crate::{Access, Backend, BackendError, Finding, Host, Target, TargetSummary, Uri};
use api::{Api, text};
use credentials::Caller;
use settings::Settings;

/// What stands before the name of a snapshot, which no machine's name can hold.
const SNAPSHOT: &str = "snapshot:";

/// The `gcp` backend.
#[derive(Debug)]
pub struct Gcp;

#[async_trait]
impl Backend for Gcp {
    fn scheme(&self) -> &'static str {
        "gcp"
    }

    fn about(&self) -> &'static str {
        "a Google Compute Engine VM's disks by snapshots, exported to a bucket (--bucket): gcp://PROJECT/ZONE#web01"
    }

    fn tested_against(&self) -> &'static str {
        "fake-gcs-server (objects); doubles of ours for Compute Engine, Cloud Build, OAuth and the metadata server; not Google's cloud itself"
    }

    fn options(&self) -> &'static [&'static str] {
        &[chosen::BUCKET, chosen::REMOVE]
    }

    async fn connect(&self, uri: &Uri, access: &Access) -> Result<Box<dyn Host>, BackendError> {
        let place = Place::of(uri)?;
        let api = Arc::new(Api::new(&Settings::load(), access)?);
        // So it is known first of all whether the credentials are good.
        let caller = api.bearer.caller().await?;
        Ok(Box::new(Zone { api, caller, place }))
    }

    async fn checkup(&self, uri: Option<&Uri>, access: &Access) -> Vec<Finding> {
        match uri {
            Some(uri) => doctor::checkup(uri, access).await,
            None => Vec::new(),
        }
    }
}

/// A zone of a project.
#[derive(Debug, Clone)]
struct Place {
    project: String,
    zone: String,
}

impl Place {
    /// Out of `gcp://PROJECT/ZONE`.
    fn of(uri: &Uri) -> Result<Self, BackendError> {
        let rest = uri.rest.strip_prefix("//").unwrap_or(&uri.rest).trim_end_matches('/');
        let refuse = |why: &str| {
            BackendError::caller("read the target's address", uri.to_string(), why.to_owned())
                .advise("write gcp://PROJECT/ZONE#VM; gcloud compute instances list says project and zone")
        };
        let (project, zone) = rest.split_once('/').ok_or_else(|| refuse("it names no zone"))?;
        if !is_project(project) {
            return Err(refuse("no project has such an id"));
        }
        if !is_name(zone) {
            return Err(refuse("no zone has such a name"));
        }
        Ok(Self { project: project.to_owned(), zone: zone.to_owned() })
    }

    /// Things of the whole project.
    fn global(&self, rest: &str) -> String {
        format!("/projects/{}/global/{rest}", self.project)
    }

    /// Things of the zone.
    fn zonal(&self, rest: &str) -> String {
        format!("/projects/{}/zones/{}/{rest}", self.project, self.zone)
    }
}

/// The id of a project: `lab-4711`, or `example.com:lab-4711` of old.
fn is_project(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.:".contains(&byte);
    (1..=100).contains(&text.len()) && text.bytes().all(plain) && text.starts_with(|c: char| c.is_ascii_lowercase())
}

/// The name of a resource (RFC 1035, as Compute Engine wants it), or its number. It is put into paths, so it holds nothing that divides them.
fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len()) && text.bytes().all(plain) && !text.starts_with('-')
}

/// The number that every resource has.
fn is_number(text: &str) -> bool {
    (1..=20).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// What everything is called that a run makes of a disk, or of a snapshot that was there; `of` is its number.
fn name_of(run: &str, of: &str) -> String {
    format!("impound-{run}-{of}")
}

/// The part of an address of a resource behind the last slash.
fn last(address: &str) -> &str {
    address.rsplit('/').next().unwrap_or_default()
}

/// A zone with the eyes of one caller.
struct Zone {
    api: Arc<Api>,
    caller: Caller,
    place: Place,
}

#[async_trait]
impl Host for Zone {
    async fn targets(&mut self) -> Result<Vec<TargetSummary>, BackendError> {
        let machines = machine::list(&self.api, &self.place).await?;
        let summary = |about: &Value| TargetSummary {
            name: text(about, "/name").to_owned(),
            id: Some(text(about, "/id").to_owned()).filter(|id| !id.is_empty()),
            state: text(about, "/status").to_lowercase(),
            memory: None,
            cpus: None,
        };
        Ok(machines.iter().map(summary).collect())
    }

    async fn open(&mut self, vm: Option<&str>) -> Result<Box<dyn Target>, BackendError> {
        let vm = vm.ok_or_else(|| {
            BackendError::caller("open a virtual machine", &self.place.zone, "no virtual machine is named")
                .advise("impound targets gcp://PROJECT/ZONE lists them")
        })?;
        let name = vm.strip_prefix(SNAPSHOT);
        if !is_name(name.unwrap_or(vm)) {
            return Err(BackendError::caller("open a target", vm, "nothing in Compute Engine has such a name"));
        }
        let (api, caller, place) = (Arc::clone(&self.api), self.caller.clone(), self.place.clone());
        if let Some(name) = name {
            let snapshot = snapshot::get(&api, &place, name).await?;
            return Ok(Box::new(taken::Taken::new(api, caller, place, snapshot)));
        }
        let machine = machine::Machine::open(&api, &place, vm).await?;
        Ok(Box::new(target::Vm::new(api, caller, place, machine)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_a_project_and_a_zone() {
        let of = |text: &str| Place::of(&text.parse().unwrap());
        let place = of("gcp://lab-4711/europe-west1-b#web01").unwrap();
        assert_eq!(place.zonal("instances/web01"), "/projects/lab-4711/zones/europe-west1-b/instances/web01");
        assert_eq!(of("gcp://example.com:lab/europe-west1-b/").unwrap().project, "example.com:lab");
        for bad in [
            "gcp://lab",
            "gcp://lab/",
            "gcp:///z",
            "gcp://lab/a/b",
            "gcp://lab/..",
            "gcp://Lab/z",
            "gcp://../z",
            "gcp://lab/z?a=b",
        ] {
            assert!(of(bad).is_err(), "{bad}");
        }
        assert!(
            is_name("0123456789") && !is_name("") && !is_name("a/b") && !is_name("-a") && !is_name(&"a".repeat(64))
        );
        assert!(is_number("18446744073709551615") && !is_number("-1") && !is_number(""));
    }
}
