//! `azure://SUBSCRIPTION/GROUP#vm`: disks of an Azure virtual machine, by snapshots that are read by their written pages.
//!
//! A snapshot of each managed disk is taken through Azure Resource Manager (ARM), whether the guest runs or not; nothing is installed in
//! it and it does not notice. ARM then gives an address that lets whoever has it read the snapshot (a shared access signature), which is a
//! secret and is made void in the end, whatever happens. The snapshots stay, tagged with the run, so that a copy that broke off goes
//! on with the same ones. `azure://SUBSCRIPTION/GROUP#snapshot:NAME` takes a snapshot that is there already.
//!
//! Each snapshot holds one instant of its own disk. A restore point would give several disks a common one (crash-consistent), for
//! those sizes and kinds of disks that have it; that is not built.
//!
//! No API of Azure gives the memory of a machine. The serial console's log, the screen (boot diagnostics) and everything that ARM
//! says of the machine are exhibits of their own, taken before the snapshots, since they last less long.
//!
//! The tests run against Azurite for the blobs and a server of ours for ARM and Entra; no test ran on Azure itself.

mod address;
mod api;
mod blob;
mod credentials;
mod doctor;
mod entra;
mod exhibits;
mod operation;
mod sas;
mod settings;
mod snapshot;
mod taken;
mod target;
mod undo;
mod vhd;
mod vm;

use std::sync::Arc;

use async_trait::async_trait;

use crate::{Access, Backend, BackendError, Finding, Host, Target, TargetSummary, Uri};
use api::{Api, text};
use credentials::Caller;
use settings::Settings;
use taken::Taken;
use target::Vm;

/// What stands before the name of a snapshot, which no machine's name can hold.
const SNAPSHOT: &str = "snapshot:";

/// The `azure` backend.
#[derive(Debug)]
pub struct Azure;

#[async_trait]
impl Backend for Azure {
    fn scheme(&self) -> &'static str {
        "azure"
    }

    fn about(&self) -> &'static str {
        "an Azure VM's managed disks by snapshots: azure://SUBSCRIPTION/GROUP#web01"
    }

    fn tested_against(&self) -> &'static str {
        "Azurite 3.35 (page blobs), a server of ours for ARM, Entra and IMDS; not Azure itself"
    }

    async fn connect(&self, uri: &Uri, access: &Access) -> Result<Box<dyn Host>, BackendError> {
        let place = Place::of(uri)?;
        let api = Arc::new(Api::new(&place.subscription, &Settings::load(), access)?);
        let caller = api.bearer.caller().await?;
        Ok(Box::new(Group { api, caller, place }))
    }

    async fn checkup(&self, uri: Option<&Uri>, access: &Access) -> Vec<Finding> {
        match uri {
            Some(uri) => doctor::checkup(uri, access).await,
            None => Vec::new(),
        }
    }
}

/// A resource group of a subscription.
#[derive(Debug, Clone)]
struct Place {
    subscription: String,
    /// Its path at ARM.
    group: String,
}

impl Place {
    /// Out of `azure://SUBSCRIPTION/GROUP`.
    fn of(uri: &Uri) -> Result<Self, BackendError> {
        let rest = uri.rest.strip_prefix("//").unwrap_or(&uri.rest).trim_end_matches('/');
        let refuse = |why: &str| {
            BackendError::caller("read the target's address", uri.to_string(), why.to_owned())
                .advise("write azure://SUBSCRIPTION/GROUP#VM; az account show says the subscription's id")
        };
        let (subscription, group) = rest.split_once('/').ok_or_else(|| refuse("it names no resource group"))?;
        let plain = |c: u8| c.is_ascii_hexdigit() || c == b'-';
        if subscription.len() != 36 || !subscription.bytes().all(plain) {
            return Err(refuse("a subscription is named by its id, as 00000000-0000-0000-0000-000000000000"));
        }
        let path = format!("/subscriptions/{subscription}/resourceGroups/{group}");
        if group.contains('/') || address::check_id(&path).is_err() {
            return Err(refuse("no resource group has such a name"));
        }
        Ok(Self { subscription: subscription.to_owned(), group: path })
    }

    /// What is called so among things of a kind.
    fn named(&self, kind: &str, name: &str) -> Result<String, BackendError> {
        let id = format!("{}/providers/Microsoft.Compute/{kind}/{name}", self.group);
        if name.contains('/') || address::check_id(&id).is_err() {
            return Err(BackendError::caller("open a target", name, "nothing in Azure has such a name"));
        }
        Ok(id)
    }

    fn machine(&self, name: &str) -> Result<String, BackendError> {
        self.named("virtualMachines", name)
    }
}

/// A group with the eyes of one caller.
struct Group {
    api: Arc<Api>,
    caller: Caller,
    place: Place,
}

#[async_trait]
impl Host for Group {
    async fn targets(&mut self) -> Result<Vec<TargetSummary>, BackendError> {
        let machines = vm::list(&self.api, &self.place.group).await?;
        let summary = |(about, state): (serde_json::Value, String)| TargetSummary {
            name: text(&about, "/name").to_owned(),
            id: Some(text(&about, "/properties/vmId").to_owned()).filter(|id| !id.is_empty()),
            state,
            memory: None,
            cpus: None,
        };
        Ok(machines.into_iter().map(summary).collect())
    }

    async fn open(&mut self, vm: Option<&str>) -> Result<Box<dyn Target>, BackendError> {
        let place = self.place.clone();
        let vm = vm.ok_or_else(|| {
            BackendError::caller("open a virtual machine", &place.group, "no virtual machine is named")
                .advise("impound targets azure://SUBSCRIPTION/GROUP lists them")
        })?;
        if let Some(name) = vm.strip_prefix(SNAPSHOT) {
            let snapshot = snapshot::get(&self.api, &place.named("snapshots", name)?).await?;
            return Ok(Box::new(Taken::new(&self.api, &self.caller, place, snapshot)));
        }
        let machine = vm::Machine::open(&self.api, &place.machine(vm)?).await?;
        Ok(Box::new(Vm::new(&self.api, &self.caller, place, machine)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_a_subscription_and_a_group() {
        let of = |text: &str| Place::of(&text.parse().unwrap());
        let sub = "0a000000-0000-0000-0000-000000000001";
        let place = of(&format!("azure://{sub}/my_group.(1)#web01")).unwrap();
        assert_eq!(place.group, format!("/subscriptions/{sub}/resourceGroups/my_group.(1)"));
        assert!(place.machine("web01").unwrap().ends_with("/Microsoft.Compute/virtualMachines/web01"));
        assert!(place.machine("..").is_err() && place.machine("a?b").is_err());
        for bad in [
            "azure://x/g".to_owned(),
            format!("azure://{sub}"),
            format!("azure://{sub}/"),
            format!("azure://{sub}/a/b"),
            format!("azure://{sub}/.."),
            format!("azure://{sub}/a?b"),
        ] {
            assert!(of(&bad).is_err(), "{bad}");
        }
    }
}
