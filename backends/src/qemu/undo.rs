//! Every change impound makes to a QEMU has its inverse here. The end of a run and the recovery of a killed one take the
//! same way, so what is tested at each ordinary end also works after the worst one.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::machine::Machine;
use super::quiesce::Channel;
use crate::wire::qmp::Qmp;
use crate::{BackendError, Undo};

/// In front of every name that impound makes inside QEMU. Recovery touches nothing else.
pub(super) const PREFIX: &str = "impound-";
/// The object that marks a VM as taken.
pub(super) const CLAIM: &str = "impound-claim";
/// The migration capabilities that a snapshot needs.
pub(super) const CAPABILITIES: &[&str] = &["background-snapshot"];
/// How long a snapshot may take to end by itself.
const ENDS_ITSELF: Duration = Duration::from_secs(10);
/// How long a job may take to end after it was told to.
const JOB_TIME: Duration = Duration::from_secs(60);
/// How long a dump of memory may take. It cannot be cancelled, and whoever lets the guest go has to wait for its end.
pub(super) const DUMP_TIME: Duration = Duration::from_secs(3600);

/// One thing to take back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "undo", rename_all = "kebab-case")]
pub(super) enum QemuUndo {
    /// Put the run state back: `running` or not.
    RunState { running: bool },
    /// Thaw the guest's file systems.
    FileSystems,
    /// Give the VM free for other runs, if it is still this holder that has it.
    Release { holder: String },
    /// Set a migration capability back.
    Capability { name: String, on: bool },
    /// Set the bandwidth of migrations back, in bytes a second.
    Bandwidth { max: u64 },
    /// End the migration that carries memory, if it still runs.
    Migration,
    /// Wait for a memory dump to end: it cannot be cancelled, but it ends when its reader is gone.
    Dump,
    /// Close a descriptor that waits under a name.
    NamedFd { name: String },
    /// Close a set of descriptors.
    FdSet { id: u64 },
    /// End a job.
    Job { id: String },
    /// Remove a block node.
    Node { name: String },
    /// Remove an NBD export.
    Export { id: String },
    /// Stop the NBD server.
    NbdServer,
    /// Take away a folder on the machine that QEMU runs on.
    Folder { path: String },
}

impl QemuUndo {
    /// As the journal keeps it.
    pub(super) fn for_journal(&self) -> Undo {
        Undo {
            say: self.say(),
            holds_guest: self.holds_guest(),
            how: serde_json::to_value(self).unwrap_or(Value::Null),
        }
    }

    /// Does the guest stand still, or what writes in it, until this is taken back?
    pub(super) fn holds_guest(&self) -> bool {
        matches!(self, Self::RunState { running: true } | Self::FileSystems)
    }

    /// Reads what a journal kept. The journal may be forged: only what impound itself could have made is accepted.
    pub(super) fn from_journal(undo: &Undo) -> Result<Self, BackendError> {
        let refuse =
            |why: String| BackendError::corrupt("read the journal", &undo.say, "an act", "one of impound's", why);
        let read: Self = serde_json::from_value(undo.how.clone()).map_err(|e| refuse(e.to_string()))?;
        let name = match &read {
            Self::NamedFd { name } | Self::Node { name } => name,
            Self::Job { id } | Self::Export { id } => id,
            Self::Capability { name, .. } if CAPABILITIES.contains(&name.as_str()) => return Ok(read),
            Self::Capability { name, .. } => return Err(refuse(format!("capability {name}"))),
            Self::Folder { path } if is_our_folder(path) => return Ok(read),
            Self::Folder { path } => return Err(refuse(format!("folder {path}"))),
            _ => return Ok(read),
        };
        if name.starts_with(PREFIX) { Ok(read) } else { Err(refuse(format!("`{name}`"))) }
    }

    /// In words.
    pub(super) fn say(&self) -> String {
        match self {
            Self::RunState { running: true } => "let the guest run again".to_owned(),
            Self::RunState { running: false } => "keep the guest stopped, as it was found".to_owned(),
            Self::FileSystems => "thaw the guest's file systems".to_owned(),
            Self::Release { .. } => "give the VM free for other runs".to_owned(),
            Self::Capability { name, on } => format!("set migration capability {name} back to {on}"),
            Self::Bandwidth { max } => format!("set migration bandwidth back to {max} B/s"),
            Self::Migration => "end the memory snapshot".to_owned(),
            Self::Dump => "wait for the memory dump to end".to_owned(),
            Self::NamedFd { name } => format!("close descriptor {name}"),
            Self::FdSet { id } => format!("close descriptor set {id}"),
            Self::Job { id } => format!("end job {id}"),
            Self::Node { name } => format!("remove block node {name}"),
            Self::Export { id } => format!("remove export {id}"),
            Self::NbdServer => "stop the NBD server".to_owned(),
            Self::Folder { path } => format!("take away the folder {path}"),
        }
    }

    /// Takes it back. What is already gone is fine. `machine`: where QEMU runs, if it is reached by names.
    pub(super) async fn apply(
        &self,
        qmp: &mut Qmp,
        machine: Option<&Machine>,
        channel: &mut Channel,
    ) -> Result<(), BackendError> {
        match self {
            Self::FileSystems => channel.thaw(qmp, machine).await,
            Self::RunState { running } => put_run_state(qmp, *running).await,
            Self::Release { holder } => release(qmp, holder).await,
            Self::Capability { name, on } => {
                let change = json!({ "capabilities": [{ "capability": name, "state": on }] });
                qmp.ask("migrate-set-capabilities", change).await.map(|_| ())
            }
            Self::Bandwidth { max } => {
                qmp.ask("migrate-set-parameters", json!({ "max-bandwidth": max })).await.map(|_| ())
            }
            Self::Migration => end_migration(qmp).await,
            Self::Dump => {
                until(qmp, "query-dump", DUMP_TIME, |dump| dump.get("status") != Some(&json!("active"))).await
            }
            Self::NamedFd { name } => gone_is_fine(qmp, "closefd", json!({ "fdname": name }), "not found").await,
            Self::FdSet { id } => gone_is_fine(qmp, "remove-fd", json!({ "fdset-id": id }), "not found").await,
            Self::Job { id } => end_job(qmp, id).await,
            Self::Node { name } => remove_node(qmp, name).await,
            Self::Export { id } => remove_export(qmp, id).await,
            Self::NbdServer => stop_nbd(qmp).await,
            Self::Folder { path } => match machine {
                Some(machine) => machine.remove_folder(path).await,
                None => Err(BackendError::caller(self.say(), qmp.name(), "it is on another machine")),
            },
        }
    }
}

/// An absolute path without detours, to a folder with a name that impound gives.
fn is_our_folder(path: &str) -> bool {
    let steps: Vec<_> = path.split('/').collect();
    let ours = steps.last().is_some_and(|name| name.starts_with(PREFIX));
    path.starts_with('/') && ours && !steps.contains(&"..") && !path.contains('\0')
}

/// Runs a removal; an error whose words hold `gone` means that there is nothing to remove.
async fn gone_is_fine(qmp: &mut Qmp, command: &str, arguments: Value, gone: &str) -> Result<(), BackendError> {
    match qmp.ask(command, arguments).await {
        Err(error) if error.why.contains(gone) => Ok(()),
        other => other.map(|_| ()),
    }
}

/// Asks again and again until the answer is as wanted. QEMU has no event for each of these ends.
async fn until(
    qmp: &mut Qmp,
    query: &str,
    time: Duration,
    wanted: impl Fn(&Value) -> bool,
) -> Result<(), BackendError> {
    let deadline = tokio::time::Instant::now() + time;
    loop {
        if wanted(&qmp.ask(query, Value::Null).await?) {
            return Ok(());
        }
        if tokio::time::Instant::now() > deadline {
            return Err(BackendError::unsupported(
                format!("wait for {query}"),
                qmp.name(),
                format!("it did not end within {} s", time.as_secs()),
            ));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn release(qmp: &mut Qmp, ours: &str) -> Result<(), BackendError> {
    if holder(qmp).await.as_deref() == Some(ours) {
        gone_is_fine(qmp, "object-del", json!({ "id": CLAIM }), "not found").await?;
    }
    Ok(())
}

/// Who has taken the VM, if anybody has.
pub(super) async fn holder(qmp: &mut Qmp) -> Option<String> {
    let ask = json!({ "path": format!("/objects/{CLAIM}"), "property": "identity" });
    qmp.ask("qom-get", ask).await.ok()?.as_str().map(ToOwned::to_owned)
}

async fn put_run_state(qmp: &mut Qmp, running: bool) -> Result<(), BackendError> {
    let status = qmp.ask("query-status", Value::Null).await?;
    let runs = status.get("running") == Some(&Value::Bool(true));
    match (running, runs) {
        (true, false) => cont(qmp).await,
        (false, true) => qmp.run(&qapi::qmp::stop {}).await.map(|_| ()),
        _ => Ok(()),
    }
}

/// Lets the guest run. QEMU refuses that while it dumps; a dump whose reader is gone ends a moment later, one into a file when it is whole.
pub(super) async fn cont(qmp: &mut Qmp) -> Result<(), BackendError> {
    let deadline = tokio::time::Instant::now() + DUMP_TIME;
    loop {
        match qmp.run(&qapi::qmp::cont {}).await {
            Err(error) if error.why.contains("dump in process") && tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            other => return other.map(|_| ()),
        }
    }
}

async fn end_migration(qmp: &mut Qmp) -> Result<(), BackendError> {
    let over = |state: &Value| {
        let status = state.get("status").and_then(Value::as_str).unwrap_or("none");
        matches!(status, "none" | "completed" | "failed" | "cancelled")
    };
    // It ends by itself: all was read, or the pipe is closed. To cancel what is about to complete would only blur that.
    if until(qmp, "query-migrate", ENDS_ITSELF, over).await.is_ok() {
        return Ok(());
    }
    qmp.run(&qapi::qmp::migrate_cancel {}).await?;
    until(qmp, "query-migrate", JOB_TIME, over).await
}

/// Ends a job and forgets it. One that is gone is fine.
pub(super) async fn end_job(qmp: &mut Qmp, id: &str) -> Result<(), BackendError> {
    let job = |jobs: &Value| {
        let list = jobs.as_array().into_iter().flatten();
        list.into_iter().find(|job| job.get("id").and_then(Value::as_str) == Some(id)).cloned()
    };
    let Some(found) = job(&qmp.ask("query-jobs", Value::Null).await?) else { return Ok(()) };
    if found.get("status") != Some(&json!("concluded")) {
        gone_is_fine(qmp, "job-cancel", json!({ "id": id }), "not found").await?;
    }
    let over = |jobs: &Value| job(jobs).is_none_or(|job| job.get("status") == Some(&json!("concluded")));
    until(qmp, "query-jobs", JOB_TIME, over).await?;
    gone_is_fine(qmp, "job-dismiss", json!({ "id": id }), "not found").await
}

async fn remove_node(qmp: &mut Qmp, name: &str) -> Result<(), BackendError> {
    let deadline = tokio::time::Instant::now() + JOB_TIME;
    loop {
        match qmp.ask("blockdev-del", json!({ "node-name": name })).await {
            // An export or a job that was just ended lets go of its node a moment later.
            Err(error) if error.why.contains("in use") && tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(error) if error.why.contains("Failed to find") => return Ok(()),
            other => return other.map(|_| ()),
        }
    }
}

async fn remove_export(qmp: &mut Qmp, id: &str) -> Result<(), BackendError> {
    gone_is_fine(qmp, "block-export-del", json!({ "id": id, "mode": "hard" }), "not found").await?;
    let listed = |exports: &Value| {
        let list = exports.as_array().into_iter().flatten();
        list.into_iter().any(|export| export.get("id").and_then(Value::as_str) == Some(id))
    };
    until(qmp, "query-block-exports", JOB_TIME, |exports| !listed(exports)).await
}

/// Stops the server that impound started, unless somebody else has begun to use it.
async fn stop_nbd(qmp: &mut Qmp) -> Result<(), BackendError> {
    let exports = qmp.ask("query-block-exports", Value::Null).await?;
    if exports.as_array().is_some_and(|list| !list.is_empty()) {
        let why = "it serves exports that are not impound's";
        return Err(BackendError::unsupported("stop the NBD server", qmp.name(), why));
    }
    gone_is_fine(qmp, "nbd-server-stop", Value::Null, "not running").await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_brings_back_what_it_was_given() {
        for undo in [
            QemuUndo::RunState { running: true },
            QemuUndo::FileSystems,
            QemuUndo::Job { id: "impound-x-job0".to_owned() },
            QemuUndo::Capability { name: "background-snapshot".to_owned(), on: false },
            QemuUndo::FdSet { id: 3 },
            QemuUndo::Folder { path: "/var/tmp/impound-x".to_owned() },
        ] {
            assert_eq!(QemuUndo::from_journal(&undo.for_journal()).unwrap(), undo);
        }
    }

    #[test]
    fn a_forged_journal_cannot_touch_what_is_not_impounds() {
        for how in [
            json!({ "undo": "job", "id": "mirror-of-production" }),
            json!({ "undo": "node", "name": "drive0" }),
            json!({ "undo": "export", "id": "backup" }),
            json!({ "undo": "capability", "name": "postcopy-ram", "on": true }),
            json!({ "undo": "folder", "path": "/etc" }),
            json!({ "undo": "folder", "path": "/var/tmp/../../etc/impound-x" }),
            json!({ "undo": "folder", "path": "impound-x" }),
            json!({ "undo": "quit" }),
            json!("quit"),
        ] {
            let forged = Undo { say: "x".to_owned(), holds_guest: false, how: how.clone() };
            assert!(QemuUndo::from_journal(&forged).is_err(), "{how}");
        }
    }
}
