//! `linux.malfind`: memory of programs that may be written and executed, or was made executable, without a file behind it.
//!
//! Source: `vm_flags` and `vm_file` of `struct vm_area_struct`. Compilers at run time (Java, JavaScript) do this by trade: the first bytes are shown, so
//! that an examiner can tell. Ranges of which no page is in memory are shown without bytes.

use super::super::Outcome;
use super::super::cells::{int, text};
use super::vma::{self, EXECUTE, Vma, WRITE};
use super::{Ask, Kernel, Task};
use crate::image::hex;
use crate::report::{Absent, Cell, Column, Rows};

/// Its columns.
pub const COLUMNS: &[Column] = &[
    Column("pid"),
    Column("comm"),
    Column("start"),
    Column("end"),
    Column("path"),
    Column("protection"),
    Column("resident_pages"),
    Column("first_bytes_at"),
    Column("first_bytes"),
];

/// Bytes that are shown.
const SHOWN: usize = 64;
/// Pages of one process that are looked at: a range may claim to be as long as the address space.
pub(super) const PAGES: u64 = 1 << 18;

/// See the module.
pub fn run(kernel: &Kernel, ask: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
    for task in kernel.processes(ask)? {
        let mut budget = PAGES;
        for vma in suspicious(&task, ask) {
            let path = task.mm().and_then(|mm| vma.name(&mm)).map(|path| path.text);
            let (pages, first) = content(&task, &vma, &mut budget);
            let (at, bytes) = match first {
                Some((at, bytes)) => (Cell::Address(at), Cell::Text(hex(&bytes))),
                None => (Cell::Absent(Absent::Unreadable), Cell::Absent(Absent::Unreadable)),
            };
            rows.row(vec![
                int(task.pid()),
                text(task.comm()),
                Cell::Address(vma.start),
                Cell::Address(vma.end),
                text(path),
                Cell::text(vma.protection()),
                Cell::Int(pages),
                at,
                bytes,
            ])?;
        }
    }
    Ok(())
}

/// Ranges that no ordinary program has.
pub(super) fn suspicious<'k>(task: &Task<'k>, ask: &Ask) -> Vec<Vma<'k>> {
    let mut list = vma::all(task, ask);
    let vdso = task.mm().and_then(|mm| mm.u64("context.vdso")).unwrap_or(0);
    list.retain(|vma| {
        let executable = vma.flags & EXECUTE != 0 && vma.start != vdso;
        executable && (vma.flags & WRITE != 0 || vma.file().is_err())
    });
    list
}

/// Pages that are in memory, and the first bytes that are not all zero.
pub(super) fn content(task: &Task<'_>, vma: &Vma<'_>, budget: &mut u64) -> (i64, Option<(u64, Vec<u8>)>) {
    let Ok(space) = task.space() else { return (0, None) };
    let (mut pages, mut first) = (0, None);
    for n in 0..((vma.end - vma.start) / 4096).min(*budget) {
        *budget -= 1;
        let at = vma.start + n * 4096;
        if space.translate(at).is_err() {
            continue;
        }
        pages += 1;
        if first.is_none()
            && let Ok(bytes) = space.vec(at, SHOWN)
            && bytes.iter().any(|&byte| byte != 0)
        {
            first = Some((at, bytes));
        }
    }
    (pages, first)
}
