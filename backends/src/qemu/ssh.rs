//! QEMU on another machine: `qmp+ssh://root@kvm1/run/web01.qmp`.
//!
//! The monitor and the disks come by its sockets, memory by a port of its loopback that leads back, all carried by SSH. What
//! differs from a QEMU on this machine is in `machine`, `place`, `spool` and `watchman`; everything else is the same.

use async_trait::async_trait;

use super::dial::{Dial, Dialled};
use super::machine::Machine;
use super::{QemuHost, finding, seen, watchman};
use crate::wire::ssh::Destination;
use crate::{Access, Backend, BackendError, Finding, Host, Uri};

/// The `qmp+ssh` backend.
#[derive(Debug)]
pub struct QemuSsh;

#[async_trait]
impl Backend for QemuSsh {
    fn scheme(&self) -> &'static str {
        "qmp+ssh"
    }

    fn about(&self) -> &'static str {
        "QEMU on another machine by its QMP socket, over SSH: qmp+ssh://root@kvm1/run/web01.qmp"
    }

    fn tested_against(&self) -> &'static str {
        "QEMU 7.2 and 10.0 behind OpenSSH 9.2 on loopback, links that break included"
    }

    fn options(&self) -> &'static [&'static str] {
        &[super::quiesce::QUIESCE]
    }

    async fn connect(&self, uri: &Uri, access: &Access) -> Result<Box<dyn Host>, BackendError> {
        QemuHost::dial(dial(uri, access)?, uri, access).await
    }

    async fn checkup(&self, uri: Option<&Uri>, access: &Access) -> Vec<Finding> {
        let Some(uri) = uri else { return Vec::new() };
        let what = format!("QMP at {uri}");
        let dialled = match dial(uri, access) {
            Ok(dial) => dial.dial().await,
            Err(error) => Err(error),
        };
        match dialled {
            Ok(Dialled { mut qmp, machine }) => {
                let mut findings = vec![finding(what, seen(&mut qmp).await)];
                if let Some(machine) = machine {
                    findings.push(watch(&machine).await);
                }
                findings
            }
            Err(error) => vec![finding(what, Err(error))],
        }
    }
}

fn dial(uri: &Uri, access: &Access) -> Result<Dial, BackendError> {
    let (to, path) = Destination::parse(&uri.rest)?;
    if path.len() < 2 {
        return Err(BackendError::caller("connect to QEMU", uri.to_string(), "it names no socket")
            .advise("write qmp+ssh://root@kvm1/run/web01.qmp"));
    }
    Ok(Dial::Ssh { to, path: path.to_owned(), access: access.clone() })
}

/// Can somebody over there let the guest go if the link breaks?
async fn watch(machine: &Machine) -> Finding {
    let what = "somebody to let the guest go if the link breaks".to_owned();
    match watchman::possible(machine, "socket").await {
        Ok(way) => Finding { what, good: true, found: format!("by {way} over there"), fix: None },
        Err(error) => Finding { what, good: false, found: error.why, fix: Some("install python3 there".to_owned()) },
    }
}
