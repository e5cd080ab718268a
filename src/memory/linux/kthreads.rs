//! `linux.kthreads`: threads of the kernel, and the function that each runs.
//!
//! Source: `struct kthread` (`kernel/kthread.c`), which `worker_private` (before 5.17 `set_child_tid`) points at. A function outside of the
//! kernel's code and of every listed module is worth a look.

use super::super::Outcome;
use super::super::cells::{address, int, some_text, text};
use super::{Ask, Kernel, Object, Task, lsmod};
use crate::report::{Column, Rows};

/// Its columns.
pub const COLUMNS: &[Column] =
    &[Column("tid"), Column("thread_name"), Column("handler_address"), Column("module"), Column("symbol")];

/// See the module.
pub fn run(kernel: &Kernel, ask: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
    let modules = lsmod::all_ranges(kernel, ask)?;
    for task in kernel.processes(ask)?.into_iter().filter(Task::is_kernel_thread) {
        let thread = thread(&task);
        let function = match thread.as_ref().map(|thread| thread.u64("threadfn")) {
            // The first of them, which starts the others, runs none of its own.
            Ok(Ok(0)) | Err(_) => Err(super::super::MemoryError::Null("threadfn")),
            Ok(function) => function,
        };
        let full = thread.and_then(|thread| thread.text("full_name")).or_else(|_| task.comm());
        let place = function.as_ref().ok().copied();
        let (module, symbol) = place.map_or((None, None), |place| whose(kernel, &modules, place));
        rows.row(vec![int(task.tid()), text(full), address(function), some_text(module), some_text(symbol)])?;
    }
    Ok(())
}

fn thread<'k>(task: &Task<'k>) -> Outcome<Object<'k>> {
    let at = if task.0.has("worker_private") { task.0.u64("worker_private")? } else { task.0.u64("set_child_tid")? };
    if at == 0 {
        return Err(super::super::MemoryError::Null("kthread"));
    }
    task.0.kernel.object("kthread", at)
}

/// Module and symbol of a place in code: the kernel's own code is `kernel`.
pub(super) fn whose(kernel: &Kernel, modules: &[(String, u64, u64)], at: u64) -> (Option<String>, Option<String>) {
    if kernel.in_text(at) {
        return (Some("kernel".to_owned()), kernel.name_of(at));
    }
    (lsmod::owner(modules, at).map(str::to_owned), None)
}
