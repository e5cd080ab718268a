//! `linux.psaux`: what each process was started with.
//!
//! Source: `arg_start` and `arg_end` of `struct mm_struct`. A program can overwrite its arguments; what stands here is what stands
//! there now. Threads of the kernel have none.

use super::super::cells::{cell, int, text};
use super::super::{MemoryError, Outcome};
use super::{Ask, Kernel, Task};
use crate::report::{Cell, Column, Rows};

/// The longest arguments that are read; the kernel itself allows more only after its limits were raised.
pub(super) const MOST: u64 = 2 << 20;

/// Its columns.
pub const COLUMNS: &[Column] = &[Column("pid"), Column("ppid"), Column("comm"), Column("args")];

/// See the module.
pub fn run(kernel: &Kernel, ask: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
    for task in kernel.processes(ask)? {
        let joined = cell(arguments(&task), |list| Cell::Text(list.join(" ")));
        rows.row(vec![int(task.pid()), int(task.ppid()), text(task.comm()), joined])?;
    }
    Ok(())
}

/// The arguments of a process.
pub(super) fn arguments(task: &Task<'_>) -> Outcome<Vec<String>> {
    strings(task, "arg_start", "arg_end")
}

/// The texts between two addresses of a program's memory.
pub(super) fn strings(task: &Task<'_>, begin: &'static str, end: &'static str) -> Outcome<Vec<String>> {
    let mm = task.mm()?;
    let (begin, end) = (mm.u64(begin)?, mm.u64(end)?);
    let len =
        end.checked_sub(begin).ok_or_else(|| MemoryError::corrupt("a range of texts", begin, "it ends before"))?;
    let space = task.space()?;
    let bytes = space.as_far_as(begin, len.min(MOST) as usize);
    if bytes.is_empty() && len > 0 {
        space.translate(begin)?;
    }
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(&bytes);
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    Ok(bytes.split(|&byte| byte == 0).map(|text| String::from_utf8_lossy(text).into_owned()).collect())
}
