//! `linux.pslist`: the processes of the kernel's own list, with who runs them and since when.
//!
//! Source: `struct task_struct` and `struct cred` (`include/linux/sched.h`, `cred.h`), from `init_task.tasks`. Times are the guest's:
//! time since boot added to its idea of when that was. What was taken off the list is not seen; `linux.psscan` and
//! `linux.pidhashtable` look elsewhere.

use super::super::Outcome;
use super::super::cells::{cell, int, text, uint};
use super::{Ask, Kernel, Task};
use crate::report::{Cell, Column, Rows};

/// Its columns.
pub const COLUMNS: &[Column] = &[
    Column("offset"),
    Column("pid"),
    Column("tid"),
    Column("ppid"),
    Column("comm"),
    Column("uid"),
    Column("gid"),
    Column("euid"),
    Column("egid"),
    Column("creation_time"),
    Column("kernel_thread"),
];

/// See the module.
pub fn run(kernel: &Kernel, ask: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
    for task in kernel.tasks(ask)? {
        rows.row(row(&task))?;
    }
    Ok(())
}

fn row(task: &Task<'_>) -> Vec<Cell> {
    let cred = |path| uint(task.0.u64(path));
    vec![
        Cell::Address(task.0.at),
        int(task.pid()),
        int(task.tid()),
        int(task.ppid()),
        text(task.comm()),
        cred("cred.uid.val"),
        cred("cred.gid.val"),
        cred("cred.euid.val"),
        cred("cred.egid.val"),
        cell(task.started(), Cell::Time),
        Cell::Bool(task.is_kernel_thread()),
    ]
}
