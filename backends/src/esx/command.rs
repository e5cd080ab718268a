//! Every command that is ever sent to a host. There is no other place in this backend that makes one, and `docs/esx.md` lists
//! them; a test compares what a host was told with that list.
//!
//! `dd`, `stat`, `sha256sum` and the shell are those of the host's BusyBox. Names go in as words of their own, see
//! [`Command`]; a name never stands where an option could, since `dd` takes `if=NAME` and paths begin with a slash.

use super::VmId;
use crate::wire::ssh::Command;

/// What is read at once, in bytes.
pub(super) const BLOCK: u64 = 1 << 20;

/// `vim-cmd vmsvc/VERB …`.
fn vmsvc(verb: &'static str, vm: VmId) -> Command {
    Command::new("vim-cmd").arg(verb).arg(vm.to_string())
}

pub(super) fn all_vms() -> Command {
    Command::new("vim-cmd").arg("vmsvc/getallvms")
}

pub(super) fn summary(vm: VmId) -> Command {
    vmsvc("vmsvc/get.summary", vm)
}

pub(super) fn devices(vm: VmId) -> Command {
    vmsvc("vmsvc/device.getdevices", vm)
}

pub(super) fn layout(vm: VmId) -> Command {
    vmsvc("vmsvc/get.filelayoutex", vm)
}

/// Snapshots with their ids, on hosts that know this.
pub(super) fn snapshot_info(vm: VmId) -> Command {
    vmsvc("vmsvc/get.snapshotinfo", vm)
}

/// Snapshots as a tree of text, on all hosts.
pub(super) fn snapshot_tree(vm: VmId) -> Command {
    vmsvc("vmsvc/snapshot.get", vm)
}

pub(super) fn tasks(vm: VmId) -> Command {
    vmsvc("vmsvc/get.tasklist", vm)
}

pub(super) fn task(id: &str) -> Command {
    Command::new("vim-cmd").arg("vimsvc/task_info").arg(id)
}

pub(super) fn power_state(vm: VmId) -> Command {
    vmsvc("vmsvc/power.getstate", vm)
}

/// Quiescing would run code in the guest, so it is never asked for.
pub(super) fn create_snapshot(vm: VmId, name: &str, about: &str, memory: bool) -> Command {
    vmsvc("vmsvc/snapshot.create", vm).arg(name).arg(about).arg(if memory { "1" } else { "0" }).arg("0")
}

/// Without arguments it says how it wants them.
pub(super) fn remove_usage() -> Command {
    Command::new("vim-cmd").arg("vmsvc/snapshot.remove")
}

pub(super) fn remove_snapshot(vm: VmId, id: u64) -> Command {
    vmsvc("vmsvc/snapshot.remove", vm).arg(id.to_string())
}

/// The form of old hosts: not its children, its level in the tree, its place in that level.
pub(super) fn remove_snapshot_at(vm: VmId, level: usize, index: usize) -> Command {
    vmsvc("vmsvc/snapshot.remove", vm).arg("0").arg(level.to_string()).arg(index.to_string())
}

pub(super) fn suspend(vm: VmId) -> Command {
    vmsvc("vmsvc/power.suspend", vm)
}

pub(super) fn power_on(vm: VmId) -> Command {
    vmsvc("vmsvc/power.on", vm)
}

pub(super) fn volumes() -> Command {
    Command::new("esxcli").args(["--formatter=csv", "storage", "filesystem", "list"])
}

pub(super) fn version() -> Command {
    Command::new("esxcli").args(["system", "version", "get"])
}

/// Which of these are there: a line each.
pub(super) fn tools(names: &[&str]) -> Command {
    Command::script(r#"for tool in "$@"; do command -v "$tool" >/dev/null && echo "$tool"; done; true"#)
        .args(names.iter().copied())
}

/// The files of a folder: length, blocks of 512 bytes and path of each, with a NUL behind it. Links and folders are left out.
pub(super) fn list(folder: &str) -> Command {
    Command::script(
        r#"for file in "$1"/*; do
            if [ -f "$file" ] && [ ! -L "$file" ]; then printf '%s %s\0' "$(stat -c '%s %b' "$file")" "$file"; fi
        done"#,
    )
    .arg(folder)
}

/// Length and blocks of one file.
pub(super) fn stat(path: &str) -> Command {
    Command::new("stat").arg("-c").arg("%s %b").arg(path)
}

/// The bytes of a file from block `skip` on, to its end or for `count` blocks of [`BLOCK`] bytes.
pub(super) fn read(path: &str, skip: u64, count: Option<u64>) -> Command {
    let command = Command::new("dd").arg(format!("if={path}")).arg(format!("bs={BLOCK}")).arg(format!("skip={skip}"));
    match count {
        Some(count) => command.arg(format!("count={count}")),
        None => command,
    }
}

pub(super) fn sha256(path: &str) -> Command {
    Command::new("sha256sum").arg(path)
}
