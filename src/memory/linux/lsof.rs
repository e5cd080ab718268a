//! `linux.lsof`: the open files of each process.
//!
//! Source: `struct files_struct` and `struct file`. Paths are those of the guest's first root, through all mounts. `deleted` files have no
//! name in any folder any more; their content may still be there.

use super::super::Outcome;
use super::super::cells::{cell, int, some_text, text, uint};
use super::files::{self, FilePath};
use super::{Ask, Kernel, Object, Task, pagecache};
use crate::report::{Cell, Column, Rows};

/// Its columns.
pub const COLUMNS: &[Column] = &[
    Column("pid"),
    Column("tid"),
    Column("comm"),
    Column("fd"),
    Column("path"),
    Column("deleted"),
    Column("device"),
    Column("inode"),
    Column("type"),
    Column("mode"),
    Column("changed"),
    Column("modified"),
    Column("accessed"),
    Column("size"),
    Column("file_output"),
];

/// See the module.
pub fn run(kernel: &Kernel, ask: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
    for task in kernel.tasks(ask)? {
        for (number, file) in files::open_files(&task, ask) {
            let mut cells = row(&task, number, &file);
            cells.push(write(kernel, ask, &task, number, &file)?);
            rows.row(cells)?;
        }
    }
    Ok(())
}

fn row(task: &Task<'_>, number: i64, file: &Object<'_>) -> Vec<Cell> {
    let path = files::path_of(file);
    let inode = file.follow("f_inode");
    let of = |path| inode.as_ref().ok().map(|inode| inode.u64(path));
    let missing = || Err(super::super::MemoryError::Null("f_inode"));
    let mode = || of("i_mode").unwrap_or_else(missing);
    let mut cells = vec![int(task.pid()), int(task.tid()), text(task.comm()), Cell::Int(number)];
    let deleted = path.as_ref().ok().map(|path| path.deleted);
    cells.push(cell(path, |FilePath { text, .. }| Cell::Text(text)));
    cells.push(Cell::or_absent(deleted, crate::report::Absent::Unreadable, Cell::Bool));
    cells.push(text(of("i_sb.s_dev").unwrap_or_else(missing).map(files::device)));
    cells.push(uint(of("i_ino").unwrap_or_else(missing)));
    cells.push(cell(mode(), |mode| Cell::text(files::kind(mode))));
    cells.push(cell(mode(), |mode| Cell::text(files::permissions(mode))));
    let size = cell(of("i_size").unwrap_or_else(missing), Cell::Bytes);
    cells.extend(files::times(inode.as_ref().ok()));
    cells.push(size);
    cells
}

/// Writes what memory holds of an open file, if files are asked for: also of one that was deleted.
fn write(kernel: &Kernel, ask: &Ask, task: &Task<'_>, number: i64, file: &Object<'_>) -> Outcome<Cell> {
    let inode = file.follow("f_inode").ok();
    let regular = |inode: &Object<'_>| inode.u64("i_mode").is_ok_and(|mode| files::kind(mode) == "REG");
    let cached = |inode: &Object<'_>| inode.u64("i_mapping.nrpages").is_ok_and(|pages| pages > 0);
    match inode.filter(|inode| ask.writes() && regular(inode) && cached(inode)) {
        Some(inode) => {
            let name = format!("pid.{}.fd.{number}", task.tid().unwrap_or(0));
            pagecache::write(kernel, ask, "linux.lsof", &name, &inode)
        }
        None => Ok(some_text(None)),
    }
}
