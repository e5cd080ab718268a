//! `linux.ip.addr` and `linux.ip.link`: network cards and their addresses, in each network namespace.
//!
//! Source: `net_namespace_list`, `struct net`, `net_device`, `in_device`, `inet6_dev` (`include/linux/netdevice.h`, `inetdevice.h`, `net/if_inet6.h`).

use std::net::{Ipv4Addr, Ipv6Addr};

use super::super::Outcome;
use super::super::cells::{int, text, uint};
use super::{Ask, Kernel, Object};
use crate::report::{Absent, Cell, Column, Rows};

/// Columns of `linux.ip.addr`.
pub const ADDRESSES: &[Column] = &[
    Column("net_ns"),
    Column("index"),
    Column("interface"),
    Column("mac"),
    Column("promiscuous"),
    Column("ip"),
    Column("prefix"),
    Column("state"),
];
/// Columns of `linux.ip.link`.
pub const LINKS: &[Column] = &[
    Column("ns"),
    Column("interface"),
    Column("mac"),
    Column("state"),
    Column("mtu"),
    Column("qdisc"),
    Column("qlen"),
    Column("flags"),
];

const FLAGS: &[(u64, &str)] = &[
    (1, "UP"),
    (2, "BROADCAST"),
    (4, "DEBUG"),
    (8, "LOOPBACK"),
    (0x10, "POINTOPOINT"),
    (0x40, "RUNNING"),
    (0x80, "NOARP"),
    (0x100, "PROMISC"),
    (0x200, "ALLMULTI"),
    (0x400, "MASTER"),
    (0x800, "SLAVE"),
    (0x1000, "MULTICAST"),
    (0x1_0000, "LOWER_UP"),
];

/// Every card, with its namespace.
pub(super) fn devices<'k>(kernel: &'k Kernel, ask: &Ask) -> Outcome<Vec<(Object<'k>, Object<'k>)>> {
    let namespaces = kernel.list(kernel.symbol("net_namespace_list")?, "net", "list")?;
    let mut all = Vec::new();
    for net in ask.all("the list of network namespaces", namespaces) {
        let devices = kernel.list(net.get("dev_base_head")?.at, "net_device", "dev_list")?;
        all.extend(ask.all("a list of network cards", devices).into_iter().map(|device| (net, device)));
    }
    Ok(all)
}

/// Addresses; a card without any has one row.
pub fn addresses(kernel: &Kernel, ask: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
    for (net, device) in devices(kernel, ask)? {
        let mut found = four(kernel, &device).unwrap_or_default();
        found.extend(six(kernel, &device, ask).unwrap_or_default());
        if found.is_empty() {
            found.push((Cell::Absent(Absent::NotApplicable), Cell::Absent(Absent::NotApplicable)));
        }
        for (ip, prefix) in found {
            rows.row(vec![
                uint(net.u64("ns.inum")),
                int(device.i64("ifindex")),
                text(device.text("name")),
                text(mac(&device)),
                super::super::cells::cell(device.u64("flags"), |flags| Cell::Bool(flags & 0x100 != 0)),
                ip,
                prefix,
                text(state(&device)),
            ])?;
        }
    }
    Ok(())
}

/// Cards.
pub fn links(kernel: &Kernel, ask: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
    for (net, device) in devices(kernel, ask)? {
        let flags = device.u64("flags").map(|flags| {
            let running = if device.u64("operstate").is_ok_and(|state| matches!(state, 0 | 6)) { 0x40 } else { 0 };
            let names = FLAGS.iter().filter(|(bit, _)| (flags | running) & bit != 0).map(|(_, name)| *name);
            names.collect::<Vec<_>>().join(",")
        });
        rows.row(vec![
            uint(net.u64("ns.inum")),
            text(device.text("name")),
            text(mac(&device)),
            text(state(&device)),
            uint(device.u64("mtu")),
            text(device.text("qdisc.ops.id")),
            uint(device.u64("tx_queue_len")),
            text(flags),
        ])?;
    }
    Ok(())
}

fn state(device: &Object<'_>) -> Outcome<String> {
    const NAMES: [&str; 7] = ["UNKNOWN", "NOTPRESENT", "DOWN", "LOWERLAYERDOWN", "TESTING", "DORMANT", "UP"];
    let state = device.u64("operstate")?;
    Ok(NAMES.get(state as usize).map_or_else(|| state.to_string(), |name| (*name).to_owned()))
}

fn mac(device: &Object<'_>) -> Outcome<String> {
    let len = device.u64("addr_len")?.min(32) as usize;
    let bytes = device.kernel.space.vec(device.u64("dev_addr")?, len)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":"))
}

fn four(kernel: &Kernel, device: &Object<'_>) -> Outcome<Vec<(Cell, Cell)>> {
    let mut found = Vec::new();
    let mut next = kernel.object("in_device", device.u64("ip_ptr")?)?.perhaps("ifa_list")?;
    // A card has few addresses; a chain that is longer leads back into itself.
    for _ in 0..4096 {
        let Some(address) = next else { break };
        let bytes = (address.u64("ifa_local")? as u32).to_le_bytes();
        found.push((Cell::text(Ipv4Addr::from(bytes).to_string()), uint(address.u64("ifa_prefixlen"))));
        next = address.perhaps("ifa_next")?;
    }
    Ok(found)
}

fn six(kernel: &Kernel, device: &Object<'_>, ask: &Ask) -> Outcome<Vec<(Cell, Cell)>> {
    let head = kernel.object("inet6_dev", device.u64("ip6_ptr")?)?.get("addr_list")?.at;
    let mut found = Vec::new();
    for address in ask.all("a list of addresses", kernel.list(head, "inet6_ifaddr", "if_list")?) {
        let bytes = <[u8; 16]>::try_from(address.get("addr")?.bytes(16)?).unwrap_or_default();
        found.push((Cell::text(Ipv6Addr::from(bytes).to_string()), uint(address.u64("prefix_len"))));
    }
    Ok(found)
}
