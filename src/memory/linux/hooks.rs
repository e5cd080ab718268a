//! `linux.check_idt`, `linux.check_afinfo`, `linux.tty_check`, `linux.keyboard_notifiers` and `linux.netfilter`: functions that the kernel calls on an event, and whose they are.
//!
//! Source: `idt_table` (Intel SDM volume 3, 6.14), `tty_drivers` (`include/linux/tty_driver.h`), `keyboard_notifier_list` (`struct notifier_block`) and the hooks of
//! each network namespace (`struct nf_hook_entries`). What is neither in the kernel's code nor in a listed module's is `hooked`.

use super::super::cells::{some_text, uint};
use super::super::paging::Tables;
use super::super::{MemoryError, Outcome};
use super::kthreads::whose;
use super::{Ask, Kernel, Object, lsmod};
use crate::report::{Cell, Column, Rows};

/// Columns of `linux.check_idt`.
pub const IDT: &[Column] = &[Column("index"), Column("address"), Column("module"), Column("symbol"), Column("hooked")];
/// Columns of `linux.tty_check`.
pub const TTY: &[Column] = &[Column("name"), Column("address"), Column("module"), Column("symbol"), Column("hooked")];
/// Columns of `linux.keyboard_notifiers`.
pub const KEYBOARD: &[Column] = &[Column("address"), Column("module"), Column("symbol"), Column("hooked")];
/// Columns of `linux.netfilter`.
pub const NETFILTER: &[Column] = &[
    Column("net_ns"),
    Column("proto"),
    Column("hook"),
    Column("priority"),
    Column("handler"),
    Column("module"),
    Column("symbol"),
    Column("hooked"),
];

/// A function that is called, and for what.
pub(super) struct Hook {
    pub(super) what: Vec<Cell>,
    pub(super) name: String,
    pub(super) function: u64,
}

fn print(kernel: &Kernel, ask: &Ask, hooks: Vec<Hook>, rows: &mut dyn Rows) -> Outcome<()> {
    let modules = lsmod::all_ranges(kernel, ask)?;
    for hook in hooks {
        let (module, symbol) = whose(kernel, &modules, hook.function);
        let mut cells = hook.what;
        let hooked = Cell::Bool(module.is_none());
        cells.extend([Cell::Address(hook.function), some_text(module), some_text(symbol), hooked]);
        rows.row(cells)?;
    }
    Ok(())
}

/// Columns of `linux.check_afinfo`.
pub const AFINFO: &[Column] = &[
    Column("symbol_name"),
    Column("member"),
    Column("handler_address"),
    Column("module"),
    Column("symbol"),
    Column("hooked"),
];

/// What prints the lists of sockets in /proc (`struct seq_operations`): rootkits that hide a connection begin here.
const LISTS: [&str; 10] = [
    "raw_seq_ops",
    "udp_seq_ops",
    "arp_seq_ops",
    "unix_seq_ops",
    "udp6_seq_ops",
    "raw6_seq_ops",
    "tcp_seq_ops",
    "tcp4_seq_ops",
    "tcp6_seq_ops",
    "packet_seq_ops",
];

/// What is called to list sockets.
pub fn check_afinfo(kernel: &Kernel, ask: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
    print(kernel, ask, lists(kernel, ask)?, rows)
}

pub(super) fn lists(kernel: &Kernel, ask: &Ask) -> Outcome<Vec<Hook>> {
    let modules = kernel.module_symbols(ask);
    let mut hooks = Vec::new();
    for name in LISTS {
        // Protocols may be in a module, or in none.
        let module = || modules.iter().find(|symbol| symbol.name == name).map(|symbol| symbol.address);
        let Some(at) = kernel.symbols.address(name).or_else(module) else { continue };
        let operations = kernel.object("seq_operations", at)?;
        for member in ["start", "stop", "next", "show"] {
            if let function @ 1.. = operations.u64(member)? {
                let what = vec![Cell::text(name), Cell::text(member)];
                hooks.push(Hook { what, name: format!("{name}.{member}"), function });
            }
        }
    }
    Ok(hooks)
}

/// Handlers of interrupts and traps.
pub fn check_idt(kernel: &Kernel, ask: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
    // Only x86 has such a table.
    if !matches!(kernel.place.tables, Tables::X86(_)) {
        return Ok(());
    }
    print(kernel, ask, interrupts(kernel)?, rows)
}

pub(super) fn interrupts(kernel: &Kernel) -> Outcome<Vec<Hook>> {
    let table = kernel.space.vec(kernel.symbol("idt_table")?, 256 * 16)?;
    let mut hooks = Vec::new();
    for (n, gate) in table.chunks_exact(16).enumerate() {
        let word = |at: usize| gate.get(at..at + 8).and_then(|w| w.try_into().ok()).map_or(0, u64::from_le_bytes);
        let (low, high) = (word(0), word(8));
        // Not present.
        if low >> 47 & 1 == 0 {
            continue;
        }
        let function = low & 0xffff | low >> 32 & 0xffff_0000 | high << 32;
        hooks.push(Hook { what: vec![Cell::Int(n as i64)], name: format!("interrupt {n:#x}"), function });
    }
    Ok(hooks)
}

/// What each terminal's line discipline calls with what is typed.
pub fn tty_check(kernel: &Kernel, ask: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
    print(kernel, ask, terminals(kernel, ask)?, rows)
}

pub(super) fn terminals(kernel: &Kernel, ask: &Ask) -> Outcome<Vec<Hook>> {
    let drivers = kernel.list(kernel.symbol("tty_drivers")?, "tty_driver", "tty_drivers")?;
    let mut hooks = Vec::new();
    for driver in ask.all("the list of terminal drivers", drivers) {
        let (count, ttys) = (driver.u64("num")?.min(4096), driver.u64("ttys")?);
        if ttys == 0 {
            continue;
        }
        for n in 0..count {
            let Ok(tty @ 1..) = kernel.space.u64(ttys.wrapping_add(8 * n)) else { continue };
            let tty = kernel.object("tty_struct", tty)?;
            let Ok(function) = tty.u64("ldisc.ops.receive_buf") else { continue };
            let name = tty.text("name").unwrap_or_default();
            hooks.push(Hook { what: vec![Cell::text(&name)], name: format!("terminal {name}"), function });
        }
    }
    Ok(hooks)
}

/// Who is told of each key.
pub fn keyboard_notifiers(kernel: &Kernel, ask: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
    print(kernel, ask, keyboard(kernel, ask)?, rows)
}

pub(super) fn keyboard(kernel: &Kernel, ask: &Ask) -> Outcome<Vec<Hook>> {
    let head = kernel.global("keyboard_notifier_list", "atomic_notifier_head")?;
    let mut hooks = Vec::new();
    let mut next = head.perhaps("head")?;
    for _ in 0..1024 {
        let Some(block) = next else { return Ok(hooks) };
        let name = "keyboard notifier".to_owned();
        hooks.push(Hook { what: Vec::new(), name, function: block.u64("notifier_call")? });
        next = block.perhaps("next")?;
    }
    ask.note("the list of keyboard notifiers leads back into itself");
    Ok(hooks)
}

const PROTOCOLS: [(&str, &[&str]); 5] = [
    ("IPV4", &["hooks_ipv4"]),
    ("IPV6", &["hooks_ipv6"]),
    ("ARP", &["hooks_arp"]),
    ("BRIDGE", &["hooks_bridge"]),
    ("DECNET", &["hooks_decnet"]),
];
const PLACES: [&str; 5] = ["PRE_ROUTING", "LOCAL_IN", "FORWARD", "LOCAL_OUT", "POST_ROUTING"];

/// Who sees, changes or drops packets.
pub fn netfilter(kernel: &Kernel, ask: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
    print(kernel, ask, packets(kernel, ask)?, rows)
}

pub(super) fn packets(kernel: &Kernel, ask: &Ask) -> Outcome<Vec<Hook>> {
    let namespaces = kernel.list(kernel.symbol("net_namespace_list")?, "net", "list")?;
    let mut hooks = Vec::new();
    for net in ask.all("the list of network namespaces", namespaces) {
        let filter = net.get("nf")?;
        for (protocol, members) in PROTOCOLS {
            let Some(lists) = members.iter().find(|member| filter.has(member)).map(|member| filter.get(member)) else {
                continue;
            };
            let lists = lists?;
            for n in 0..lists.count().min(16) {
                if let Ok(entries) = lists.element(n).follow_self() {
                    hooks.extend(of_entries(&net, protocol, n, &entries)?);
                }
            }
        }
    }
    Ok(hooks)
}

/// A number of entries, as many entries (function, its own argument), then what each was registered with.
fn of_entries(net: &Object<'_>, protocol: &str, place: u64, entries: &Object<'_>) -> Outcome<Vec<Hook>> {
    let count = entries.u64("num_hook_entries")?.min(1024);
    let list = entries.get("hooks")?;
    let step = entries.kernel.types.find("nf_hook_entry").map_or(16, |id| entries.kernel.types.size(id));
    let operations = list.at.wrapping_add(count.wrapping_mul(step));
    let mut hooks = Vec::new();
    for n in 0..count {
        let function = list.element(n).u64("hook")?;
        let priority = entries.kernel.space.u64(operations.wrapping_add(8 * n)).map_err(MemoryError::from);
        let priority = priority.and_then(|at| entries.kernel.object("nf_hook_ops", at)?.i64("priority"));
        let place_name = PLACES.get(place as usize).copied().unwrap_or("OTHER");
        let what = vec![
            uint(net.u64("ns.inum")),
            Cell::text(protocol),
            Cell::text(place_name),
            super::super::cells::int(priority),
        ];
        hooks.push(Hook { what, name: format!("netfilter {protocol} {place_name}"), function });
    }
    Ok(hooks)
}
