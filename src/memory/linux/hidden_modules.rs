//! `linux.hidden_modules` and `linux.check_modules`: modules that are in one of the kernel's structures and not in its list.
//!
//! Source: `modules` against `mod_tree` (the tree by which addresses are told from modules, `kernel/module/`), `module_kset` (sysfs), and the
//! memory that modules lie in: a `struct module` is there as long as its code is, and its `mkobj.mod` points at itself. A module that
//! overwrote that, too, is found only by what it left elsewhere (`linux.check_syscall`, `linux.keyboard_notifiers` and their like).

use std::collections::{BTreeMap, HashSet};

use super::super::cells::text;
use super::super::{MemoryError, Outcome};
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
    let mut found: BTreeMap<u64, (Object<'k>, usize)> = BTreeMap::new();
    let places = [("mod_tree", in_tree(kernel, ask)), ("sysfs", in_sysfs(kernel, ask)), ("memory", in_memory(kernel))];
    for (n, (place, modules)) in places.into_iter().enumerate() {
        match modules {
            Ok(modules) => {
                for module in modules.into_iter().filter(|module| !listed.contains(&module.at)) {
                    found.entry(module.at).or_insert((module, 0)).1 |= 1 << n;
                }
            }
            Err(error) => ask.note(format!("modules of {place}: {error}")),
        }
    }
    let named = |(module, places): (Object<'k>, usize)| (module, PLACES.get(places).copied().unwrap_or_default());
    Ok(found.into_values().map(named).collect())
}

/// Where a module was found: a bit each for the tree, sysfs and memory.
const PLACES: [&str; 8] = [
    "",
    "mod_tree",
    "sysfs",
    "mod_tree and sysfs",
    "memory",
    "mod_tree and memory",
    "sysfs and memory",
    "mod_tree, sysfs and memory",
];

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

/// The most bytes of addresses that modules lie in: x86-64 has 1.5 GiB for them, ARM 2 GiB.
const AREA: u64 = 2 << 30;
const PAGE: u64 = 4096;

/// Modules that are in the memory which the kernel gives to modules.
fn in_memory(kernel: &Kernel) -> Outcome<Vec<Object<'_>>> {
    // `struct mod_tree_root`: behind the tree, the lowest and the highest address that a module ever had.
    let ends = kernel
        .symbol("mod_tree")?
        .wrapping_add(kernel.types.find("latch_tree_root").map_or(24, |id| kernel.types.size(id)));
    let (low, high) = (kernel.space.u64(ends)? & !(PAGE - 1), kernel.space.u64(ends.wrapping_add(8))?);
    if low > high || high - low > AREA || low >> 63 == 0 {
        return Err(MemoryError::corrupt("mod_tree", ends, format!("modules from {low:#x} to {high:#x}")));
    }
    let within = kernel.offset("module", "mkobj.mod")?;
    let mut modules = Vec::new();
    for page in (low..high).step_by(PAGE as usize) {
        let Ok(bytes) = kernel.space.vec(page, PAGE as usize) else { continue };
        for (at, word) in (page..).step_by(8).zip(bytes.as_chunks::<8>().0) {
            let begin = at.wrapping_sub(within);
            if u64::from_le_bytes(*word) == begin {
                let module = kernel.object("module", begin)?;
                modules.extend(plausible(&module).then_some(module));
            }
        }
    }
    Ok(modules)
}

/// Has it a state that there is, and a name?
fn plausible(module: &Object<'_>) -> bool {
    let named =
        module.text("name").is_ok_and(|name| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic()));
    named && module.u64("state").is_ok_and(|state| state < 4)
}
