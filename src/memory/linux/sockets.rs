//! `linux.sockstat`: the sockets of each process, with their ends.
//!
//! Source: `struct socket_alloc`, `sock`, `inet_sock`, `unix_sock`, `netlink_sock`, `packet_sock` (`include/net/`, `net/`). A socket is what an
//! open file's operations say is one. Sockets that nobody has open (TIME_WAIT, half-open) are not seen.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::super::cells::{cell, int, text, uint};
use super::super::{MemoryError, Outcome};
use super::{Ask, Kernel, Object, Task, files};
use crate::report::{Absent, Cell, Column, Rows};

/// Its columns.
pub const COLUMNS: &[Column] = &[
    Column("net_namespace"),
    Column("comm"),
    Column("pid"),
    Column("tid"),
    Column("fd"),
    Column("sock_offset"),
    Column("family"),
    Column("type"),
    Column("protocol"),
    Column("source_address"),
    Column("source_port"),
    Column("destination_address"),
    Column("destination_port"),
    Column("state"),
];

/// See the module.
pub fn run(kernel: &Kernel, ask: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
    for task in kernel.tasks(ask)? {
        for (number, file) in files::open_files(&task, ask) {
            if let Some(sock) = sock(kernel, &file)? {
                rows.row(row(&task, number, &sock?))?;
            }
        }
    }
    Ok(())
}

type MaybeSock<'k> = Option<Outcome<Object<'k>>>;

/// The `struct sock` behind an open file, if it is one.
pub(super) fn sock<'k>(kernel: &'k Kernel, file: &Object<'k>) -> Outcome<MaybeSock<'k>> {
    let operations = file.u64("f_op").unwrap_or(0);
    if operations != kernel.symbol("socket_file_ops")? {
        return Ok(None);
    }
    let inode = match file.u64("f_inode") {
        Ok(inode) => inode,
        Err(error) => return Ok(Some(Err(error))),
    };
    let around = inode.wrapping_sub(kernel.offset("socket_alloc", "vfs_inode")?);
    Ok(Some(kernel.object("socket_alloc", around)?.follow("socket.sk")))
}

/// The two ends and the state.
struct Ends {
    source: (Cell, Cell),
    destination: (Cell, Cell),
    state: Cell,
}

fn row(task: &Task<'_>, number: i64, sock: &Object<'_>) -> Vec<Cell> {
    let mut cells = vec![
        uint(sock.u64("__sk_common.skc_net.net.ns.inum")),
        text(task.comm()),
        int(task.pid()),
        int(task.tid()),
        Cell::Int(number),
        Cell::Address(sock.at),
    ];
    cells.extend(about(sock));
    cells
}

/// Family, type, protocol, both ends, state.
pub(super) fn about(sock: &Object<'_>) -> [Cell; 8] {
    let family = sock.u64("__sk_common.skc_family");
    let kind = sock.u64("sk_type");
    let protocol = sock.u64("sk_protocol");
    let inet = matches!(family, Ok(2 | 10));
    let ends = ends(sock, family.as_ref().copied().unwrap_or(0));
    [
        cell(family, |family| named(FAMILIES, family)),
        cell(kind, |kind| named(TYPES, kind)),
        if inet { cell(protocol, |protocol| named(PROTOCOLS, protocol)) } else { uint(protocol) },
        ends.source.0,
        ends.source.1,
        ends.destination.0,
        ends.destination.1,
        ends.state,
    ]
}

const NONE: Cell = Cell::Absent(Absent::NotApplicable);

fn ends(sock: &Object<'_>, family: u64) -> Ends {
    let state = sock.u64("__sk_common.skc_state");
    match family {
        2 | 10 => inet(sock, family == 10, state),
        1 => unix(sock, state),
        16 => {
            let port = |path| uint(sock.as_type("netlink_sock").and_then(|netlink| netlink.u64(path)));
            Ends { source: (NONE, port("portid")), destination: (NONE, port("dst_portid")), state: NONE }
        }
        17 => {
            let index = sock.as_type("packet_sock").and_then(|packet| packet.u64("ifindex"));
            Ends {
                source: (cell(index, |n| Cell::text(format!("interface {n}"))), NONE),
                destination: (NONE, NONE),
                state: NONE,
            }
        }
        _ => Ends { source: (NONE, NONE), destination: (NONE, NONE), state: NONE },
    }
}

fn inet(sock: &Object<'_>, six: bool, state: Outcome<u64>) -> Ends {
    let port = |value: Outcome<u64>| uint(value.map(|port| u64::from((port as u16).swap_bytes())));
    let inet = sock.as_type("inet_sock");
    let source_port =
        inet.as_ref().map_err(|_| MemoryError::NoType("inet_sock".to_owned())).and_then(|i| i.u64("inet_sport"));
    let (source, destination) = if six {
        (v6(sock, "__sk_common.skc_v6_rcv_saddr"), v6(sock, "__sk_common.skc_v6_daddr"))
    } else {
        (v4(sock.u64("__sk_common.skc_rcv_saddr")), v4(sock.u64("__sk_common.skc_daddr")))
    };
    // Of what knows no connection the state says nothing.
    let tcp = sock.u64("sk_protocol").is_ok_and(|protocol| matches!(protocol, 6 | 262));
    let state =
        if tcp || state.as_ref().is_ok_and(|state| *state == 1) { cell(state, |s| named(STATES, s)) } else { NONE };
    Ends {
        source: (text(source), port(source_port)),
        destination: (text(destination), port(sock.u64("__sk_common.skc_dport"))),
        state,
    }
}

fn v4(value: Outcome<u64>) -> Outcome<String> {
    value.map(|address| Ipv4Addr::from((address as u32).to_le_bytes()).to_string())
}

fn v6(sock: &Object<'_>, path: &'static str) -> Outcome<String> {
    let bytes = sock.get(path)?.bytes(16)?;
    let bytes: [u8; 16] =
        bytes.try_into().map_err(|_| MemoryError::corrupt("an address", sock.at, "of no 16 bytes"))?;
    Ok(Ipv6Addr::from(bytes).to_string())
}

fn unix(sock: &Object<'_>, state: Outcome<u64>) -> Ends {
    let end = |sock: Outcome<Object<'_>>| -> (Cell, Cell) {
        let Ok(sock) = sock else { return (NONE, NONE) };
        let inode = inode_of(&sock);
        let name = sock.as_type("unix_sock").and_then(|unix| unix_name(&unix));
        (text(name), uint(inode))
    };
    let peer = sock.as_type("unix_sock").and_then(|unix| unix.follow("peer"));
    Ends {
        source: end(sock.get("__sk_common").and(Ok(*sock))),
        destination: end(peer),
        state: cell(state, |s| named(STATES, s)),
    }
}

fn inode_of(sock: &Object<'_>) -> Outcome<u64> {
    let socket = sock.follow("sk_socket")?;
    socket.as_type("socket_alloc")?.u64("vfs_inode.i_ino")
}

/// A path, or an abstract name with `@` for its first NUL.
fn unix_name(unix: &Object<'_>) -> Outcome<String> {
    let name = unix.follow("addr")?;
    let len = (name.u64("len")? as usize).clamp(2, 110);
    let bytes = name.kernel.space.vec(name.get("name")?.at.wrapping_add(2), len - 2)?;
    let text = match bytes.split_first() {
        Some((0, rest)) => format!("@{}", String::from_utf8_lossy(rest)),
        _ => String::from_utf8_lossy(bytes.split(|&byte| byte == 0).next().unwrap_or_default()).into_owned(),
    };
    Ok(text)
}

pub(super) fn named(names: &[(u64, &'static str)], value: u64) -> Cell {
    match names.iter().find(|(known, _)| *known == value) {
        Some((_, name)) => Cell::text(*name),
        None => Cell::text(value.to_string()),
    }
}

pub(super) const FAMILIES: &[(u64, &str)] = &[
    (0, "AF_UNSPEC"),
    (1, "AF_UNIX"),
    (2, "AF_INET"),
    (10, "AF_INET6"),
    (16, "AF_NETLINK"),
    (17, "AF_PACKET"),
    (29, "AF_CAN"),
    (31, "AF_BLUETOOTH"),
    (38, "AF_ALG"),
    (40, "AF_VSOCK"),
    (44, "AF_XDP"),
];
pub(super) const TYPES: &[(u64, &str)] =
    &[(1, "STREAM"), (2, "DGRAM"), (3, "RAW"), (4, "RDM"), (5, "SEQPACKET"), (6, "DCCP"), (10, "PACKET")];
pub(super) const PROTOCOLS: &[(u64, &str)] = &[
    (0, "IP"),
    (1, "ICMP"),
    (6, "TCP"),
    (17, "UDP"),
    (33, "DCCP"),
    (47, "GRE"),
    (58, "ICMPV6"),
    (132, "SCTP"),
    (136, "UDPLITE"),
    (255, "RAW"),
    (262, "MPTCP"),
];
const STATES: &[(u64, &str)] = &[
    (1, "ESTABLISHED"),
    (2, "SYN_SENT"),
    (3, "SYN_RECV"),
    (4, "FIN_WAIT1"),
    (5, "FIN_WAIT2"),
    (6, "TIME_WAIT"),
    (7, "CLOSE"),
    (8, "CLOSE_WAIT"),
    (9, "LAST_ACK"),
    (10, "LISTEN"),
    (11, "CLOSING"),
    (12, "NEW_SYN_RECV"),
];
