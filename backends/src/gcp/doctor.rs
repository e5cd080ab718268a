//! Which permission is missing, asked without doing anything, by `testIamPermissions` of the project.
//!
//! After `projects.testIamPermissions` of the Cloud Resource Manager API v1. What is given on a single disk, machine or bucket only is
//! not seen there; a bucket is asked itself once it is named, by `impound acquire --plan --bucket`. What the accounts that make the
//! export may do cannot be asked by anybody else; gcloud names their roles.

use std::sync::Arc;

use serde_json::{Value, json};

use super::api::{Api, Service, rows, with_body};
use super::machine::Machine;
use super::settings::Settings;
use super::{Place, SNAPSHOT, is_name, snapshot};
use crate::wire::http::Method;
use crate::{Access, BackendError, Finding, Uri};

/// All that a capture asks for, and what for.
const WANTED: &[(&str, &str)] = &[
    ("compute.instances.list", "to list machines"),
    ("compute.instances.get", "to describe machines"),
    ("compute.instances.getScreenshot", "for the screenshot"),
    ("compute.instances.getSerialPortOutput", "for the serial ports"),
    ("compute.instances.getEffectiveFirewalls", "for the firewall rules"),
    ("compute.projects.get", "for the project's metadata"),
    ("compute.disks.get", "to describe disks"),
    ("compute.disks.createSnapshot", "to take snapshots of disks"),
    ("compute.snapshots.create", "to take snapshots"),
    ("compute.snapshots.setLabels", "to label them with the run"),
    ("compute.snapshots.get", "to follow snapshots"),
    ("compute.snapshots.useReadOnly", "to make images of them"),
    ("compute.images.create", "to make images"),
    ("compute.images.setLabels", "to label them with the run"),
    ("compute.images.get", "to follow images"),
    ("compute.images.delete", "to remove images in the end"),
    ("compute.zoneOperations.get", "to follow what is done in the zone"),
    ("compute.globalOperations.get", "to follow what is done in the project"),
    ("cloudbuild.builds.create", "to export images"),
    ("cloudbuild.builds.get", "to follow exports"),
    ("cloudbuild.builds.list", "to find exports of a run again"),
    ("cloudbuild.builds.update", "to end exports of a run that is given up"),
];
/// What gcloud gives to those who make the export.
const ACCOUNTS: &str = "they cannot be asked here; Cloud Build's account needs roles/compute.admin, roles/iam.serviceAccountUser, roles/iam.serviceAccountTokenCreator and roles/storage.admin, that of the temporary machine (Compute Engine's default account) roles/compute.storageAdmin and roles/storage.objectAdmin";

/// All that a capture needs in this project, and of this machine if one is named.
pub(super) async fn checkup(uri: &Uri, access: &Access) -> Vec<Finding> {
    let (place, api) = match open(uri, access) {
        Ok(opened) => opened,
        Err(error) => return vec![bad("settings for Google's cloud", &error)],
    };
    let mut findings = match api.bearer.caller().await {
        Ok(caller) => {
            vec![good("credentials for Google's cloud", format!("{}, by {}", caller.name, caller.credentials))]
        }
        Err(error) => return vec![bad("credentials for Google's cloud", &error)],
    };
    match given(&api, &place).await {
        Ok(given) => findings.extend(WANTED.iter().map(|(name, why)| permission(&given, name, why, &place))),
        Err(error) => findings.push(bad("permissions in the project", &error)),
    }
    findings.push(good("accounts that make the export", ACCOUNTS.to_owned()));
    if let Some(vm) = uri.vm.as_deref() {
        findings.push(match described(&api, &place, vm).await {
            Ok(found) => good("target", found),
            Err(error) => bad("target", &error),
        });
    }
    findings
}

fn open(uri: &Uri, access: &Access) -> Result<(Place, Arc<Api>), BackendError> {
    Ok((Place::of(uri)?, Arc::new(Api::new(&Settings::load(), access)?)))
}

/// Which of the permissions the caller has.
async fn given(api: &Api, place: &Place) -> Result<Vec<String>, BackendError> {
    let path = format!("/v1/projects/{}:testIamPermissions", place.project);
    let request = api.request("ask for permissions", Method::Post, Service::Projects, &path);
    let wanted: Vec<_> = WANTED.iter().map(|(name, _)| *name).collect();
    let came = api.json(with_body(request, &json!({ "permissions": wanted }))).await?;
    let given = rows(&came, "/permissions").filter_map(Value::as_str);
    Ok(given.map(ToOwned::to_owned).collect())
}

async fn described(api: &Api, place: &Place, vm: &str) -> Result<String, BackendError> {
    let name = vm.strip_prefix(SNAPSHOT).unwrap_or(vm);
    if !is_name(name) {
        return Err(BackendError::caller("open a target", vm, "nothing in Compute Engine has such a name"));
    }
    if vm.starts_with(SNAPSHOT) {
        let snapshot = snapshot::get(api, place, name).await?;
        return Ok(format!("{name} is a snapshot of {}", snapshot.disk));
    }
    let machine = Machine::open(api, place, name).await?;
    Ok(format!("{name} is {}", machine.state()))
}

fn good(what: &str, found: String) -> Finding {
    Finding { what: what.to_owned(), good: true, found, fix: None }
}

fn bad(what: &str, error: &BackendError) -> Finding {
    Finding { what: what.to_owned(), good: false, found: error.why.clone(), fix: error.advice.clone() }
}

fn permission(given: &[String], name: &str, why: &str, place: &Place) -> Finding {
    if given.iter().any(|given| given == name) {
        return good(name, "given in the project".to_owned());
    }
    let project = &place.project;
    Finding {
        what: name.to_owned(),
        good: false,
        found: format!("not given in the project, though it may be on a single resource; it is needed {why}"),
        fix: Some(format!(
            "give the caller a role with {name}: gcloud projects add-iam-policy-binding {project} --member WHO --role ROLE"
        )),
    }
}
