//! `linux.mountinfo`: the mounts of each mount namespace, as in `/proc/PID/mountinfo`.
//!
//! Source: `struct mount` and `mnt_namespace` (`fs/mount.h`); flags as in `include/linux/mount.h` and `fs.h`. Namespaces that no process is
//! in are not seen.

use super::super::Outcome;
use super::super::cells::{int, text, uint};
use super::{Ask, Kernel, Object, files};
use crate::report::{Cell, Column, Rows};

/// Its columns.
pub const COLUMNS: &[Column] = &[
    Column("mnt_ns_id"),
    Column("mount_id"),
    Column("parent_id"),
    Column("major_minor"),
    Column("root"),
    Column("mount_point"),
    Column("mount_options"),
    Column("fields"),
    Column("fstype"),
    Column("mount_source"),
    Column("sb_options"),
];

const OPTIONS: &[(u64, &str)] = &[
    (0x01, "nosuid"),
    (0x02, "nodev"),
    (0x04, "noexec"),
    (0x08, "noatime"),
    (0x10, "nodiratime"),
    (0x20, "relatime"),
    (0x80, "nosymfollow"),
];
const READ_ONLY: u64 = 0x40;
const SB_OPTIONS: &[(u64, &str)] = &[(1 << 4, "sync"), (1 << 6, "mand"), (1 << 7, "dirsync"), (1 << 25, "lazytime")];

/// See the module.
pub fn run(kernel: &Kernel, ask: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
    for (namespace, mount) in kernel.mounts(ask)? {
        // The head of a list of mounts that has none in it is no mount.
        rows.row(row(&namespace, &mount))?;
    }
    Ok(())
}

fn row(namespace: &Object<'_>, mount: &Object<'_>) -> Vec<Cell> {
    let sb = mount.follow("mnt.mnt_sb");
    let of_sb =
        |path: &'static str| sb.as_ref().map_or(Err(super::super::MemoryError::Null("mnt_sb")), |sb| sb.u64(path));
    let kind = sb.as_ref().map_or(Err(super::super::MemoryError::Null("mnt_sb")), |sb| {
        let name = sb.text("s_type.name")?;
        // Filesystems in user space tell their own kind behind it.
        Ok(match sb.text("s_subtype") {
            Ok(more) => format!("{name}.{more}"),
            Err(_) => name,
        })
    });
    let point = mount.follow("mnt_mountpoint").and_then(|dentry| files::walk_up(dentry, mount.follow("mnt_parent")?));
    vec![
        uint(namespace.u64("ns.inum")),
        int(mount.i64("mnt_id")),
        int(mount.i64("mnt_parent.mnt_id")),
        text(of_sb("s_dev").map(files::device)),
        text(mount.follow("mnt.mnt_root").and_then(files::from_top)),
        text(point),
        text(mount.u64("mnt.mnt_flags").map(|flags| options(flags, flags & READ_ONLY != 0, OPTIONS))),
        text(fields(mount)),
        text(kind),
        text(mount.text("mnt_devname")),
        text(of_sb("s_flags").map(|flags| options(flags, flags & 1 != 0, SB_OPTIONS))),
    ]
}

fn options(flags: u64, read_only: bool, known: &[(u64, &'static str)]) -> String {
    let first = if read_only { "ro" } else { "rw" };
    let rest = known.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| *name);
    std::iter::once(first).chain(rest).collect::<Vec<_>>().join(",")
}

fn fields(mount: &Object<'_>) -> Outcome<String> {
    let flags = mount.u64("mnt.mnt_flags")?;
    let mut parts = Vec::new();
    if flags & 0x1000 != 0 {
        parts.push(format!("shared:{}", mount.i64("mnt_group_id")?));
    }
    if let Some(master) = mount.perhaps("mnt_master")? {
        parts.push(format!("master:{}", master.i64("mnt_group_id")?));
    }
    if flags & 0x2000 != 0 {
        parts.push("unbindable".to_owned());
    }
    Ok(parts.join(" "))
}
