//! Programs that are odd: code without a file, a file that is gone, a false name, a preloaded library, a tracer.

use super::super::super::Outcome;
use super::super::malfind;
use super::super::{Ask, Kernel, Task, envars_of, suspects};
use super::{Finding, SHOWN, Severity};

/// What a claim is worth: the note of `linux.process_spoofing`, and what would be innocent.
const CLAIMS: [(&str, Severity, &str); 3] = [
    ("the file was deleted", Severity::Medium, "a program that was updated while it ran"),
    ("the file is in memory only", Severity::Medium, "a container runtime that runs a copy of itself (runc)"),
    ("it poses as a thread of the kernel", Severity::High, "a program that is really named so, in brackets"),
];

pub(super) fn look(kernel: &Kernel, ask: &Ask) -> Outcome<Vec<Finding>> {
    let mut found = Vec::new();
    for task in kernel.processes(ask)? {
        found.extend(code_without_file(&task, ask));
        found.extend(claims(&task));
        let preloads = envars_of(&task).into_iter().filter(|line| line.starts_with("LD_PRELOAD="));
        found.extend(preloads.map(|line| {
            of_task(&task, Severity::Medium, "preloaded library", line, "tools that wrap libraries: fakeroot, jemalloc")
        }));
        if task.0.u64("ptrace").is_ok_and(|flags| flags != 0) {
            let tracer = match (task.0.i64("parent.pid"), task.0.follow("parent").map(|parent| Task(parent).comm())) {
                (Ok(tid), Ok(Ok(comm))) => format!("{tid} ({comm})"),
                (Ok(tid), _) => tid.to_string(),
                _ => "somebody who does not read".to_owned(),
            };
            found.push(of_task(&task, Severity::Low, "traced", format!("it is traced by {tracer}"), "a debugger"));
        }
    }
    Ok(found)
}

fn of_task(
    task: &Task<'_>,
    severity: Severity,
    what: &'static str,
    evidence: String,
    innocent: &'static str,
) -> Finding {
    Finding { severity, what, pid: task.pid().ok(), at: task.0.at, evidence, bytes: Vec::new(), innocent }
}

fn code_without_file(task: &Task<'_>, ask: &Ask) -> Vec<Finding> {
    let mut budget = malfind::PAGES;
    let mut found = Vec::new();
    for vma in malfind::suspicious(task, ask) {
        let (pages, first) = malfind::content(task, &vma, &mut budget);
        let (at, mut bytes) = first.unwrap_or((vma.start, Vec::new()));
        let holds = if bytes.is_empty() { "and nothing of it is in memory" } else { "of which this is the begin" };
        bytes.truncate(SHOWN);
        found.push(Finding {
            severity: if bytes.is_empty() { Severity::Low } else { Severity::Medium },
            what: "executable memory without a file",
            pid: task.pid().ok(),
            at,
            evidence: format!(
                "{} {:#x}-{:#x} of {}, {pages} pages, {holds}",
                vma.protection(),
                vma.start,
                vma.end,
                task.comm().unwrap_or_default()
            ),
            bytes,
            innocent: "a compiler at run time: Java, JavaScript, Lua",
        });
    }
    found
}

fn claims(task: &Task<'_>) -> Vec<Finding> {
    let Ok(claim) = suspects::claim(task) else { return Vec::new() };
    let exe = claim.exe.as_ref().map_or("unknown", |exe| exe.text.as_str());
    let argument = claim.argument.as_deref().unwrap_or("unknown");
    let serious = CLAIMS.iter().filter(|(note, ..)| claim.notes.contains(note));
    let told = serious.map(|&(note, severity, innocent)| {
        let evidence = format!("{}: {note} (runs {exe}, as {argument})", claim.comm);
        of_task(task, severity, "odd program", evidence, innocent)
    });
    told.collect()
}
