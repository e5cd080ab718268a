//! `linux.iomem`, `linux.vmcoreinfo` and `linux.kallsyms`: what the kernel says of the machine and of itself.
//!
//! Source: `iomem_resource` (`struct resource`, `kernel/resource.c`), the crash note, and kallsyms: the kernel's own,
//! and those of modules on the kernel's list.

use std::collections::HashSet;

use super::super::Outcome;
use super::super::cells::text;
use super::{Ask, Kernel};
use crate::report::{Absent, Cell, Column, Rows};

/// Columns of `linux.iomem`.
pub const IOMEM: &[Column] = &[Column("depth"), Column("name"), Column("start"), Column("end")];
/// Columns of `linux.vmcoreinfo`.
pub const VMCOREINFO: &[Column] = &[Column("offset"), Column("key"), Column("value")];
/// Columns of `linux.kallsyms`.
pub const KALLSYMS: &[Column] = &[Column("address"), Column("type"), Column("symbol_name"), Column("module")];

/// The most ranges of a machine.
const MOST: usize = 1 << 16;

/// The machine's ranges of physical addresses, each below the one it is a part of.
pub fn iomem(kernel: &Kernel, ask: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
    let mut waiting = vec![(0, kernel.global("iomem_resource", "resource")?)];
    let mut seen = HashSet::new();
    while let Some((depth, resource)) = waiting.pop() {
        if !seen.insert(resource.at) || seen.len() > MOST {
            ask.note(format!("the resource at {:#x} leads back into others", resource.at));
            continue;
        }
        let place = |path| super::super::cells::address(resource.u64(path));
        rows.row(vec![Cell::Int(depth), text(resource.text("name")), place("start"), place("end")])?;
        // Its sibling waits below its children.
        for (member, depth) in [("sibling", depth), ("child", depth + 1)] {
            match resource.perhaps(member) {
                Ok(next) => waiting.extend(next.map(|next| (depth, next))),
                Err(error) => ask.note(format!("what follows the resource at {:#x}: {error}", resource.at)),
            }
        }
    }
    Ok(())
}

/// The lines of the crash note.
pub fn vmcoreinfo(kernel: &Kernel, ask: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
    let Some(note) = kernel.note() else {
        ask.note("there is no VMCOREINFO in memory");
        return Ok(());
    };
    for (key, value) in &note.lines {
        rows.row(vec![Cell::Address(note.at), Cell::text(key), Cell::text(value)])?;
    }
    Ok(())
}

/// Every symbol of the kernel's own image, then those of its modules.
pub fn kallsyms(kernel: &Kernel, ask: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
    for symbol in kernel.symbols.iter() {
        rows.row(vec![
            Cell::Address(symbol.address),
            Cell::text(symbol.kind),
            Cell::text(symbol.name),
            Cell::Absent(Absent::NotApplicable),
        ])?;
    }
    for symbol in kernel.module_symbols(ask) {
        let kind = Cell::or_absent(symbol.kind, Absent::Unknown, Cell::text);
        rows.row(vec![Cell::Address(symbol.address), kind, Cell::text(&symbol.name), Cell::text(&symbol.module)])?;
    }
    Ok(())
}
