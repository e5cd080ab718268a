//! `linux.pidhashtable`: processes and threads from the kernel's table of numbers, which is how signals and `/proc` find them.
//!
//! Source: the IDR of `init_pid_ns` (`kernel/pid.c`), since Linux 4.15. What was taken off the list of processes is still here, unless it was
//! taken out here, too.

use super::super::Outcome;
use super::super::cells::{int, text};
use super::{Ask, Kernel, Task};
use crate::report::{Cell, Column, Rows};

/// Its columns.
pub const COLUMNS: &[Column] = &[Column("offset"), Column("pid"), Column("tid"), Column("ppid"), Column("comm")];

/// See the module.
pub fn run(kernel: &Kernel, ask: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
    for task in tasks(kernel, ask)? {
        if task.pid().is_ok_and(|pid| ask.wants(pid)) {
            let place = Cell::Address(task.0.at);
            rows.row(vec![place, int(task.pid()), int(task.tid()), int(task.ppid()), text(task.comm())])?;
        }
    }
    Ok(())
}

/// Every task with a number.
pub(super) fn tasks<'k>(kernel: &'k Kernel, ask: &Ask) -> Outcome<Vec<Task<'k>>> {
    let root = kernel.global("init_pid_ns", "pid_namespace")?.get("idr.idr_rt")?;
    let link = if kernel.object("task_struct", 0)?.has("pid_links") { "pid_links" } else { "pids.node" };
    let mut all = Vec::new();
    for (_, pid) in kernel.xarray(root)? {
        let Ok(first) = kernel.object("pid", pid)?.get("tasks").and_then(|lists| lists.element(0).u64("first")) else {
            continue;
        };
        let tasks = kernel.bucket(first, "task_struct", link)?;
        all.extend(ask.all("the tasks of a number", tasks).into_iter().map(Task));
    }
    Ok(all)
}
