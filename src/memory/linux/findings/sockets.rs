//! Sockets that see what is not addressed to them: raw ones, and those of packets.

use super::super::super::Outcome;
use super::super::{Ask, Kernel, Object, files, sockets};
use super::{Finding, Severity};

const RAW: u64 = 3;
const PACKET: u64 = 17;

pub(super) fn look(kernel: &Kernel, ask: &Ask) -> Outcome<Vec<Finding>> {
    let mut found = Vec::new();
    for task in kernel.processes(ask)? {
        for (number, file) in files::open_files(&task, ask) {
            let Some(Ok(sock)) = sockets::sock(kernel, &file)? else { continue };
            let (family, kind) = (sock.u64("__sk_common.skc_family"), sock.u64("sk_type"));
            let what = match (family, kind) {
                (Ok(2), Ok(RAW)) => "raw socket, IPv4",
                (Ok(10), Ok(RAW)) => "raw socket, IPv6",
                (Ok(PACKET), Ok(_)) => "packet socket",
                _ => continue,
            };
            let protocol = protocol(&sock).unwrap_or_else(|| "unknown".to_owned());
            let filter = if sock.u64("sk_filter").is_ok_and(|filter| filter != 0) { ", with a filter" } else { "" };
            let name = task.comm().unwrap_or_default();
            found.push(Finding {
                severity: Severity::Low,
                what: "raw socket",
                pid: task.pid().ok(),
                at: sock.at,
                evidence: format!("{name} holds a {what}, protocol {protocol}, as descriptor {number}{filter}"),
                bytes: Vec::new(),
                innocent: "ping, DHCP clients, network monitors, packet captures",
            });
        }
    }
    Ok(found)
}

/// The protocol that it sees: of IP by its number, of a card by the type of its frames, which is kept in the order of the wire.
fn protocol(sock: &Object<'_>) -> Option<String> {
    if sock.u64("__sk_common.skc_family").ok()? == PACKET {
        let kind = sock.as_type("packet_sock").ok()?.u64("num").ok()?;
        return Some(format!("{:#06x}", (kind as u16).swap_bytes()));
    }
    Some(sock.u64("sk_protocol").ok()?.to_string())
}
