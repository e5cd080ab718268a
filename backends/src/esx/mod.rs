//! `esx+ssh://root@esx1#web01`: VMware ESXi by the shell of the host, with nothing installed there.
//!
//! Memory comes from a snapshot with memory (`vim-cmd vmsvc/snapshot.create`), or from suspending the VM if that is asked for;
//! disks from the files under that snapshot, which nobody writes while it is there. All of it is read with `dd`, file by file,
//! as it lies there, and `sha256sum` of the host is a second witness. At the end that snapshot is removed, and no other.
//!
//! With `files=https` in the address, bytes of files come by the host's datastore browser instead (`browser.rs`, `fetch.rs`), and all else
//! as before.
//!
//! Which commands are sent, and when: `command.rs` and `docs/esx.md`. What the host says is hostile: notes and host names of
//! guests are printed among its own words (`text.rs`, `listing.rs`).
//!
//! Tested against a double of ours (`tests/common/esx`): a real OpenSSH, BusyBox, and `vim-cmd` and `esxcli` rebuilt after public
//! texts of 6.x to 8.x; never against a real ESXi. Memory in its snapshots is that of a real guest.

mod address;
mod browser;
pub(crate) mod command;
mod disks;
mod fetch;
mod files;
mod items;
mod listing;
mod plan;
mod reading;
mod shell;
mod snapshot;
mod stream;
mod survey;
mod target;
mod text;
mod undo;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::{Access, Backend, BackendError, Finding, Host, Target, TargetSummary, Uri};
use address::{Address, Https};
use browser::Browser;
use shell::Shell;
use snapshot::Writer;
use survey::{Listed, Summary, Survey, TOOLS, tools, vms};
use target::EsxTarget;

/// The `esx+ssh` backend.
#[derive(Debug)]
pub struct Esx;

/// The number that a host gives a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct VmId(pub(crate) u32);

impl fmt::Display for VmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Runs every parser of this backend over one answer, for damaged samples and for fuzzing; fails if `kind`'s refuses it.
pub fn read(kind: &str, bytes: &[u8]) -> Result<(), String> {
    let text = String::from_utf8_lossy(bytes);
    match kind {
        "object" => {
            let read = text::parse(&text).map_err(|unread| unread.to_string())?;
            let mut found = Vec::new();
            read.all("vim.vm.device.VirtualDisk", &mut found);
            let writers = [Writer::Snapshot(Some(15)), Writer::Snapshot(None), Writer::Suspending];
            let _ = (snapshot::from_info(&read), writers.map(|writer| snapshot::saved(&read, writer)));
            let _ = Summary::of(VmId(5), &read);
            Ok(())
        }
        "table" => listing::vm_ids(&text, None).map(|_| ()),
        "volumes" => listing::volumes(&text).map(|_| ()),
        "snapshots" => listing::snapshot_tree(&text).map(|_| ()),
        "descriptor" => disks::descriptor(&text).map(|_| ()),
        _ => {
            let _ = (listing::tasks(&text), listing::stuns(&text), survey::settings(&text));
            listing::power_state(&text).map(|_| ())
        }
    }
}

/// The kinds of answer that [`read`] knows.
pub const KINDS: &[&str] = &["object", "table", "volumes", "snapshots", "descriptor", "state"];

#[async_trait]
impl Backend for Esx {
    fn scheme(&self) -> &'static str {
        "esx+ssh"
    }

    fn about(&self) -> &'static str {
        "VMware ESXi by its shell, files on demand by HTTPS; by name, number or UUID of the VM: esx+ssh://root@esx1#web01"
    }

    fn tested_against(&self) -> &'static str {
        "a double of ours over real OpenSSH, BusyBox and TLS, with memory of a real Linux guest; no real ESXi"
    }

    fn options(&self) -> &'static [&'static str] {
        &[plan::KEEP]
    }

    async fn connect(&self, uri: &Uri, access: &Access) -> Result<Box<dyn Host>, BackendError> {
        let Address { to, patience, https } = address::read(uri)?;
        Ok(Box::new(EsxHost { shell: Arc::new(Shell::connect(&to, access).await?), patience, https }))
    }

    async fn checkup(&self, uri: Option<&Uri>, access: &Access) -> Vec<Finding> {
        let Some(uri) = uri else { return Vec::new() };
        let bad = |what: String, error: &BackendError| Finding {
            what,
            good: false,
            found: error.to_string(),
            fix: error.advice.clone(),
        };
        let logged_in = match address::read(uri) {
            Ok(address) => Shell::connect(&address.to, access).await.map(|shell| (shell, address.https)),
            Err(error) => Err(error),
        };
        let (shell, https) = match logged_in {
            Ok(logged_in) => logged_in,
            Err(error) => return vec![bad(format!("log in at {}", uri.rest), &error)],
        };
        let there = match tools(&shell).await {
            Ok(there) => there,
            Err(error) => return vec![bad("tools of the host".to_owned(), &error)],
        };
        let mut findings: Vec<_> = TOOLS.iter().map(|(name, about)| tool(name, about, &there)).collect();
        let volumes = shell.volumes().await;
        findings.extend(volumes.iter().flatten().map(|volume| Finding {
            what: format!("datastore {}", volume.name),
            good: true,
            found: format!("{}, {} of {} MiB free", volume.kind, volume.free >> 20, volume.size >> 20),
            fix: None,
        }));
        findings.extend(volumes.err().map(|error| bad("datastores".to_owned(), &error)));
        if let Some(how) = https {
            let found = pages(&shell, &how).await;
            findings.push(found.unwrap_or_else(|error| bad("datastore browser".to_owned(), &error)));
        }
        findings
    }
}

fn tool(name: &str, about: &str, there: &[String]) -> Finding {
    let found = there.iter().any(|known| known == name);
    // Without a witness a capture is as complete as with one.
    let needed = name != "sha256sum";
    Finding {
        what: format!("{name} ({about})"),
        good: found || !needed,
        found: if found { "there" } else { "not there" }.to_owned(),
        fix: (!found && needed).then(|| "this is no ESXi, or its shell is another one than expected".to_owned()),
    }
}

/// Can files come by HTTPS?
async fn pages(shell: &Shell, how: &Https) -> Result<Finding, BackendError> {
    let browser = Browser::of(shell, how, &[]).await?;
    browser.hello().await?;
    let (what, found) = ("datastore browser".to_owned(), browser.told());
    let text = |key: &str| found.get(key).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
    let found = format!("{}, certificate {}, by {}", text("from"), text("certificate_sha256"), text("trusted_by"));
    Ok(Finding { what, good: true, found, fix: None })
}

struct EsxHost {
    shell: Arc<Shell>,
    patience: Duration,
    https: Option<Https>,
}

#[async_trait]
impl Host for EsxHost {
    async fn targets(&mut self) -> Result<Vec<TargetSummary>, BackendError> {
        let found = vms(&self.shell, None).await?;
        let target = |vm: Listed| match vm.summary {
            Ok(vm) => TargetSummary { name: vm.name, id: vm.uuid, state: vm.state, memory: vm.memory, cpus: vm.cpus },
            // One VM that says odd things does not hide the others.
            Err(error) => {
                let (name, state) = (vm.id.to_string(), format!("unknown: {}", error.why));
                TargetSummary { name, id: None, state, memory: None, cpus: None }
            }
        };
        Ok(found.into_iter().map(target).collect())
    }

    async fn open(&mut self, vm: Option<&str>) -> Result<Box<dyn Target>, BackendError> {
        let id = self.find(vm).await?;
        let survey = Survey::of(&self.shell, id).await?;
        Ok(Box::new(EsxTarget::new(Arc::clone(&self.shell), survey, self.patience, self.https.clone())))
    }
}

impl EsxHost {
    /// The VM of this number, name or UUID; without one the only one there is.
    async fn find(&self, wanted: Option<&str>) -> Result<VmId, BackendError> {
        let refuse = |why: String| BackendError::caller("choose a VM", self.shell.name(), why);
        let mut all = match wanted {
            // What holds the text is asked for, not each VM of a large host; a UUID stands in no row.
            Some(wanted) if !is_uuid(wanted) => vms(&self.shell, Some(wanted)).await?,
            _ => vms(&self.shell, None).await?,
        };
        if let Some(number) = wanted.and_then(|wanted| wanted.parse().ok()).map(VmId)
            && !all.iter().any(|vm| vm.id == number)
        {
            all.extend(Listed::ask(&self.shell, number).await?);
        }
        let (all, unread): (Vec<_>, Vec<_>) = all.into_iter().map(|vm| vm.summary).partition(Result::is_ok);
        let all: Vec<_> = all.into_iter().flatten().collect();
        let fits = |vm: &&Summary| {
            wanted.is_none_or(|wanted| {
                let same = |id: &Option<String>| id.as_deref().is_some_and(|id| id.eq_ignore_ascii_case(wanted));
                vm.name == wanted || vm.id.to_string() == wanted || same(&vm.uuid) || same(&vm.instance_uuid)
            })
        };
        let mut found: Vec<_> = all.iter().filter(fits).collect();
        if found.len() > 1 {
            let known: Vec<_> =
                found.iter().map(|vm| format!("{} (number {})", vm.name.escape_debug(), vm.id)).collect();
            return Err(refuse(format!("{} VMs could be meant: {}", found.len(), known.join(", ")))
                .advise("name one by its number: esx+ssh://root@esx1#12"));
        }
        match found.pop() {
            Some(vm) => Ok(vm.id),
            None if !unread.is_empty() => {
                Err(unread.into_iter().find_map(Result::err).unwrap_or_else(|| refuse(String::new())))
            }
            None => Err(refuse(format!("it has no VM {}", wanted.unwrap_or("at all").escape_debug()))
                .advise("list them: impound targets esx+ssh://root@esx1")),
        }
    }
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36 && text.chars().all(|c| c.is_ascii_hexdigit() || c == '-')
}
