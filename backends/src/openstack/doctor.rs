//! What these credentials may do, asked by questions that change nothing. OpenStack has no dry run: whether a snapshot may be taken is
//! known when it is; what can be said beforehand is who asks with which roles, and how much room the quota leaves.

use serde_json::Value;

use super::api::{Api, Ask, Refused, Service};
use super::settings::Settings;
use super::{Cloud, text};
use crate::{Access, BackendError, Finding, Uri};

/// All that a capture needs in this project, of this server if one is named.
pub(super) async fn checkup(uri: &Uri, access: &Access) -> Vec<Finding> {
    let api = match open(uri, access) {
        Ok(api) => std::sync::Arc::new(api),
        Err(error) => return vec![bad("settings for OpenStack", &error)],
    };
    let mut findings = match api.who().await {
        Ok(who) => {
            let (user, project) = (text(&who.user, "name"), text(&who.project, "name"));
            let found = format!("{user} in project {project} as {}, by {}", who.roles.join(", "), who.credentials);
            vec![good("credentials for OpenStack", found), roles(&who.roles)]
        }
        Err(error) => return vec![bad("credentials for OpenStack", &error)],
    };
    for service in [Service::Nova, Service::Cinder, Service::Glance] {
        findings.push(match api.place(service).await {
            Ok(place) => good(&format!("{service} in the catalog"), place.url()),
            Err(error) => bad(&format!("{service} in the catalog"), &error),
        });
    }
    let one = |service, path| Ask::get(service, "ask whether it is allowed", path).query("limit", "1");
    for (what, ask) in [
        ("nova list servers", one(Service::Nova, "/servers/detail")),
        ("cinder list volumes", one(Service::Cinder, "/volumes/detail")),
        ("cinder list snapshots", one(Service::Cinder, "/snapshots/detail")),
        ("glance list images", one(Service::Glance, "/images")),
    ] {
        findings.push(allowed(what, api.ask(ask).await.err()));
    }
    findings.extend(room(&api).await);
    if let Some(vm) = &uri.vm {
        findings.extend(server(Cloud { api }, vm).await);
    }
    findings
}

fn open(uri: &Uri, access: &Access) -> Result<Api, BackendError> {
    Api::new(Settings::load(super::cloud(uri)?)?, access)
}

fn good(what: &str, found: impl Into<String>) -> Finding {
    Finding { what: what.to_owned(), good: true, found: found.into(), fix: None }
}

fn bad(what: &str, error: &BackendError) -> Finding {
    Finding { what: what.to_owned(), good: false, found: error.why.clone(), fix: error.advice.clone() }
}

/// Who may only read cannot take a snapshot.
fn roles(roles: &[String]) -> Finding {
    let what = "roles";
    if roles.iter().any(|role| role != "reader") {
        return good(what, format!("{}; whether they allow snapshots is known when one is taken", roles.join(", ")));
    }
    let fix = Some("ask for the role member in this project".to_owned());
    Finding {
        what: what.to_owned(),
        good: false,
        found: "no more than reader: no snapshot may be taken".to_owned(),
        fix,
    }
}

fn allowed(what: &str, refused: Option<Refused>) -> Finding {
    match refused {
        None => good(what, "allowed"),
        Some(refused) if refused.status == 403 => Finding {
            what: what.to_owned(),
            good: false,
            found: "not allowed".to_owned(),
            fix: Some(format!("ask whoever runs the cloud for a role that may {what}")),
        },
        Some(refused) => bad(what, &refused.error),
    }
}

/// What the quota leaves for temporary volumes and snapshots. -1 is no limit.
async fn room(api: &Api) -> Vec<Finding> {
    let limits: Value = match api.json(Ask::get(Service::Cinder, "ask for the quota", "/limits")).await {
        Ok(limits) => limits,
        Err(refused) => return vec![allowed("cinder quota", Some(refused))],
    };
    let number = |name: &str| limits.pointer(&format!("/limits/absolute/{name}")).and_then(Value::as_i64);
    let mut findings = Vec::new();
    for (what, most, used) in [
        ("cinder quota of volumes", "maxTotalVolumes", "totalVolumesUsed"),
        ("cinder quota of snapshots", "maxTotalSnapshots", "totalSnapshotsUsed"),
        ("cinder quota of GiB", "maxTotalVolumeGigabytes", "totalGigabytesUsed"),
    ] {
        let (Some(most), Some(used)) = (number(most), number(used)) else { continue };
        let left = most.saturating_sub(used);
        findings.push(if most < 0 || left > 0 {
            good(what, if most < 0 { "no limit".to_owned() } else { format!("{left} of {most} left") })
        } else {
            let fix = Some("have the quota raised, or remove what is not needed".to_owned());
            Finding { what: what.to_owned(), good: false, found: format!("none of {most} left"), fix }
        });
    }
    findings
}

/// Is the server there, and are its volumes shown?
async fn server(cloud: Cloud, vm: &str) -> Vec<Finding> {
    let about = match cloud.find(vm).await {
        Ok(about) => about,
        Err(error) => return vec![bad("server", &error)],
    };
    let mut findings =
        vec![good("server", format!("{}, {}", text(&about, "id"), text(&about, "status").to_lowercase()))];
    findings.push(match super::disks::of(&cloud.api, &about).await {
        Ok(disks) => {
            let names: Vec<_> = disks.iter().map(|disk| disk.name.as_str()).collect();
            good("disks of the server", names.join(", "))
        }
        Err(error) => bad("disks of the server", &error),
    });
    findings
}
