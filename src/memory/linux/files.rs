//! Files, paths and times of the kernel's file layer, as the other questions need them.
//!
//! Source: `struct file`, `dentry`, `mount`, `inode` (`include/linux/fs.h`, `dcache.h`, `fs/mount.h`) and `fs/d_path.c`.

use std::collections::HashSet;

use jiff::Timestamp;

use super::super::Outcome;
use super::super::cells::{address, cell};
use super::super::{Fault, MemoryError};
use super::{Ask, Kernel, Object, Task};
use crate::report::Cell;

/// Folders in each other, at most.
const DEEP: usize = 512;
/// Open files of one process, at most.
const MOST: u64 = 1 << 20;

/// Files of one process that make no sense before the rest of its table is left.
const WRONG: u32 = 64;

/// An open file: its number and its `struct file`.
pub(super) type Open<'k> = (i64, Object<'k>);

/// The open files of a process, by number.
pub(super) fn open_files<'k>(task: &Task<'k>, ask: &Ask) -> Vec<Open<'k>> {
    match table(task, ask) {
        Ok(files) => files,
        Err(MemoryError::Null(_)) => Vec::new(),
        Err(error) => {
            ask.note(format!("the open files of the task at {:#x}: {error}", task.0.at));
            Vec::new()
        }
    }
}

fn table<'k>(task: &Task<'k>, ask: &Ask) -> Outcome<Vec<Open<'k>>> {
    let kernel = task.0.kernel;
    let fdt = task.0.get("files.fdt")?.follow_self()?;
    let (count, array) = (fdt.u64("max_fds")?, fdt.u64("fd")?);
    let (mut files, mut wrong) = (Vec::new(), 0);
    for n in 0..count.min(MOST) {
        match kernel.space.u64(array.wrapping_add(8 * n)) {
            Ok(0) => {}
            Ok(at) => {
                let file = kernel.object("file", at)?;
                // What has no operations in the kernel's half is no file: the table ends before it says.
                let plausible = at >> 63 == 1 && file.u64("f_op").is_ok_and(|operations| operations >> 63 == 1);
                wrong += u32::from(!plausible);
                if wrong > WRONG {
                    ask.note(format!("open files from {n} on of the task at {:#x} make no sense", task.0.at));
                    break;
                }
                files.push((n as i64, file));
            }
            Err(fault) => {
                ask.note(format!("open files from {n} on of the task at {:#x}: {fault}", task.0.at));
                break;
            }
        }
    }
    Ok(files)
}

/// A file's path as the guest's root sees it, and whether it was deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FilePath {
    pub(super) text: String,
    pub(super) deleted: bool,
}

/// The path of an open file.
pub(super) fn path_of(file: &Object<'_>) -> Outcome<FilePath> {
    path(&file.get("f_path")?)
}

/// The path of a `struct path`.
pub(super) fn path(path: &Object<'_>) -> Outcome<FilePath> {
    let dentry = path.follow("dentry")?;
    if let Some(text) = without_folder(&dentry) {
        return Ok(FilePath { text, deleted: false });
    }
    let mount = mount_of(path)?;
    let text = walk_up(dentry, mount)?;
    // Not in the table of names any more, and not the root of a file system.
    let unhashed = dentry.u64("d_hash.pprev")? == 0 && dentry.u64("d_parent")? != dentry.at;
    Ok(FilePath { text, deleted: unhashed })
}

fn mount_of<'k>(path: &Object<'k>) -> Outcome<Object<'k>> {
    let kernel = path.kernel;
    let inner = path.follow("mnt")?.at;
    kernel.object("mount", inner.wrapping_sub(kernel.offset("mount", "mnt")?))
}

/// The path from the root of all mounts down to `dentry` on `mount`.
pub(super) fn walk_up(dentry: Object<'_>, mount: Object<'_>) -> Outcome<String> {
    let (mut dentry, mut mount, mut parts) = (dentry, mount, Vec::new());
    for _ in 0..DEEP {
        let parent = dentry.follow("d_parent")?;
        if dentry.at == mount.u64("mnt.mnt_root")? || parent.at == dentry.at {
            let above = mount.follow("mnt_parent")?;
            if above.at == mount.at {
                parts.reverse();
                return Ok(format!("/{}", parts.join("/")));
            }
            (dentry, mount) = (mount.follow("mnt_mountpoint")?, above);
            continue;
        }
        parts.push(name(&dentry)?);
        dentry = parent;
    }
    Err(MemoryError::corrupt("a path", dentry.at, format!("more than {DEEP} folders in each other")))
}

/// The path from the top of its file system down to `dentry`.
pub(super) fn from_top(dentry: Object<'_>) -> Outcome<String> {
    let (mut dentry, mut parts) = (dentry, Vec::new());
    for _ in 0..DEEP {
        let parent = dentry.follow("d_parent")?;
        if parent.at == dentry.at {
            parts.reverse();
            return Ok(format!("/{}", parts.join("/")));
        }
        parts.push(name(&dentry)?);
        dentry = parent;
    }
    Err(MemoryError::corrupt("a path", dentry.at, format!("more than {DEEP} folders in each other")))
}

/// A name of one file in its folder.
pub(super) fn name(dentry: &Object<'_>) -> Outcome<String> {
    let len = (dentry.u64("d_name.len")? as usize).min(4096);
    let bytes = dentry.kernel.space.vec(dentry.u64("d_name.name")?, len)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What has no folder is named by its own function: sockets, pipes, anonymous inodes, namespaces.
fn without_folder(dentry: &Object<'_>) -> Option<String> {
    let operations = dentry.follow("d_op").ok()?;
    let function = operations.u64("d_dname").ok().filter(|function| *function != 0)?;
    let inode = dentry.u64("d_inode.i_ino").unwrap_or(0);
    let own = || name(dentry).unwrap_or_default();
    Some(match dentry.kernel.symbols.at(function)?.name {
        "sockfs_dname" => format!("socket:[{inode}]"),
        "pipefs_dname" => format!("pipe:[{inode}]"),
        "anon_inodefs_dname" => format!("anon_inode:{}", own()),
        "ns_dname" => format!("{}:[{inode}]", own()),
        "dmabuffs_dname" => format!("dmabuf:{}", own()),
        _ => format!("/{}", own()),
    })
}

/// Where an inode's times are; fields were renamed and split.
pub(super) fn time(inode: &Object<'_>, which: Time) -> Outcome<Timestamp> {
    let (plain, hidden, seconds, rest) = match which {
        Time::Changed => ("i_ctime", "__i_ctime", "i_ctime_sec", "i_ctime_nsec"),
        Time::Modified => ("i_mtime", "__i_mtime", "i_mtime_sec", "i_mtime_nsec"),
        Time::Accessed => ("i_atime", "__i_atime", "i_atime_sec", "i_atime_nsec"),
    };
    let (seconds, nanoseconds) = if inode.has(seconds) {
        (inode.i64(seconds)?, inode.i64(rest)?)
    } else {
        let both = inode.either(&[plain, hidden])?;
        (both.i64("tv_sec")?, both.i64("tv_nsec")?)
    };
    let nanoseconds = i32::try_from(nanoseconds).unwrap_or(i32::MAX);
    Timestamp::new(seconds, nanoseconds).map_err(|_| MemoryError::corrupt("a time of a file", inode.at, "no such time"))
}

/// Which time.
#[derive(Clone, Copy)]
pub(super) enum Time {
    Changed,
    Modified,
    Accessed,
}

/// The three times as cells.
pub(super) fn times(inode: Option<&Object<'_>>) -> [Cell; 3] {
    let Some(inode) = inode else { return [(); 3].map(|()| address(Err(Fault::NotMapped(0).into()))) };
    [Time::Changed, Time::Modified, Time::Accessed].map(|which| cell(time(inode, which), Cell::Time))
}

/// Kind of a file by its mode, as `ls` names it.
pub(super) fn kind(mode: u64) -> &'static str {
    match mode >> 12 & 0xf {
        0x1 => "FIFO",
        0x2 => "CHR",
        0x4 => "DIR",
        0x6 => "BLK",
        0x8 => "REG",
        0xa => "LNK",
        0xc => "SOCK",
        _ => "UNKNOWN",
    }
}

/// Mode in the form of `ls -l`.
pub(super) fn permissions(mode: u64) -> String {
    let first = match kind(mode) {
        "FIFO" => 'p',
        "CHR" => 'c',
        "DIR" => 'd',
        "BLK" => 'b',
        "LNK" => 'l',
        "SOCK" => 's',
        "REG" => '-',
        _ => '?',
    };
    let mut text = String::from(first);
    for (shift, special, with, without) in [(6, 11, 's', 'S'), (3, 10, 's', 'S'), (0, 9, 't', 'T')] {
        let bits = mode >> shift & 7;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & 1 != 0, mode >> special & 1 == 1) {
            (true, true) => with,
            (false, true) => without,
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// `8:1` for a device number (`MINORBITS` is 20).
pub(super) fn device(number: u64) -> String {
    format!("{}:{}", number >> 20 & 0xfff, number & 0xf_ffff)
}

impl<'k> Object<'k> {
    /// What the pointer that it is points at.
    pub(super) fn follow_self(&self) -> Outcome<Object<'k>> {
        match self.value()? {
            0 => Err(MemoryError::Null("a pointer")),
            at => Ok(self.kernel.of_type(self.kernel.types.target(self.id), at)),
        }
    }
}

impl Kernel {
    /// The mounts of every namespace that a process is in: the namespace, and its mounts.
    pub(super) fn mounts(&self, ask: &Ask) -> Outcome<Vec<(Object<'_>, Object<'_>)>> {
        let (mut seen, mut all) = (HashSet::new(), Vec::new());
        for task in self.processes(ask)? {
            let Ok(space) = task.0.follow("nsproxy").and_then(|proxy| proxy.follow("mnt_ns")) else { continue };
            if !seen.insert(space.at) {
                continue;
            }
            let mounts = if space.has("mounts.rb_node") {
                self.tree(space.u64("mounts.rb_node")?, "mount", "mnt_node")?
            } else {
                self.list(space.get("list")?.at, "mount", "mnt_list")?
            };
            all.extend(ask.all("a list of mounts", mounts).into_iter().map(|mount| (space, mount)));
        }
        Ok(all)
    }
}
