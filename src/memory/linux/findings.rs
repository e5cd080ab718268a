//! `linux.findings`: what a responder looks at first, from views that contradict each other.
//!
//! Each row names what was found, where, and what would be innocent. Nothing here proves an intrusion, and no row proves that there is none: what took itself
//! out of every structure that is looked at is not seen.

use std::collections::HashSet;

use super::super::Outcome;
use super::kthreads::whose;
use super::{
    Ask, Kernel, check_syscall, envars_of, hidden_modules, hooks, lsmod, malfind, pidhashtable, psscan, suspects,
};
use crate::report::{Absent, Cell, Column, Rows};

/// Its columns.
pub const COLUMNS: &[Column] = &[
    Column("severity"),
    Column("finding"),
    Column("pid"),
    Column("address"),
    Column("evidence"),
    Column("innocent_if"),
];

struct Finding {
    severity: &'static str,
    what: &'static str,
    pid: Option<i64>,
    at: u64,
    evidence: String,
    innocent: &'static str,
}

type Look = fn(&Kernel, &Ask) -> Outcome<Vec<Finding>>;

/// See the module.
pub fn run(kernel: &Kernel, ask: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
    let looks: [(&str, Look); 5] = [
        ("processes", processes),
        ("modules", modules),
        ("hooks", hooked),
        ("programs", programs),
        ("credentials", credentials),
    ];
    for (name, look) in looks {
        match look(kernel, ask) {
            Ok(findings) => {
                for finding in findings {
                    rows.row(row(finding))?;
                }
            }
            // One view that fails leaves the others.
            Err(error) => ask.note(format!("{name} could not be looked at: {error}")),
        }
    }
    Ok(())
}

fn row(finding: Finding) -> Vec<Cell> {
    vec![
        Cell::text(finding.severity),
        Cell::text(finding.what),
        Cell::or_absent(finding.pid, Absent::NotApplicable, Cell::Int),
        Cell::Address(finding.at),
        Cell::Text(finding.evidence),
        Cell::text(finding.innocent),
    ]
}

fn processes(kernel: &Kernel, ask: &Ask) -> Outcome<Vec<Finding>> {
    let listed: HashSet<u64> =
        kernel.processes(ask)?.iter().flat_map(|task| task.threads(ask)).map(|t| t.0.at).collect();
    let numbered: HashSet<u64> = pidhashtable::tasks(kernel, ask)?.iter().map(|task| task.0.at).collect();
    let mut found = Vec::new();
    for (_, task) in psscan::found(kernel)? {
        let (in_list, in_table) = (listed.contains(&task.0.at), numbered.contains(&task.0.at));
        let pid = task.tid().unwrap_or(0);
        // Ended tasks wait for their memory to be used again; idle ones are on no list.
        let alive = task.0.u64("exit_state").is_ok_and(|state| state == 0)
            && task.0.u64("usage.refs.counter").is_ok_and(|n| n > 0);
        if in_list || pid == 0 || !(alive || in_table) {
            continue;
        }
        let name = task.comm().unwrap_or_default();
        let (severity, evidence) = if in_table {
            ("high", format!("{name} has a number and is on no list of processes"))
        } else {
            ("medium", format!("{name} is in memory, alive, and on no list and in no table of numbers"))
        };
        let innocent = "the image was taken while it began or ended";
        found.push(Finding { severity, what: "hidden task", pid: Some(pid), at: task.0.at, evidence, innocent });
    }
    Ok(found)
}

fn modules(kernel: &Kernel, ask: &Ask) -> Outcome<Vec<Finding>> {
    let found = hidden_modules::hidden(kernel, ask)?.into_iter().map(|(module, place)| Finding {
        severity: "high",
        what: "hidden module",
        pid: None,
        at: module.at,
        evidence: format!("{} is in {place} and not in the list of modules", module.text("name").unwrap_or_default()),
        innocent: "the image was taken while it was loaded or unloaded",
    });
    Ok(found.collect())
}

fn hooked(kernel: &Kernel, ask: &Ask) -> Outcome<Vec<Finding>> {
    let modules = lsmod::all_ranges(kernel, ask)?;
    let mut found = Vec::new();
    for entry in check_syscall::entries(kernel, ask)?.into_iter().filter(|entry| !kernel.in_text(entry.handler)) {
        let (module, _) = whose(kernel, &modules, entry.handler);
        let owner = module.map_or_else(|| "nobody's code".to_owned(), |module| format!("module {module}"));
        found.push(Finding {
            severity: "high",
            what: "hooked system call",
            pid: None,
            at: entry.table.1.wrapping_add(8 * entry.index),
            evidence: format!("{} call {} leads to {:#x} in {owner}", entry.table.0, entry.index, entry.handler),
            innocent: "security software that patches the table",
        });
    }
    let lists = [hooks::interrupts(kernel), hooks::terminals(kernel, ask), hooks::packets(kernel, ask)];
    for hook in lists.into_iter().flatten().flatten().filter(|hook| whose(kernel, &modules, hook.function).0.is_none())
    {
        found.push(Finding {
            severity: "high",
            what: "hook outside of all code",
            pid: None,
            at: hook.function,
            evidence: format!(
                "{} leads to {:#x}, in neither the kernel's nor a listed module's code",
                hook.name, hook.function
            ),
            innocent: "code that was generated by the kernel itself",
        });
    }
    for hook in hooks::keyboard(kernel, ask).unwrap_or_default() {
        let (module, symbol) = whose(kernel, &modules, hook.function);
        let evidence =
            format!("every key is told to {:#x} ({})", hook.function, symbol.or(module.clone()).unwrap_or_default());
        let severity = if module.is_some() { "low" } else { "high" };
        let innocent = "a driver for braille or speech";
        found.push(Finding { severity, what: "keyboard notifier", pid: None, at: hook.function, evidence, innocent });
    }
    Ok(found)
}

fn programs(kernel: &Kernel, ask: &Ask) -> Outcome<Vec<Finding>> {
    let mut found = Vec::new();
    for task in kernel.processes(ask)? {
        let pid = task.pid().ok();
        for vma in malfind::suspicious(&task, ask) {
            found.push(Finding {
                severity: "medium",
                what: "executable memory without a file",
                pid,
                at: vma.start,
                evidence: format!("{} {:#x}-{:#x}", vma.protection(), vma.start, vma.end),
                innocent: "a compiler at run time: Java, JavaScript, Lua",
            });
        }
        if let Ok(claim) = suspects::claim(&task) {
            let serious = ["the file was deleted", "the file is in memory only", "it poses as a thread of the kernel"];
            for note in claim.notes.iter().filter(|note| serious.contains(note)) {
                let exe = claim.exe.as_ref().map_or("unknown", |exe| exe.text.as_str());
                let evidence = format!("{}: {note} ({exe})", claim.comm);
                let innocent = "a program that was updated while it ran";
                found.push(Finding { severity: "medium", what: "odd program", pid, at: task.0.at, evidence, innocent });
            }
        }
        for preload in envars_of(&task).into_iter().filter(|line| line.starts_with("LD_PRELOAD=")) {
            let innocent = "tools that wrap libraries: fakeroot, jemalloc";
            found.push(Finding {
                severity: "medium",
                what: "preloaded library",
                pid,
                at: task.0.at,
                evidence: preload,
                innocent,
            });
        }
        if task.0.u64("ptrace").is_ok_and(|flags| flags != 0) {
            let tracer = task.0.i64("parent.pid").unwrap_or(0);
            let evidence = format!("it is traced by {tracer}");
            found.push(Finding {
                severity: "low",
                what: "traced",
                pid,
                at: task.0.at,
                evidence,
                innocent: "a debugger",
            });
        }
    }
    Ok(found)
}

fn credentials(kernel: &Kernel, ask: &Ask) -> Outcome<Vec<Finding>> {
    let found = suspects::shared(kernel, ask)?.into_iter().map(|(cred, pids)| Finding {
        severity: "medium",
        what: "shared credentials",
        pid: pids.last().copied(),
        at: cred,
        evidence: format!("processes {pids:?} use the same struct cred"),
        innocent: "a process and its child that has not run its program yet (vfork)",
    });
    Ok(found.collect())
}
