//! `linux.hidden_modules` and `linux.check_modules`: modules that are in one of the kernel's structures and not in its list.
//!
//! Source: `modules` against `mod_tree` (the tree by which addresses are told from modules, `kernel/module/`) and `module_kset` (sysfs). A module that took
//! itself out of all three is found only by what it left elsewhere (`linux.check_syscall`, `linux.keyboard_notifiers` and their like).

use std::collections::{BTreeMap, HashSet};

use super::super::Outcome;
use super::super::cells::text;
use super::{Ask, Kernel, Object, lsmod};
use crate::report::{Cell, Column, Rows};

/// Columns of both.
pub const COLUMNS: &[Column] = &[Column("offset"), Column("name"), Column("found_in")];

/// Modules that are anywhere but in the list.
pub fn run(kernel: &Kernel, ask: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
    for (module, place) in hidden(kernel, ask)? {
        rows.row(vec![Cell::Address(module.at), text(module.text("name")), Cell::text(place)])?;
    }
    Ok(())
}

/// Modules that sysfs shows and the list does not.
pub fn run_check(kernel: &Kernel, ask: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
    let listed: HashSet<u64> = lsmod::modules(kernel, ask)?.iter().map(|module| module.at).collect();
    for module in in_sysfs(kernel, ask)?.into_iter().filter(|module| !listed.contains(&module.at)) {
        rows.row(vec![Cell::Address(module.at), text(module.text("name")), Cell::text("sysfs")])?;
    }
    Ok(())
}

/// Modules that are not in the list, and where they are.
pub(super) fn hidden<'k>(kernel: &'k Kernel, ask: &Ask) -> Outcome<Vec<(Object<'k>, &'static str)>> {
    let listed: HashSet<u64> = lsmod::modules(kernel, ask)?.iter().map(|module| module.at).collect();
    let mut found = BTreeMap::new();
    let places: [(&'static str, Outcome<Vec<Object<'k>>>); 2] =
        [("mod_tree", in_tree(kernel, ask)), ("sysfs", in_sysfs(kernel, ask))];
    for (place, modules) in places {
        match modules {
            Ok(modules) => {
                for module in modules.into_iter().filter(|module| !listed.contains(&module.at)) {
                    found.entry(module.at).or_insert((module, place));
                }
            }
            Err(error) => ask.note(format!("modules of {place}: {error}")),
        }
    }
    Ok(found.into_values().collect())
}

fn in_sysfs<'k>(kernel: &'k Kernel, ask: &Ask) -> Outcome<Vec<Object<'k>>> {
    let set = kernel.space.u64(kernel.symbol("module_kset")?)?;
    let head = kernel.object("kset", set)?.get("list")?.at;
    let objects = ask.all("the modules of sysfs", kernel.list(head, "kobject", "entry")?);
    let back = kernel.offset("module_kobject", "kobj")?;
    let mut modules = Vec::new();
    for object in objects {
        // What is built into the kernel has an entry and no module.
        let entry = kernel.object("module_kobject", object.at.wrapping_sub(back))?;
        if let Ok(module) = entry.follow("mod") {
            modules.push(module);
        }
    }
    Ok(modules)
}

fn in_tree<'k>(kernel: &'k Kernel, ask: &Ask) -> Outcome<Vec<Object<'k>>> {
    // `struct mod_tree_root` begins with a latched tree: a counter, and two roots for the same members.
    let root = kernel.symbol("mod_tree")?;
    let roots = root.wrapping_add(kernel.offset("latch_tree_root", "tree").unwrap_or(8));
    let first = kernel.space.u64(roots)?;
    let nodes = ask.all("the tree of modules", kernel.tree(first, "latch_tree_node", "node")?);
    let back = kernel.offset("mod_tree_node", "node")?;
    let mut modules = Vec::new();
    for node in nodes {
        let node = kernel.object("mod_tree_node", node.at.wrapping_sub(back))?;
        modules.extend(node.follow("mod").ok());
    }
    modules.dedup_by_key(|module| module.at);
    Ok(modules)
}
