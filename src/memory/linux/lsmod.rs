//! `linux.lsmod`: the kernel's own list of its modules.
//!
//! Source: `modules` and `struct module` (`include/linux/module.h`); sizes are in `core_layout`, or in `mem` since 6.4. A module that
//! took itself off the list is not seen: `linux.hidden_modules` looks for those.

use super::super::Outcome;
use super::super::cells::{text, uint};
use super::{Ask, Kernel, Object};
use crate::report::{Absent, Cell, Column, Rows};

/// Letters of the bits of `taints`, in their order (`kernel/panic.c`, `taint_flags`).
const TAINTS: &str = "PFSRMBUDAWCIOELKXTN";

/// Its columns.
pub const COLUMNS: &[Column] = &[
    Column("offset"),
    Column("name"),
    Column("base"),
    Column("size"),
    Column("taints"),
    Column("references"),
    Column("load_arguments"),
];

/// See the module.
pub fn run(kernel: &Kernel, ask: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
    for module in modules(kernel, ask)? {
        rows.row(row(&module))?;
    }
    Ok(())
}

/// The modules of the list.
pub(super) fn modules<'k>(kernel: &'k Kernel, ask: &Ask) -> Outcome<Vec<Object<'k>>> {
    Ok(ask.all("the list of modules", kernel.list(kernel.symbol("modules")?, "module", "list")?))
}

fn row(module: &Object<'_>) -> Vec<Cell> {
    let ranges = ranges(module);
    let size = ranges.as_ref().map(|all| all.iter().fold(0_u64, |sum, (_, size)| sum.saturating_add(*size)));
    let base = ranges.as_ref().ok().and_then(|all| all.first()).map(|(base, _)| *base);
    vec![
        Cell::Address(module.at),
        text(module.text("name")),
        Cell::or_absent(base, Absent::Unreadable, Cell::Address),
        size.map_or_else(|error| Cell::Absent(error.absent()), Cell::Bytes),
        text(taints(module)),
        // One reference is the module's own.
        uint(module.u64("refcnt.counter").map(|count| count.saturating_sub(1))),
        text(module.text("args")),
    ]
}

/// Letters of what it did to the kernel's good name.
pub(super) fn taints(module: &Object<'_>) -> Outcome<String> {
    let bits = module.u64("taints")?;
    Ok(TAINTS.chars().enumerate().filter(|(n, _)| bits >> n & 1 == 1).map(|(_, letter)| letter).collect())
}

/// Where its code and data lie: begin and size of each part, the first being its code.
pub(super) fn ranges(module: &Object<'_>) -> Outcome<Vec<(u64, u64)>> {
    let mut all = Vec::new();
    if module.has("mem") {
        let parts = module.get("mem")?;
        for n in 0..parts.count().min(16) {
            let part = parts.element(n);
            all.push((part.u64("base")?, part.u64("size")?));
        }
    } else {
        for layout in ["core_layout", "init_layout"] {
            let layout = module.get(layout)?;
            all.push((layout.u64("base")?, layout.u64("size")?));
        }
    }
    all.retain(|(base, size)| *base != 0 && *size != 0);
    Ok(all)
}

/// Name of the module that an address lies in.
pub(super) fn owner(ranges: &[(String, u64, u64)], address: u64) -> Option<&str> {
    let found = ranges.iter().find(|(_, base, size)| address.checked_sub(*base).is_some_and(|within| within < *size));
    found.map(|(name, ..)| name.as_str())
}

/// All ranges of all modules of the list, with their names.
pub(super) fn all_ranges(kernel: &Kernel, ask: &Ask) -> Outcome<Vec<(String, u64, u64)>> {
    let mut all = Vec::new();
    for module in modules(kernel, ask)? {
        let name = module.text("name").unwrap_or_default();
        all.extend(ranges(&module).unwrap_or_default().into_iter().map(|(base, size)| (name.clone(), base, size)));
    }
    Ok(all)
}
