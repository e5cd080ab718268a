//! `linux.sockscan`: sockets found by what they look like in physical memory, whether a process has them open or not.
//!
//! Source: every `struct sock` points at one of a few functions that end it (`sk_destruct`), and every open file that is a socket at
//! `socket_file_ops`. What is closed may still be there (TIME_WAIT and half-open connections have structures of their own and are not seen).

use std::collections::BTreeMap;

use super::super::Outcome;
use super::super::cells::{cell, some_text, uint};
use super::super::scan::{Verdict, scan};
use super::sockets::{self, FAMILIES, PROTOCOLS, TYPES, named};
use super::tracing::type_name;
use super::{Ask, Kernel, Object};
use crate::report::{Cell, Column, Rows};

/// Its columns.
pub const COLUMNS: &[Column] = &[
    Column("physical"),
    Column("sock_offset"),
    Column("family"),
    Column("type"),
    Column("protocol"),
    Column("source_address"),
    Column("source_port"),
    Column("destination_address"),
    Column("destination_port"),
    Column("state"),
    Column("filter"),
];

/// Functions that end a socket, one for each kind.
const ENDS: [&str; 5] = [
    "sock_def_destruct",
    "packet_sock_destruct",
    "unix_sock_destructor",
    "netlink_sock_destruct",
    "inet_sock_destruct",
];
/// What is in an open file that is a socket.
const FILES: &str = "socket_file_ops";

/// See the module.
pub fn run(kernel: &Kernel, ask: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
    for (physical, sock) in found(kernel, ask)? {
        let family = sock.u64("__sk_common.skc_family").unwrap_or(0);
        let ends = sockets::ends(&sock, family);
        let protocol = sock.u64("sk_protocol");
        rows.row(vec![
            Cell::Address(physical),
            Cell::Address(sock.at),
            named(FAMILIES, family),
            cell(sock.u64("sk_type"), |kind| named(TYPES, kind)),
            if matches!(family, 2 | 10) { cell(protocol, |number| named(PROTOCOLS, number)) } else { uint(protocol) },
            ends.source.0,
            ends.source.1,
            ends.destination.0,
            ends.destination.1,
            ends.state,
            some_text(filter(kernel, &sock)),
        ])?;
    }
    Ok(())
}

/// Every socket, by its physical address.
fn found<'k>(kernel: &'k Kernel, ask: &Ask) -> Outcome<BTreeMap<u64, Object<'k>>> {
    let of_modules = kernel.module_symbols(ask);
    let address = |name: &str| {
        let of_module = || of_modules.iter().find(|symbol| symbol.name == name).map(|symbol| symbol.address);
        kernel.symbols.address(name).or_else(of_module)
    };
    let needles: Vec<(bool, [u8; 8])> = ENDS
        .iter()
        .map(|name| (false, *name))
        .chain([(true, FILES)])
        .filter_map(|(file, name)| Some((file, address(name)?.to_le_bytes())))
        .collect();
    let patterns: Vec<&[u8]> = needles.iter().map(|(_, bytes)| bytes.as_slice()).collect();
    let aligned =
        |hit: super::super::scan::Hit, _: &[u8]| if hit.at.is_multiple_of(8) { Verdict::Yes } else { Verdict::No };
    let (end, operations) = (kernel.offset("sock", "sk_destruct")?, kernel.offset("file", "f_op")?);
    let base = kernel.direct_map()?;
    let mut found = BTreeMap::new();
    for hit in scan(kernel.physical(), &patterns, aligned) {
        let file = needles.get(hit.pattern).is_some_and(|(file, _)| *file);
        let place = hit.at.checked_sub(if file { operations } else { end }).map(|place| base.wrapping_add(place));
        let Some(place) = place else { continue };
        let sock = if file {
            match sockets::sock(kernel, &kernel.object("file", place)?) {
                Ok(Some(Ok(sock))) => sock,
                _ => continue,
            }
        } else {
            kernel.object("sock", place)?
        };
        if let (true, Ok(mapping)) = (plausible(&sock), kernel.space.translate(sock.at)) {
            found.entry(mapping.physical).or_insert(sock);
        }
    }
    Ok(found)
}

/// Of a family and a type that there are, in a network namespace.
fn plausible(sock: &Object<'_>) -> bool {
    let known = |names: &[(u64, &str)], value: Outcome<u64>| {
        value.is_ok_and(|value| names.iter().any(|(known, _)| *known == value))
    };
    known(FAMILIES, sock.u64("__sk_common.skc_family").map(|family| if family == 0 { u64::MAX } else { family }))
        && known(TYPES, sock.u64("sk_type"))
        && sock.u64("__sk_common.skc_net.net").is_ok_and(|net| net >> 63 == 1)
}

/// The program that decides what the socket sees, if it has one.
fn filter(kernel: &Kernel, sock: &Object<'_>) -> Option<String> {
    let program = sock.follow("sk_filter").and_then(|filter| filter.follow("prog")).ok()?;
    // A classic filter is turned into a program without a kind of its own.
    match program.u64("type") {
        Ok(0) => Some("classic BPF".to_owned()),
        Ok(kind) => {
            let name = program.text("aux.name").unwrap_or_default();
            Some(format!("eBPF {} {name}", type_name(kernel, kind)).trim_end().to_owned())
        }
        Err(_) => Some("unreadable".to_owned()),
    }
}
