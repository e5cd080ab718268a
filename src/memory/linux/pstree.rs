//! `linux.pstree`: the same processes as `linux.pslist`, each below its parent.
//!
//! Source: `real_parent` of `struct task_struct`. A process whose parent is not on the list stands at the top; one that is its own
//! ancestor (a torn image) is shown once.

use std::collections::{HashMap, HashSet};

use super::super::Outcome;
use super::super::cells::{int, text};
use super::{Ask, Kernel, Task};
use crate::report::{Cell, Column, Rows};

/// Its columns.
pub const COLUMNS: &[Column] =
    &[Column("depth"), Column("offset"), Column("pid"), Column("tid"), Column("ppid"), Column("comm")];

/// See the module.
pub fn run(kernel: &Kernel, ask: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
    let everybody = Ask::new(Vec::new(), false);
    let all = kernel.processes(&everybody)?;
    everybody.notes().into_iter().for_each(|note| ask.note(note));
    let known: HashSet<i64> = all.iter().filter_map(|task| task.pid().ok()).collect();
    let mut children: HashMap<i64, Vec<Task<'_>>> = HashMap::new();
    let mut waiting: Vec<(i64, Task<'_>)> = Vec::new();
    for task in &all {
        let (pid, parent) = (task.pid().unwrap_or(-1), task.ppid().unwrap_or(0));
        let top = if ask.pids.is_empty() { !known.contains(&parent) || parent == pid } else { ask.wants(pid) };
        if top {
            waiting.push((0, *task));
        }
        children.entry(parent).or_default().push(*task);
    }
    waiting.reverse();
    let mut shown = HashSet::new();
    while let Some((depth, task)) = waiting.pop() {
        if !shown.insert(task.0.at) {
            continue;
        }
        let place = Cell::Address(task.0.at);
        rows.row(vec![Cell::Int(depth), place, int(task.pid()), int(task.tid()), int(task.ppid()), text(task.comm())])?;
        let below = children.get(&task.pid().unwrap_or(-1)).into_iter().flatten().rev();
        waiting.extend(below.map(|child| (depth + 1, *child)));
    }
    Ok(())
}
