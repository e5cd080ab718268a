//! `linux.capabilities`: what each process may do beyond its user.
//!
//! Source: `struct cred` and `include/uapi/linux/capability.h`. `all` stands for every capability that this kernel knows.

use super::super::Outcome;
use super::super::cells::{int, text, uint};
use super::{Ask, Kernel, Object};
use crate::report::{Column, Rows};

/// Its columns.
pub const COLUMNS: &[Column] = &[
    Column("comm"),
    Column("tid"),
    Column("pid"),
    Column("ppid"),
    Column("euid"),
    Column("cap_inheritable"),
    Column("cap_permitted"),
    Column("cap_effective"),
    Column("cap_bounding"),
    Column("cap_ambient"),
];

const NAMES: [&str; 41] = [
    "chown",
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "setpcap",
    "linux_immutable",
    "net_bind_service",
    "net_broadcast",
    "net_admin",
    "net_raw",
    "ipc_lock",
    "ipc_owner",
    "sys_module",
    "sys_rawio",
    "sys_chroot",
    "sys_ptrace",
    "sys_pacct",
    "sys_admin",
    "sys_boot",
    "sys_nice",
    "sys_resource",
    "sys_time",
    "sys_tty_config",
    "mknod",
    "lease",
    "audit_write",
    "audit_control",
    "setfcap",
    "mac_override",
    "mac_admin",
    "syslog",
    "wake_alarm",
    "block_suspend",
    "audit_read",
    "perfmon",
    "bpf",
    "checkpoint_restore",
];

/// See the module.
pub fn run(kernel: &Kernel, ask: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
    let last = last(kernel);
    for task in kernel.tasks(ask)? {
        let mut cells = vec![
            text(task.comm()),
            int(task.tid()),
            int(task.pid()),
            int(task.ppid()),
            uint(task.0.u64("cred.euid.val")),
        ];
        for path in
            ["cred.cap_inheritable", "cred.cap_permitted", "cred.cap_effective", "cred.cap_bset", "cred.cap_ambient"]
        {
            cells.push(text(task.0.get(path).and_then(|set| bits(&set)).map(|bits| named(bits, last))));
        }
        rows.row(cells)?;
    }
    Ok(())
}

/// The last one that this kernel knows.
pub(super) fn last(kernel: &Kernel) -> u64 {
    kernel.symbol("cap_last_cap").and_then(|at| Ok(kernel.space.u64(at)? & 0xff)).unwrap_or(40).min(62)
}

/// Two words of 32 bits, or since 6.3 one of 64: the same bytes.
pub(super) fn bits(set: &Object<'_>) -> Outcome<u64> {
    Ok(set.kernel.space.u64(set.at)?)
}

pub(super) fn named(bits: u64, last: u64) -> String {
    let all = u64::MAX >> (63 - last);
    if bits & all == all {
        return "all".to_owned();
    }
    let name = |n: u64| NAMES.get(n as usize).map_or_else(|| format!("cap_{n}"), |name| format!("cap_{name}"));
    (0..=last).filter(|n| bits >> n & 1 == 1).map(name).collect::<Vec<_>>().join(",")
}
