//! `openstack://CLOUD#server`: disks of a server of an OpenStack cloud, by snapshots that become images of Glance.
//!
//! A server's own disk becomes an image by Nova (`createImage`). A volume becomes a snapshot of Cinder, a temporary volume made of
//! that, and an image of it (`os-volume_upload_image`): Cinder gives its bytes in no other way. Nova's `createImage` of a server that
//! boots from a volume does the same snapshots, but it names them itself and not after the run, so nobody finds them after a kill; and
//! what it makes is an image without bytes. So Cinder is asked, for all volumes at once. Snapshots and images stay in the
//! project, named after the run; the temporary volumes are removed, by `case recover` if the run died.
//!
//! No API of OpenStack gives the memory of a server. Console log and everything that Nova and Cinder say are exhibits of their own,
//! taken before the snapshots, since they last less long.
//!
//! The tests run against a real Keystone and a real Glance; Nova and Cinder are doubles of ours that end in that Glance.

mod api;
mod cinder;
mod copy;
mod disks;
mod doctor;
mod exhibits;
mod fetch;
mod glance;
mod keystone;
mod login;
mod nova;
mod place;
mod settings;
mod take;
mod target;
mod told;
mod undo;
mod yaml;

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use crate::{Access, Backend, BackendError, Finding, Host, Target, TargetSummary, Uri};
use api::Api;
use settings::Settings;

/// The `openstack` backend.
#[derive(Debug)]
pub struct Openstack;

#[async_trait]
impl Backend for Openstack {
    fn scheme(&self) -> &'static str {
        "openstack"
    }

    fn about(&self) -> &'static str {
        "an OpenStack server's disks by snapshots and images, cloud by its name in clouds.yaml: openstack://mycloud#web01"
    }

    fn tested_against(&self) -> &'static str {
        "Keystone 30 and Glance 33 (file store); doubles of ours for Nova and Cinder; not a whole cloud"
    }

    async fn connect(&self, uri: &Uri, access: &Access) -> Result<Box<dyn Host>, BackendError> {
        let api = Arc::new(Api::new(Settings::load(cloud(uri)?)?, access)?);
        // So it is known first of all whether the credentials are good.
        api.who().await?;
        Ok(Box::new(Cloud { api }))
    }

    async fn checkup(&self, uri: Option<&Uri>, access: &Access) -> Vec<Finding> {
        match uri {
            Some(uri) => doctor::checkup(uri, access).await,
            None => Vec::new(),
        }
    }
}

/// `mycloud` out of `openstack://mycloud`.
fn cloud(uri: &Uri) -> Result<&str, BackendError> {
    let name = uri.rest.strip_prefix("//").unwrap_or(&uri.rest).trim_end_matches('/');
    let plain = |c: char| c.is_alphanumeric() || "._-@:+".contains(c);
    if name.is_empty() || name.len() > 128 || name.starts_with('-') || !name.chars().all(plain) {
        return Err(BackendError::caller("read the target's address", uri.to_string(), "it names no cloud")
            .advise("write openstack://CLOUD#SERVER with a name of clouds.yaml, or openstack://envvars#SERVER"));
    }
    Ok(name)
}

/// Could this be an id? It is put into paths, so it holds nothing that divides them.
fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// A text of an object; empty if there is none.
fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// What everything is called that a run makes for a disk: `of` is the id of its volume, or of the server itself.
fn name_of(run: &str, of: &str) -> String {
    format!("impound-{run}-{of}")
}

/// What the snapshots of a run are called, all alike, as those of a group are.
fn snapshot_name(run: &str) -> String {
    format!("impound-{run}")
}

/// A project with the eyes of one caller.
struct Cloud {
    api: Arc<Api>,
}

impl Cloud {
    /// The server of this id, or the only one of this name.
    async fn find(&self, vm: &str) -> Result<Value, BackendError> {
        if is_id(vm) && vm.len() >= 32 {
            match self.api.server(vm).await {
                Err(refused) if refused.status == 404 => {}
                found => return Ok(found?),
            }
        }
        let servers = self.api.servers().await?;
        let mut named: Vec<_> = servers.into_iter().filter(|server| text(server, "name") == vm).collect();
        match (named.pop(), named.len()) {
            (Some(server), 0) if is_id(text(&server, "id")) => Ok(server),
            (Some(server), more) if more > 0 => {
                let ids: Vec<_> = named.iter().chain([&server]).map(|server| text(server, "id")).collect();
                let why = format!("several servers are called so: {}", ids.join(", "));
                Err(BackendError::caller("open a server", vm, why).advise("name it by its id"))
            }
            _ => Err(BackendError::caller("open a server", vm, "Nova lists none of this name or id in this project")),
        }
    }
}

#[async_trait]
impl Host for Cloud {
    async fn targets(&mut self) -> Result<Vec<TargetSummary>, BackendError> {
        let summary = |server: &Value| TargetSummary {
            name: text(server, "name").to_owned(),
            id: Some(text(server, "id").to_owned()),
            state: text(server, "status").to_lowercase(),
            memory: target::memory(server),
            cpus: target::cpus(server),
        };
        Ok(self.api.servers().await?.iter().map(summary).collect())
    }

    async fn open(&mut self, vm: Option<&str>) -> Result<Box<dyn Target>, BackendError> {
        let vm = vm.ok_or_else(|| {
            BackendError::caller("open a server", &self.api.settings.from, "no server is named")
                .advise("impound targets openstack://CLOUD lists them")
        })?;
        let about = self.find(vm).await?;
        let who = self.api.who().await?;
        let disks = disks::of(&self.api, &about).await?;
        let promise = take::promise(&self.api, &disks).await;
        Ok(Box::new(target::Server::new(&self.api, who, about, disks, promise)))
    }
}
