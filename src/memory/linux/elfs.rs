//! `linux.elfs` and `linux.library_list`: ELF files that are mapped into each process.
//!
//! Source: the first bytes of each mapping (`linux.elfs`), and of those the shared objects (`linux.library_list`). Volatility follows the dynamic linker's own list
//! instead, which a program can change; what the kernel has mapped it cannot.

use super::super::Outcome;
use super::super::cells::{int, text};
use super::vma::{self, Vma};
use super::{Ask, Kernel, Task, maps};
use crate::report::{Cell, Column, Rows};

/// Columns of `linux.elfs`.
pub const COLUMNS: &[Column] = &[
    Column("pid"),
    Column("comm"),
    Column("start"),
    Column("end"),
    Column("type"),
    Column("path"),
    Column("deleted"),
    Column("file_output"),
];
/// Columns of `linux.library_list`.
pub const LIBRARIES: &[Column] = &[Column("comm"), Column("pid"), Column("load_address"), Column("path")];

/// See the module.
pub fn run(kernel: &Kernel, ask: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
    for task in kernel.processes(ask)? {
        for (vma, kind) in elfs(&task, ask) {
            let path = task.mm().and_then(|mm| vma.name(&mm));
            let deleted = path.as_ref().is_ok_and(|path| path.deleted);
            rows.row(vec![
                int(task.pid()),
                text(task.comm()),
                Cell::Address(vma.start),
                Cell::Address(vma.end),
                Cell::text(kind),
                text(path.map(|path| path.text)),
                Cell::Bool(deleted),
                maps::write("linux.elfs", ask, &task, &vma)?,
            ])?;
        }
    }
    Ok(())
}

/// Shared objects alone; the vdso, which the kernel itself maps, is none.
pub fn libraries(kernel: &Kernel, ask: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
    for task in kernel.processes(ask)? {
        let program = task.mm().and_then(|mm| mm.u64("start_code")).unwrap_or(0);
        for (vma, kind) in elfs(&task, ask) {
            let Ok(path) = task.mm().and_then(|mm| vma.name(&mm)) else { continue };
            if kind == "shared object" && vma.file().is_ok() && !(vma.start..vma.end).contains(&program) {
                rows.row(vec![text(task.comm()), int(task.pid()), Cell::Address(vma.start), Cell::Text(path.text)])?;
            }
        }
    }
    Ok(())
}

/// Mappings that begin with an ELF header, and what it says.
fn elfs<'k>(task: &Task<'k>, ask: &Ask) -> Vec<(Vma<'k>, &'static str)> {
    let Ok(space) = task.space() else { return Vec::new() };
    let mut found = Vec::new();
    for vma in vma::all(task, ask) {
        let mut head = [0; 18];
        if vma.len(18) == 18 && space.read(vma.start, &mut head).is_ok() && head.starts_with(b"\x7fELF") {
            let kind = match head.get(16) {
                Some(1) => "relocatable",
                Some(2) => "executable",
                Some(3) => "shared object",
                Some(4) => "core",
                _ => "unknown",
            };
            found.push((vma, kind));
        }
    }
    found
}
