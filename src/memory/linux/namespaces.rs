//! `linux.namespaces`: which view of the system each process has, and as whom it goes there.
//!
//! Source: `struct nsproxy` (`include/linux/nsproxy.h`), `struct pid` and `cred.user_ns`. Numbers are those of `/proc/PID/ns`. Volatility has no such
//! question; a process whose numbers are not those of process 1 is in a container, or was put where others do not see it.

use super::super::Outcome;
use super::super::cells::{int, text, uint};
use super::{Ask, Kernel, Object, Task};
use crate::report::{Column, Rows};

/// Its columns.
pub const COLUMNS: &[Column] = &[
    Column("pid"),
    Column("tid"),
    Column("comm"),
    Column("pid_ns"),
    Column("pid_in_ns"),
    Column("net_ns"),
    Column("mnt_ns"),
    Column("uts_ns"),
    Column("ipc_ns"),
    Column("user_ns"),
    Column("cgroup_ns"),
    Column("time_ns"),
    Column("hostname"),
];

/// See the module.
pub fn run(kernel: &Kernel, ask: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
    for task in kernel.tasks(ask)? {
        let number = |path| uint(task.0.u64(path));
        let of_own = |path| uint(innermost(&task).and_then(|own| own.u64(path)));
        rows.row(vec![
            int(task.pid()),
            int(task.tid()),
            text(task.comm()),
            of_own("ns.ns.inum"),
            of_own("nr"),
            number("nsproxy.net_ns.ns.inum"),
            number("nsproxy.mnt_ns.ns.inum"),
            number("nsproxy.uts_ns.ns.inum"),
            number("nsproxy.ipc_ns.ns.inum"),
            number("cred.user_ns.ns.inum"),
            number("nsproxy.cgroup_ns.ns.inum"),
            number("nsproxy.time_ns.ns.inum"),
            text(task.0.text("nsproxy.uts_ns.name.nodename")),
        ])?;
    }
    Ok(())
}

/// The number that the task has in the innermost namespace of numbers that it is in (`struct upid`).
fn innermost<'k>(task: &Task<'k>) -> Outcome<Object<'k>> {
    let pid = task.0.follow("thread_pid")?;
    // As deep as they may be in each other (`MAX_PID_NS_LEVEL`).
    let level = pid.u64("level")?.min(32);
    Ok(pid.get("numbers")?.element(level))
}
