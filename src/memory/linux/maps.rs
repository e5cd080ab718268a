//! `linux.proc.maps`: what each process has mapped, as in `/proc/PID/maps`.
//!
//! Source: `struct vm_area_struct`. Whether a page of a range is in memory is said in the manifest of what is written, and nowhere else.

use serde_json::json;

use super::super::Outcome;
use super::super::cells::{cell, int, some_text, text, uint};
use super::content::Range;
use super::files::FilePath;
use super::vma::{self, Vma};
use super::{Ask, Kernel, Task};
use crate::report::{Absent, Cell, Column, Rows};

/// Its columns.
pub const COLUMNS: &[Column] = &[
    Column("pid"),
    Column("comm"),
    Column("start"),
    Column("end"),
    Column("flags"),
    Column("file_offset"),
    Column("major"),
    Column("minor"),
    Column("inode"),
    Column("path"),
    Column("deleted"),
    Column("file_output"),
];

/// See the module.
pub fn run(kernel: &Kernel, ask: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
    for task in kernel.processes(ask)? {
        for vma in vma::all(&task, ask) {
            let mut cells = row(&task, &vma)?;
            cells.push(write("linux.proc.maps", ask, &task, &vma)?);
            rows.row(cells)?;
        }
    }
    Ok(())
}

fn row(task: &Task<'_>, vma: &Vma<'_>) -> Outcome<Vec<Cell>> {
    let path = vma.name(&task.mm()?);
    let deleted = path.as_ref().ok().map(|path| path.deleted);
    let inode = |path: &'static str| vma.file().and_then(|file| file.u64(path));
    let device = inode("f_inode.i_sb.s_dev");
    let part = |shift: u32, mask: u64| match &device {
        Ok(number) => Cell::Int((number >> shift & mask) as i64),
        Err(error) => Cell::Absent(error.absent()),
    };
    Ok(vec![
        int(task.pid()),
        text(task.comm()),
        Cell::Address(vma.start),
        Cell::Address(vma.end),
        Cell::text(vma.protection()),
        // Of memory without a file the kernel keeps another number there.
        uint(vma.file().and_then(|_| Ok(vma.object.u64("vm_pgoff")?.wrapping_mul(4096)))),
        part(20, 0xfff),
        part(0, 0xf_ffff),
        uint(inode("f_inode.i_ino")),
        cell(path, |FilePath { text, .. }| Cell::Text(text)),
        Cell::or_absent(deleted, Absent::Unreadable, Cell::Bool),
    ])
}

/// Writes what memory holds of a range, if files are asked for.
pub(super) fn write(question: &str, ask: &Ask, task: &Task<'_>, vma: &Vma<'_>) -> Outcome<Cell> {
    if !ask.writes() {
        return Ok(some_text(None));
    }
    let (pid, comm) = (task.pid().unwrap_or(0), task.comm().unwrap_or_default());
    let range = match Range::of(task, vma) {
        Ok(range) => range,
        Err(error) => {
            ask.note(format!("a range of process {pid}: {error}"));
            return Ok(Cell::Absent(error.absent()));
        }
    };
    let more =
        json!({ "pid": pid, "comm": comm, "start": format!("{:#x}", vma.start), "end": format!("{:#x}", vma.end) });
    ask.write(question, &format!("pid.{pid}.vma.{:#x}-{:#x}.dmp", vma.start, vma.end), &range, &more)
}
