//! Xen by its toolstack, on dom0 itself (`xen:///#vm`) or over SSH (`xen+ssh://root@dom0#vm`).
//!
//! `xl dump-core` is what the field does by hand, and its traps are closed here: it does not pause the guest (we do), it
//! writes a file (we give it a pipe), it hangs for good when nobody reads (its script and a watchdog on dom0 end it), and it leaves an
//! empty file when it fails (status and length are checked). The core is kept as Xen wrote it. Disks that are logical
//! volumes are taken from snapshots made while the guest stands still, so they are of the same instant as memory; others are read meanwhile.

mod config;
mod list;
mod plan;
mod reach;
mod scripts;
mod stream;
mod survey;
mod target;
mod undo;
mod volumes;
mod watchdog;

use async_trait::async_trait;

use crate::{Access, Backend, BackendError, Finding, Host, Target, TargetSummary, Uri};
use reach::Reach;
use survey::Dom0;
use target::XenTarget;

/// The `xen` backend: dom0 itself.
#[derive(Debug)]
pub struct Xen;

/// The `xen+ssh` backend: dom0 from elsewhere.
#[derive(Debug)]
pub struct XenSsh;

#[async_trait]
impl Backend for Xen {
    fn scheme(&self) -> &'static str {
        "xen"
    }

    fn about(&self) -> &'static str {
        "Xen, on dom0 itself: xen:///#web01"
    }

    fn tested_against(&self) -> &'static str {
        "a real Xen 4.17: memory of a PV guest and a disk, by the program itself on dom0 (by hand, and by a test that runs only when it is asked for)"
    }

    async fn connect(&self, uri: &Uri, access: &Access) -> Result<Box<dyn Host>, BackendError> {
        connect(uri, access).await
    }

    async fn checkup(&self, uri: Option<&Uri>, access: &Access) -> Vec<Finding> {
        checkup(uri, access).await
    }
}

#[async_trait]
impl Backend for XenSsh {
    fn scheme(&self) -> &'static str {
        "xen+ssh"
    }

    fn about(&self) -> &'static str {
        "Xen from elsewhere, by SSH to dom0: xen+ssh://root@dom0#web01"
    }

    fn tested_against(&self) -> &'static str {
        "a real Xen 4.17 with a Debian dom0: PV guests, LVM and file disks; a PVH guest by hand (GRUB, no Linux). HVM, qdisk, xm: not tested"
    }

    async fn connect(&self, uri: &Uri, access: &Access) -> Result<Box<dyn Host>, BackendError> {
        connect(uri, access).await
    }

    async fn checkup(&self, uri: Option<&Uri>, access: &Access) -> Vec<Finding> {
        checkup(uri, access).await
    }
}

async fn connect(uri: &Uri, access: &Access) -> Result<Box<dyn Host>, BackendError> {
    let reach = Reach::connect(uri, access).await?;
    Ok(Box::new(XenHost(Dom0::at(reach).await?)))
}

struct XenHost(Dom0);

#[async_trait]
impl Host for XenHost {
    async fn targets(&mut self) -> Result<Vec<TargetSummary>, BackendError> {
        self.0.targets().await
    }

    async fn open(&mut self, vm: Option<&str>) -> Result<Box<dyn Target>, BackendError> {
        Ok(Box::new(XenTarget::new(self.0.clone().survey(vm).await?)))
    }
}

/// Without an address there is nothing to look at: this machine is rarely a dom0.
async fn checkup(uri: Option<&Uri>, access: &Access) -> Vec<Finding> {
    let Some(uri) = uri else { return Vec::new() };
    let what = "Xen's toolstack".to_owned();
    let dom0 = match Reach::connect(uri, access).await {
        Ok(reach) => Dom0::at(reach).await,
        Err(error) => Err(error),
    };
    let dom0 = match dom0 {
        Ok(dom0) => dom0,
        Err(error) => return vec![Finding { what, good: false, found: error.to_string(), fix: error.advice }],
    };
    let tool = dom0.tool.name();
    let mut findings =
        vec![Finding { what, good: true, found: format!("{tool}, Xen {}", dom0.version().escape_debug()), fix: None }];
    for (program, need, fix) in scripts::NEEDED {
        let command = crate::wire::ssh::Command::script("command -v \"$1\"").arg(*program);
        let good = dom0.reach.run(&command).await.is_ok_and(|said| said.ending.good());
        let found = if good { "there" } else { "not there" }.to_owned();
        let what = format!("{program} on dom0: {need}");
        findings.push(Finding { what, good, found, fix: (!good).then(|| (*fix).to_owned()) });
    }
    findings
}

/// For the fuzzer: everything that dom0 prints and we read.
pub fn read_all(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let _ = list::rows(&text);
    let _ = list::info(&text, "xen_version");
    let _ = config::domains(bytes);
    let _ = stream::core_len(bytes);
    for line in text.lines() {
        let _ = volumes::line_of(line);
    }
}
