//! Credentials that were shared or changed: who is more than whoever started it.

use super::super::super::Outcome;
use super::super::{Ask, Kernel, Task, capabilities, suspects};
use super::{Finding, Severity};

pub(super) fn look(kernel: &Kernel, ask: &Ask) -> Outcome<Vec<Finding>> {
    let mut found: Vec<Finding> = suspects::shared(kernel, ask)?
        .into_iter()
        .map(|(cred, pids)| Finding {
            severity: Severity::Medium,
            what: "shared credentials",
            pid: pids.last().copied(),
            at: cred,
            evidence: format!("processes {pids:?} use the same struct cred"),
            bytes: Vec::new(),
            innocent: "a process and its child that has not run its program yet (vfork)",
        })
        .collect();
    let first = kernel.symbols.address("init_cred");
    for task in kernel.processes(ask)?.into_iter().filter(|task| !task.is_kernel_thread() && task.mm().is_ok()) {
        found.extend(changed(kernel, &task, first));
    }
    Ok(found)
}

fn changed(kernel: &Kernel, task: &Task<'_>, first: Option<u64>) -> Vec<Finding> {
    let (Ok(own), Ok(real)) = (task.0.u64("cred"), task.0.u64("real_cred")) else { return Vec::new() };
    let mut found = Vec::new();
    let mut add = |severity, what, at, evidence, innocent| {
        found.push(Finding { severity, what, pid: task.pid().ok(), at, evidence, bytes: Vec::new(), innocent });
    };
    let name = task.comm().unwrap_or_default();
    if first == Some(own) || first == Some(real) {
        let evidence = format!("{name} has the credentials of the kernel itself (init_cred)");
        add(Severity::High, "changed credentials", own, evidence, "nothing that is known");
    } else if own != real {
        let evidence = format!("{name} acts with other credentials than its own ({own:#x}, not {real:#x})");
        add(
            Severity::Low,
            "changed credentials",
            own,
            evidence,
            "the kernel acts for it just now: overlayfs, NFS, access()",
        );
    }
    let parent =
        task.0.follow("real_parent").ok().filter(|parent| parent.u64("cred.uid.val").is_ok_and(|uid| uid != 0));
    if let (Some(parent), Ok(0)) = (parent, task.0.u64("cred.uid.val")) {
        let uid = parent.u64("cred.uid.val").unwrap_or(0);
        let (from, pid) = (parent.text("comm").unwrap_or_default(), parent.i64("tgid").unwrap_or(0));
        let evidence = format!("{name} is root, and was started by {from} ({pid}) of user {uid}");
        add(Severity::Low, "became root", own, evidence, "su, sudo, or a service that was asked to");
    }
    let effective = task.0.get("cred.cap_effective").and_then(|set| capabilities::bits(&set)).unwrap_or(0);
    if effective != 0 && task.0.u64("cred.euid.val").is_ok_and(|euid| euid != 0) {
        let evidence =
            format!("{name} is not root and may {}", capabilities::named(effective, capabilities::last(kernel)));
        add(
            Severity::Low,
            "capabilities without root",
            own,
            evidence,
            "a service that gave up root and kept what it needs",
        );
    }
    found
}
