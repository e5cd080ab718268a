//! `linux.psscan`: processes found by what they look like in physical memory, listed or not.
//!
//! Source: every `task_struct` points at one of the kernel's few scheduling classes; what points at one, and whose other members make
//! sense, is shown. Processes that ended may still be there; what was overwritten is not.

use super::super::Outcome;
use super::super::cells::{int, text};
use super::landmarks::Landmark;
use super::{Ask, Kernel, Task};
use crate::report::{Cell, Column, Rows};

/// Its columns.
pub const COLUMNS: &[Column] = &[
    Column("physical"),
    Column("offset"),
    Column("pid"),
    Column("tid"),
    Column("ppid"),
    Column("comm"),
    Column("exit_state"),
];

const CLASSES: [&str; 6] =
    ["fair_sched_class", "rt_sched_class", "dl_sched_class", "idle_sched_class", "stop_sched_class", "ext_sched_class"];
/// `PID_MAX_LIMIT`.
const MOST_PIDS: i64 = 1 << 22;

/// See the module.
pub fn run(kernel: &Kernel, ask: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
    for (physical, task) in found(kernel, ask)? {
        if !task.pid().is_ok_and(|pid| ask.wants(pid)) {
            continue;
        }
        let exit = task.0.u64("exit_state").map(|state| match state {
            0 => "TASK_RUNNING".to_owned(),
            16 => "EXIT_DEAD".to_owned(),
            32 => "EXIT_ZOMBIE".to_owned(),
            48 => "EXIT_TRACE".to_owned(),
            other => format!("{other:#x}"),
        });
        let place = [Cell::Address(physical), Cell::Address(task.0.at)];
        let rest = [int(task.pid()), int(task.tid()), int(task.ppid()), text(task.comm()), text(exit)];
        rows.row(place.into_iter().chain(rest).collect())?;
    }
    Ok(())
}

/// Where tasks are.
pub(super) static TASKS: Landmark =
    Landmark { of: "a task", words: |kernel| CLASSES.iter().filter_map(|name| kernel.symbols.address(name)).collect() };

/// Every task that memory holds, with its physical address.
pub(super) fn found<'k>(kernel: &'k Kernel, ask: &Ask) -> Outcome<Vec<(u64, Task<'k>)>> {
    let back = kernel.offset("task_struct", "sched_class")?;
    let base = kernel.direct_map()?;
    let mut tasks = Vec::new();
    for at in kernel.places(&TASKS, ask) {
        let Some(physical) = at.checked_sub(back) else { continue };
        let task = Task(kernel.object("task_struct", base.wrapping_add(physical))?);
        if plausible(&task) {
            tasks.push((physical, task));
        }
    }
    Ok(tasks)
}

fn plausible(task: &Task<'_>) -> bool {
    let pid = |value: Outcome<i64>| value.is_ok_and(|pid| (0..=MOST_PIDS).contains(&pid));
    // Pointers of what ended may be null.
    let ended = task.0.u64("exit_state").is_ok_and(|state| state != 0);
    let pointer = |path| task.0.u64(path).is_ok_and(|at| at >> 56 == 0xff || (ended && at == 0));
    let name = task.comm().is_ok_and(|comm| !comm.is_empty() && comm.len() < 16 && !comm.contains(char::is_control));
    let exit = task.0.u64("exit_state").is_ok_and(|state| state & !0x30 == 0);
    pid(task.pid())
        && pid(task.tid())
        && (ended || pid(task.ppid()))
        && name
        && exit
        && pointer("stack")
        && pointer("real_cred")
}
