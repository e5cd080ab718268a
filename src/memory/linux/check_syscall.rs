//! `linux.check_syscall`: the tables of system calls, and what each entry leads to.
//!
//! Source: `sys_call_table` and `ia32_sys_call_table`. Newer kernels (6.9) call through a switch in code and keep the table for tracing only: a
//! hook in code is not seen here.

use super::super::Outcome;
use super::super::cells::some_text;
use super::{Ask, Kernel};
use crate::report::{Cell, Column, Rows};

/// Its columns.
pub const COLUMNS: &[Column] = &[
    Column("table_address"),
    Column("table_name"),
    Column("index"),
    Column("handler_address"),
    Column("handler_symbol"),
    Column("hooked"),
];

/// One entry of a table.
pub(super) struct Entry {
    pub(super) table: (&'static str, u64),
    pub(super) index: u64,
    pub(super) handler: u64,
}

/// See the module.
pub fn run(kernel: &Kernel, ask: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
    for entry in entries(kernel, ask)? {
        rows.row(vec![
            Cell::Address(entry.table.1),
            Cell::text(entry.table.0),
            Cell::Int(entry.index as i64),
            Cell::Address(entry.handler),
            some_text(kernel.name_of(entry.handler)),
            Cell::Bool(!kernel.in_text(entry.handler)),
        ])?;
    }
    Ok(())
}

/// All entries of both tables.
pub(super) fn entries(kernel: &Kernel, ask: &Ask) -> Outcome<Vec<Entry>> {
    let mut all = Vec::new();
    for (name, at) in [("64bit", kernel.symbol("sys_call_table")?)]
        .into_iter()
        .chain(kernel.symbols.address("ia32_sys_call_table").map(|at| ("32bit", at)))
    {
        // The table ends where the next symbol begins; what follows is no handler.
        let next = kernel.symbols.iter().map(|symbol| symbol.address).filter(|next| *next > at).min();
        let most = next.map_or(512, |next| (next - at) / 8).min(1024);
        for index in 0..most {
            match kernel.space.u64(at.wrapping_add(8 * index)) {
                Ok(handler) if handler >> 63 == 1 => all.push(Entry { table: (name, at), index, handler }),
                Ok(_) => break,
                Err(fault) => {
                    ask.note(format!("the table of system calls ({name}) from {index} on: {fault}"));
                    break;
                }
            }
        }
    }
    Ok(all)
}
