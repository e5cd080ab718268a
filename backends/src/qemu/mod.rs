//! QEMU by its own protocol: `qmp:/run/web01.qmp`.
//!
//! One monitor socket is one VM, on this machine or, as `qmp+ssh://root@kvm1/run/web01.qmp` (`ssh`), on another;
//! libvirt (`libvirt`) is a third way to one. Memory comes by the method that probing finds best (`methods`), disks by fleecing
//! (`disks`); both of one instant. Every change has its inverse in `undo`, written into the case's journal before it is
//! made.

pub mod agent;
mod assemble;
mod captures;
mod config;
mod dial;
mod disks;
pub mod dump;
pub mod flatview;
mod held;
#[cfg(feature = "ssh")]
mod libvirt;
mod live;
mod machine;
mod methods;
mod pieces;
mod pipe;
mod place;
mod plan;
mod quiesce;
mod registers;
mod session;
mod snapshot;
mod spool;
#[cfg(feature = "ssh")]
mod ssh;
mod stall;
pub mod stream;
mod survey;
mod target;
mod undo;
#[cfg(feature = "ssh")]
mod watchman;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;

use crate::wire::qmp::Qmp;
use crate::{Access, Backend, BackendError, Finding, Host, Target, TargetSummary, Uri, WireLog};
use dial::{Dial, Dialled};
#[cfg(feature = "ssh")]
pub use libvirt::Libvirt;
#[cfg(feature = "ssh")]
pub use ssh::QemuSsh;
use survey::Survey;
use target::QemuTarget;

/// The `qmp` backend.
#[derive(Debug)]
pub struct Qemu;

#[async_trait]
impl Backend for Qemu {
    fn scheme(&self) -> &'static str {
        "qmp"
    }

    fn about(&self) -> &'static str {
        "QEMU on this machine by its QMP socket: qmp:/run/web01.qmp"
    }

    fn tested_against(&self) -> &'static str {
        "QEMU 7.2 and 10.0 (TCG, pc and q35), real Linux guests, qemu-ga 7.2"
    }

    fn options(&self) -> &'static [&'static str] {
        &[quiesce::QUIESCE]
    }

    async fn connect(&self, uri: &Uri, access: &Access) -> Result<Box<dyn Host>, BackendError> {
        let path = PathBuf::from(&uri.rest);
        if !path.is_absolute() {
            return Err(BackendError::caller(
                "connect to QEMU",
                uri.to_string(),
                "the path of the socket is not absolute",
            ));
        }
        QemuHost::dial(Dial::Socket { path, wire: Arc::clone(&access.wire) }, uri, access).await
    }

    async fn checkup(&self, uri: Option<&Uri>, _access: &Access) -> Vec<Finding> {
        let mut findings = vec![userfaultfd()];
        if let Some(uri) = uri {
            findings.extend(monitor(Path::new(&uri.rest)).await);
        }
        findings
    }
}

/// A monitor, whichever way it is reached.
struct QemuHost {
    dialled: Option<Dialled>,
    dial: Dial,
    wire: Arc<dyn WireLog>,
    on: String,
}

impl QemuHost {
    async fn dial(dial: Dial, uri: &Uri, access: &Access) -> Result<Box<dyn Host>, BackendError> {
        let dialled = Some(dial.dial().await?);
        Ok(Box::new(Self { dialled, dial, wire: Arc::clone(&access.wire), on: uri.to_string() }))
    }
}

#[async_trait]
impl Host for QemuHost {
    async fn targets(&mut self) -> Result<Vec<TargetSummary>, BackendError> {
        let dialled = self.dialled.as_mut().ok_or_else(|| opened_twice(&self.on))?;
        let survey = Survey::make(&mut dialled.qmp).await?;
        Ok(vec![TargetSummary {
            id: survey.uuid(),
            memory: survey.memory(),
            cpus: survey.cpus(),
            name: survey.name,
            state: survey.state,
        }])
    }

    async fn open(&mut self, vm: Option<&str>) -> Result<Box<dyn Target>, BackendError> {
        let dialled = self.dialled.take().ok_or_else(|| opened_twice(&self.on))?;
        let target = QemuTarget::open(dialled, self.dial.clone(), Arc::clone(&self.wire)).await?;
        target.check_name(vm)?;
        Ok(Box::new(target))
    }
}

fn opened_twice(on: &str) -> BackendError {
    BackendError::caller("open the VM", on, "this connection has been used up; connect again")
}

/// May QEMU protect pages against writing, which snapshots of memory need?
fn userfaultfd() -> Finding {
    let path = "/proc/sys/vm/unprivileged_userfaultfd";
    let allowed = std::fs::read_to_string(path).map(|text| text.trim().to_owned());
    let good = allowed.as_ref().is_ok_and(|text| text == "1");
    Finding {
        what: "userfaultfd for snapshots of memory".to_owned(),
        // Root and privileged QEMUs may use it in any case.
        good: good || allowed.is_ok(),
        found: match allowed {
            Ok(text) if text == "1" => "every QEMU may use it".to_owned(),
            Ok(_) => "only a QEMU that runs as root may use it; others are dumped with the guest stopped".to_owned(),
            Err(_) => "this kernel has none: memory is dumped with the guest stopped".to_owned(),
        },
        fix: (!good).then(|| "sysctl vm.unprivileged_userfaultfd=1".to_owned()),
    }
}

async fn monitor(path: &Path) -> Vec<Finding> {
    let what = format!("QMP at {}", path.display());
    match Qmp::connect(path, Arc::new(crate::NoLog)).await {
        Ok(mut qmp) => vec![finding(what, seen(&mut qmp).await)],
        Err(error) => vec![finding(what, Err(error))],
    }
}

/// What a monitor shows, in a line.
async fn seen(qmp: &mut Qmp) -> Result<String, BackendError> {
    let survey = Survey::make(qmp).await?;
    let state = format!("QEMU {}, guest `{}` {}", survey.version_text(), survey.name.escape_debug(), survey.state);
    Ok([vec![state, survey.agent.clone()], survey.warnings()].concat().join("; "))
}

fn finding(what: String, found: Result<String, BackendError>) -> Finding {
    match found {
        Ok(found) => Finding { what, good: true, found, fix: None },
        Err(error) => Finding { what, good: false, found: error.why, fix: error.advice },
    }
}
