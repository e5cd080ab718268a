//! `linux.hidden_modules` and `linux.check_modules`: modules that are in one of the kernel's structures and not in its list.
//!
//! Source: `modules` against `mod_tree` (the tree by which addresses are told from modules, `kernel/module/`), `module_kset` (sysfs), and the
//! memory that modules lie in: a `struct module` is there as long as its code is, and its `mkobj.mod` points at itself (`linux.modxview` shows all
//! four). A module that overwrote that, too, is found only by what it left elsewhere (`linux.check_syscall`, `linux.keyboard_notifiers` and their like).

use std::collections::{BTreeMap, HashSet};

use super::super::Outcome;
use super::super::cells::text;
use super::{Ask, Kernel, Object, lsmod};
use crate::report::{Cell, Column, Rows};

/// Columns of both.
pub const COLUMNS: &[Column] = &[Column("offset"), Column("name"), Column("found_in")];

/// Columns of `linux.modxview`.
pub const VIEW: &[Column] = &[
    Column("name"),
    Column("address"),
    Column("in_procfs"),
    Column("in_sysfs"),
    Column("in_scan"),
    Column("in_mod_tree"),
    Column("taints"),
];

/// Bytes that modules are looked for in, at most: as much as any architecture keeps for them at a time.
const MOST_BYTES: u64 = 1 << 30;

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
    let places =
        [("mod_tree", in_tree(kernel, ask)), ("sysfs", in_sysfs(kernel, ask)), ("memory", in_memory(kernel, ask))];
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

/// Every module, and in which of the places it is.
pub fn view(kernel: &Kernel, ask: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
    let listed = lsmod::modules(kernel, ask);
    let places = [listed, in_sysfs(kernel, ask), in_memory(kernel, ask), in_tree(kernel, ask)];
    let mut all = BTreeMap::new();
    for (n, (place, modules)) in ["the list", "sysfs", "memory", "mod_tree"].into_iter().zip(places).enumerate() {
        match modules {
            Ok(modules) => {
                for module in modules {
                    let (_, seen) = all.entry(module.at).or_insert((module, [false; 4]));
                    if let Some(seen) = seen.get_mut(n) {
                        *seen = true;
                    }
                }
            }
            Err(error) => ask.note(format!("modules of {place}: {error}")),
        }
    }
    for (module, seen) in all.into_values() {
        let mut cells = vec![text(module.text("name")), Cell::Address(module.at)];
        cells.extend(seen.map(Cell::Bool));
        cells.push(text(lsmod::taints(&module)));
        rows.row(cells)?;
    }
    Ok(())
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

/// Modules by what they look like: each points at itself from within (`mkobj.mod`).
fn in_memory<'k>(kernel: &'k Kernel, ask: &Ask) -> Outcome<Vec<Object<'k>>> {
    let root = kernel.object("mod_tree_root", kernel.symbol("mod_tree")?)?;
    // Since 6.4 data may lie in a range of its own.
    let mut ends = vec![(root.u64("addr_min")?, root.u64("addr_max")?)];
    if root.has("data_addr_min") {
        ends.push((root.u64("data_addr_min")?, root.u64("data_addr_max")?));
    }
    let own = kernel.offset("module", "mkobj.mod")?;
    let mut found = Vec::new();
    for (begin, end) in ends.into_iter().filter(|(begin, end)| begin < end && begin >> 63 == 1) {
        let end = end.saturating_add(4096);
        if end - begin > MOST_BYTES {
            ask.note(format!("modules lie within {} bytes, of which {MOST_BYTES} are looked through", end - begin));
        }
        let end = end.min(begin.saturating_add(MOST_BYTES));
        let mut at = begin & !4095;
        while at < end {
            if let Ok(page) = kernel.space.vec(at, 4096) {
                let words = page.chunks_exact(8).map(|word| word.try_into().map_or(0, u64::from_le_bytes));
                let selves =
                    (at..).step_by(8).zip(words).filter(|(at, word)| *word != 0 && at.wrapping_sub(own) == *word);
                for (_, begin) in selves {
                    let module = kernel.object("module", begin)?;
                    found.extend(plausible(&module).then_some(module));
                }
            }
            at += 4096;
        }
    }
    Ok(found)
}

/// Has it a state that there is, and a name?
fn plausible(module: &Object<'_>) -> bool {
    let named =
        module.text("name").is_ok_and(|name| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic()));
    named && module.u64("state").is_ok_and(|state| state < 4)
}
