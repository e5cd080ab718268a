//! `linux.sockscan`: sockets found by what they look like in physical memory, whether a process has them open or not.
//!
//! Source: every `struct sock` points at one of a few functions that end it (`sk_destruct`), and every open file that is a socket at
//! `socket_file_ops`. What is closed may still be there (TIME_WAIT and half-open connections have structures of their own and are not seen).

use std::collections::BTreeMap;

use super::super::Outcome;
use super::super::cells::some_text;
use super::landmarks::Landmark;
use super::sockets::{self, FAMILIES, TYPES};
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
        let mut cells = vec![Cell::Address(physical), Cell::Address(sock.at)];
        cells.extend(sockets::about(&sock));
        cells.push(some_text(filter(kernel, &sock)));
        rows.row(cells)?;
    }
    Ok(())
}

/// Where sockets are.
pub(super) static SOCKETS: Landmark =
    Landmark { of: "a socket", words: |kernel| ENDS.iter().filter_map(|name| address(kernel, name)).collect() };
/// Where open files are that are sockets.
pub(super) static SOCKET_FILES: Landmark =
    Landmark { of: "a socket's file", words: |kernel| address(kernel, FILES).into_iter().collect() };

/// The address of a symbol of the kernel or of a module.
fn address(kernel: &Kernel, name: &str) -> Option<u64> {
    let of_module = || kernel.module_symbols(&Ask::default()).iter().find(|symbol| symbol.name == name);
    kernel.symbols.address(name).or_else(|| of_module().map(|symbol| symbol.address))
}

/// Every socket, by its physical address.
fn found<'k>(kernel: &'k Kernel, ask: &Ask) -> Outcome<BTreeMap<u64, Object<'k>>> {
    // A module whose symbols do not read may be the one that ends sockets of a kind: that is told.
    kernel.module_symbols(ask);
    let base = kernel.direct_map()?;
    let before = |landmark, member: u64| {
        let places = kernel.places(landmark, ask).into_iter();
        places.filter_map(move |at| Some(base.wrapping_add(at.checked_sub(member)?)))
    };
    let ended = before(&SOCKETS, kernel.offset("sock", "sk_destruct")?).map(|at| kernel.object("sock", at));
    let files = before(&SOCKET_FILES, kernel.offset("file", "f_op")?);
    let opened =
        files.filter_map(|at| kernel.object("file", at).and_then(|file| sockets::sock(kernel, &file)).ok()??.ok());
    let mut found = BTreeMap::new();
    for sock in ended.chain(opened.map(Ok)) {
        let sock = sock?;
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
