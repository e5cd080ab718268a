//! `linux.check_creds`, `linux.process_spoofing` and `linux.ptrace`: processes that are not what they seem.
//!
//! Source: `struct cred` (two processes that share one were never forked from each other so), `comm` and arguments against the file that is run
//! (`mm.exe_file`), and `ptrace`, `ptraced` of `struct task_struct`.

use std::collections::BTreeMap;

use super::super::Outcome;
use super::super::cells::{int, text};
use super::{Ask, Kernel, Task, files, psaux};
use crate::report::{Absent, Cell, Column, Rows};

/// Columns of `linux.check_creds`.
pub const CREDS: &[Column] = &[Column("cred_address"), Column("pids")];
/// Columns of `linux.process_spoofing`.
pub const SPOOFING: &[Column] = &[
    Column("pid"),
    Column("ppid"),
    Column("comm"),
    Column("exe"),
    Column("first_argument"),
    Column("exe_deleted"),
    Column("notes"),
];
/// Columns of `linux.ptrace`.
pub const PTRACE: &[Column] =
    &[Column("comm"), Column("pid"), Column("tid"), Column("tracer_tid"), Column("tracee_tids"), Column("flags")];

/// Credentials that several processes use.
pub fn check_creds(kernel: &Kernel, ask: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
    for (cred, pids) in shared(kernel, ask)? {
        let pids = pids.iter().map(i64::to_string).collect::<Vec<_>>().join(",");
        rows.row(vec![Cell::Address(cred), Cell::Text(pids)])?;
    }
    Ok(())
}

pub(super) fn shared(kernel: &Kernel, ask: &Ask) -> Outcome<BTreeMap<u64, Vec<i64>>> {
    let mut creds: BTreeMap<u64, Vec<i64>> = BTreeMap::new();
    for task in kernel.processes(ask)? {
        // Threads of the kernel share theirs by design.
        if let (Ok(cred), Ok(pid), false) = (task.0.u64("cred"), task.pid(), task.is_kernel_thread()) {
            creds.entry(cred).or_default().push(pid);
        }
    }
    creds.retain(|_, pids| pids.len() > 1);
    Ok(creds)
}

/// What a process claims to be, and what it runs.
pub(super) struct Claim {
    pub(super) comm: String,
    pub(super) exe: Option<files::FilePath>,
    pub(super) argument: Option<String>,
    pub(super) notes: Vec<&'static str>,
}

pub(super) fn claim(task: &Task<'_>) -> Outcome<Claim> {
    let comm = task.comm()?;
    let exe = task.mm()?.follow("exe_file").and_then(|file| files::path_of(&file)).ok();
    let argument = psaux::arguments(task).ok().and_then(|list| list.into_iter().next());
    let mut notes = Vec::new();
    let base = |path: &str| path.trim_start_matches('-').rsplit('/').next().unwrap_or_default().to_owned();
    let cut = |name: &str| name.bytes().take(15).collect::<Vec<u8>>();
    if let Some(exe) = &exe {
        let name = base(&exe.text);
        if cut(&name) != comm.as_bytes() {
            notes.push("comm is not the name of the file");
        }
        if argument.as_ref().is_some_and(|argument| base(argument) != name) {
            notes.push("the first argument is not the name of the file");
        }
        if exe.deleted {
            notes.push("the file was deleted");
        }
        if exe.text.starts_with("/memfd:") {
            notes.push("the file is in memory only");
        }
    }
    let bracketed = |text: &str| text.starts_with('[') && text.ends_with(']');
    if bracketed(&comm) || argument.as_ref().is_some_and(|argument| bracketed(argument)) {
        notes.push("it poses as a thread of the kernel");
    }
    Ok(Claim { comm, exe, argument, notes })
}

/// Every process with a file of its own.
pub fn process_spoofing(kernel: &Kernel, ask: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
    for task in kernel.processes(ask)? {
        let Ok(claim) = claim(&task) else { continue };
        let deleted = claim.exe.as_ref().map(|exe| exe.deleted);
        let none = Absent::Unreadable;
        rows.row(vec![
            int(task.pid()),
            int(task.ppid()),
            Cell::Text(claim.comm),
            Cell::or_absent(claim.exe, none, |exe| Cell::Text(exe.text)),
            Cell::or_absent(claim.argument, none, Cell::Text),
            Cell::or_absent(deleted, none, Cell::Bool),
            Cell::Text(claim.notes.join("; ")),
        ])?;
    }
    Ok(())
}

/// Who traces whom.
pub fn ptrace(kernel: &Kernel, ask: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
    let threads = Ask::new(ask.pids.clone(), true);
    for task in kernel.tasks(&threads)? {
        let flags = task.0.u64("ptrace").unwrap_or(0);
        let head = task.0.get("ptraced")?.at;
        let traced = kernel.list(head, "task_struct", "ptrace_entry")?;
        let traced = ask.all("a list of traced threads", traced);
        if flags == 0 && traced.is_empty() {
            continue;
        }
        let tracer = if flags == 0 { Cell::Absent(Absent::NotApplicable) } else { int(task.0.i64("parent.pid")) };
        let tids = traced.into_iter().filter_map(|task| Task(task).tid().ok()).map(|tid| tid.to_string());
        let tids = tids.collect::<Vec<_>>().join(",");
        let flags = Cell::text(format!("{flags:#x}"));
        rows.row(vec![text(task.comm()), int(task.pid()), int(task.tid()), tracer, Cell::Text(tids), flags])?;
    }
    threads.notes().into_iter().for_each(|note| ask.note(note));
    Ok(())
}
