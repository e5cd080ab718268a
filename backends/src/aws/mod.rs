//! `aws://REGION#i-…`: disks of an EC2 instance, by snapshots of one instant that are read block by block (EBS direct).
//!
//! `CreateSnapshots` fixes one instant for all volumes, whether the guest runs or not; nothing is installed in it and it does
//! not notice. The snapshots stay in the account, tagged with the run and on demand locked, so that a copy that broke off goes on with
//! the same ones, and they can be shared with an account for evidence and copied there. `aws://REGION#snap-…` takes a snapshot that is there already.
//!
//! No API of AWS gives the memory of an instance. Console log, screenshot and everything that EC2 says of the instance are
//! exhibits of their own, taken before the snapshots, since they last less long.
//!
//! The tests run against moto for EC2 and STS, and a server of ours for EBS direct and KMS; no test ran on AWS itself.

mod acts;
mod api;
mod blocks;
mod copies;
mod copy;
mod credentials;
mod doctor;
mod ebs;
mod ec2;
mod exhibits;
mod isolate;
mod kms;
mod lock;
mod remote;
mod settings;
mod share;
mod sign;
mod since;
mod snapshot;
mod target;
mod undo;

use std::sync::Arc;

use async_trait::async_trait;
use serde::Serialize;

use crate::{Access, Backend, BackendError, Finding, Host, Target, TargetSummary, Uri};
use api::Api;
use settings::Settings;
use target::Instance;

/// The `aws` backend.
#[derive(Debug)]
pub struct Aws;

/// Who asks, as STS tells it.
#[derive(Debug, Clone, Serialize)]
struct Caller {
    account: String,
    arn: String,
    /// Where the keys came from.
    credentials: String,
}

#[async_trait]
impl Backend for Aws {
    fn scheme(&self) -> &'static str {
        "aws"
    }

    fn about(&self) -> &'static str {
        "an EC2 instance's volumes by EBS snapshots: aws://eu-west-1#i-0123456789abcdef0"
    }

    fn tested_against(&self) -> &'static str {
        "moto 5.2 (EC2, STS; botocore checks signatures), a server of ours for EBS direct and KMS; not AWS itself"
    }

    fn options(&self) -> &'static [&'static str] {
        &[lock::OPTION, share::OPTION, copy::OPTION, copy::REGION, copy::KEY, isolate::OPTION, "since"]
    }

    async fn connect(&self, uri: &Uri, access: &Access) -> Result<Box<dyn Host>, BackendError> {
        let api = Arc::new(Api::new(region(uri)?, &Settings::load()?, access)?);
        let caller = caller(&api).await?;
        Ok(Box::new(Region { api, caller, access: access.clone() }))
    }

    async fn checkup(&self, uri: Option<&Uri>, access: &Access) -> Vec<Finding> {
        match uri {
            Some(uri) => doctor::checkup(uri, access).await,
            None => Vec::new(),
        }
    }
}

/// `eu-west-1` out of `aws://eu-west-1`.
fn region(uri: &Uri) -> Result<&str, BackendError> {
    let region = uri.rest.strip_prefix("//").unwrap_or(&uri.rest).trim_end_matches('/');
    if !is_region(region) {
        return Err(BackendError::caller("read the target's address", uri.to_string(), "it names no region")
            .advise("write aws://REGION#INSTANCE, as aws://eu-west-1#i-0123456789abcdef0"));
    }
    Ok(region)
}

/// `eu-west-1`, in an address and in a command.
fn is_region(name: &str) -> bool {
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    (1..=40).contains(&name.len()) && !name.starts_with('-') && name.bytes().all(plain)
}

/// Needs no permission; so it tells first of all whether the keys are good.
async fn caller(api: &Api) -> Result<Caller, BackendError> {
    let answer = api.sts("ask who the keys belong to", "GetCallerIdentity").await?;
    let text = |name: &str| answer.get(&format!("GetCallerIdentityResult/{name}")).unwrap_or("unknown").to_owned();
    let credentials = api.credentials.keys().await?.from;
    Ok(Caller { account: text("Account"), arn: text("Arn"), credentials })
}

/// A region with the eyes of one caller.
struct Region {
    api: Arc<Api>,
    caller: Caller,
    /// For the other account, if copies go to one.
    access: Access,
}

#[async_trait]
impl Host for Region {
    async fn targets(&mut self) -> Result<Vec<TargetSummary>, BackendError> {
        let instances = self.api.instances(None).await?;
        let summary = |about: &crate::wire::http::xml::Element| {
            let id = about.get("instanceId").unwrap_or("unknown").to_owned();
            TargetSummary {
                id: ec2::tags(about).remove("Name"),
                state: about.get("instanceState/name").unwrap_or("unknown").to_owned(),
                memory: None,
                cpus: target::cpus(about),
                name: id,
            }
        };
        Ok(instances.iter().map(summary).collect())
    }

    async fn open(&mut self, vm: Option<&str>) -> Result<Box<dyn Target>, BackendError> {
        let vm = vm.ok_or_else(|| {
            BackendError::caller("open an instance", &self.api.region, "no instance is named")
                .advise(format!("impound targets aws://{}", self.api.region))
        })?;
        if ec2::is_id(vm, "snap-") {
            return snapshot::open(&self.api, &self.caller, vm).await;
        }
        if !ec2::is_id(vm, "i-") {
            return Err(BackendError::caller("open an instance", vm, "this is the id of no instance and no snapshot")
                .advise("an instance is called i-0123456789abcdef0, a snapshot snap-0123456789abcdef0"));
        }
        let about = self.api.instances(Some(vm)).await?.pop();
        let about = about.ok_or_else(|| BackendError::caller("open an instance", vm, "EC2 does not list it"))?;
        let volumes = self.api.volumes(&about).await?;
        Ok(Box::new(Instance::new(&self.api, &self.caller, &self.access, about, volumes)))
    }
}
