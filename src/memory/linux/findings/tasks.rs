//! Tasks that one view of the kernel has and another has not: the list of processes, the table of numbers, memory itself.

use std::collections::HashSet;

use super::super::super::Outcome;
use super::super::{Ask, Kernel, Task, pidhashtable, psscan};
use super::{Finding, Severity};

const INNOCENT: &str = "the image was taken while it began or ended";

pub(super) fn look(kernel: &Kernel, ask: &Ask) -> Outcome<Vec<Finding>> {
    let processes = kernel.processes(ask)?;
    let listed: Vec<Task<'_>> = processes.iter().flat_map(|process| process.threads(ask)).collect();
    let in_list: HashSet<u64> = listed.iter().map(|task| task.0.at).collect();
    let in_table: HashSet<u64> = pidhashtable::tasks(kernel, ask)?.iter().map(|task| task.0.at).collect();
    let mut found: Vec<Finding> =
        listed.iter().filter(|task| !in_table.contains(&task.0.at)).filter_map(without_number).collect();
    for (_, task) in psscan::found(kernel, ask)? {
        if !in_list.contains(&task.0.at) && task.pid().is_ok_and(|pid| ask.wants(pid)) {
            found.extend(unlisted(&task, in_table.contains(&task.0.at)));
        }
    }
    Ok(found)
}

/// Does it run? Ended tasks wait for their memory to be used again.
fn alive(task: &Task<'_>) -> bool {
    task.0.u64("exit_state").is_ok_and(|state| state == 0) && task.0.u64("usage.refs.counter").is_ok_and(|n| n > 0)
}

fn unlisted(task: &Task<'_>, in_table: bool) -> Option<Finding> {
    let pid = task.tid().unwrap_or(0);
    // Idle tasks are on no list.
    if pid == 0 || !(in_table || alive(task)) {
        return None;
    }
    let name = task.comm().unwrap_or_default();
    let (severity, evidence) = if in_table {
        (Severity::High, format!("{name} has a number and is on no list of processes"))
    } else {
        (Severity::Medium, format!("{name} is in memory, alive, and on no list and in no table of numbers"))
    };
    Some(finding(task, severity, evidence))
}

fn without_number(task: &Task<'_>) -> Option<Finding> {
    let name = task.comm().unwrap_or_default();
    let evidence = format!("{name} is on the list of processes and has no number: no signal reaches it");
    alive(task).then(|| finding(task, Severity::Medium, evidence))
}

fn finding(task: &Task<'_>, severity: Severity, evidence: String) -> Finding {
    let (pid, at) = (task.tid().ok(), task.0.at);
    Finding { severity, what: "hidden task", pid, at, evidence, bytes: Vec::new(), innocent: INNOCENT }
}
