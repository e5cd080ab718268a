//! `linux.pagecache.Files`, `linux.pagecache.InodePages` and `linux.pagecache.RecoverFs`: files that the kernel knows of, and what of
//! their content is in memory.
//!
//! Source: the folders of every mounted file system (`struct dentry`), the pages of each file (`struct address_space`). What was read or
//! written lately is there, also of files that are on no disk (tmpfs); what is not there is a gap, never zeros.

use std::collections::HashSet;

use serde_json::json;

use super::super::Outcome;
use super::super::cells::{address, some_text, text, uint};
use super::terms::needed;
use super::{Ask, Kernel, Object, files};
use crate::report::{Cell, Column, Rows};

/// Columns of `linux.pagecache.Files` and `linux.pagecache.RecoverFs`.
pub const FILES: &[Column] = &[
    Column("superblock_addr"),
    Column("mount_point"),
    Column("device"),
    Column("inode_num"),
    Column("inode_addr"),
    Column("file_type"),
    Column("inode_pages"),
    Column("cached_pages"),
    Column("file_mode"),
    Column("access_time"),
    Column("modification_time"),
    Column("change_time"),
    Column("file_path"),
    Column("inode_size"),
    Column("file_output"),
];
/// Columns of `linux.pagecache.InodePages`.
pub const PAGES: &[Column] = &[
    Column("page_vaddr"),
    Column("page_paddr"),
    Column("mapping_addr"),
    Column("index"),
    Column("dump_safe"),
    Column("flags"),
    Column("file_output"),
];

/// Names that are looked at, of all file systems together.
const MOST: usize = 1 << 22;
/// Folders in each other.
const DEEP: usize = 512;

/// A file that the kernel knows of.
struct Found<'k> {
    sb: Object<'k>,
    mount_point: String,
    inode: Object<'k>,
    path: String,
}

impl Found<'_> {
    fn device(&self) -> Outcome<String> {
        self.sb.u64("s_dev").map(files::device)
    }

    /// Where a link leads, if it is one that says so in memory.
    fn target(&self) -> Option<String> {
        let link = self.inode.u64("i_mode").is_ok_and(|mode| files::kind(mode) == "LNK");
        if link { self.inode.text("i_link").ok() } else { None }
    }

    fn row(&self, output: Cell) -> Vec<Cell> {
        let page = self.inode.kernel.space.tables().page();
        let mode = || self.inode.u64("i_mode");
        let size = self.inode.u64("i_size");
        let path = match self.target() {
            Some(target) => format!("{} -> {target}", self.path),
            None => self.path.clone(),
        };
        let [changed, modified, accessed] = files::times(Some(&self.inode));
        vec![
            Cell::Address(self.sb.at),
            Cell::text(&self.mount_point),
            text(self.device()),
            uint(self.inode.u64("i_ino")),
            Cell::Address(self.inode.at),
            text(mode().map(|mode| files::kind(mode).to_owned())),
            uint(self.inode.u64("i_size").map(|size| size.div_ceil(page))),
            uint(self.inode.u64("i_mapping.nrpages")),
            text(mode().map(files::permissions)),
            accessed,
            modified,
            changed,
            Cell::Text(path),
            uint(size),
            output,
        ]
    }
}

/// Every file of every mounted file system whose name is in memory.
pub fn list(kernel: &Kernel, ask: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
    each(kernel, ask, &mut |found| {
        if wanted(ask, &found) { Ok(rows.row(found.row(some_text(None)))?) } else { Ok(()) }
    })
}

fn wanted(ask: &Ask, found: &Found<'_>) -> bool {
    ask.terms.path.as_ref().is_none_or(|path| *path == found.path)
        && ask.terms.inode.is_none_or(|inode| inode == found.inode.at)
}

/// The pages of one file; the file itself, if files are asked for.
pub fn pages(kernel: &Kernel, ask: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
    needed(ask.terms.path.as_ref().map(drop).or(ask.terms.inode.map(drop)), "--path or --inode")?;
    let mut files = Vec::new();
    match (ask.terms.inode, &ask.terms.path) {
        (Some(at), None) => files.push((kernel.object("inode", at)?, format!("inode_{at:#x}"))),
        _ => each(kernel, ask, &mut |found| {
            if wanted(ask, &found) {
                files.push((kernel.object("inode", found.inode.at)?, found.path));
            }
            Ok(())
        })?,
    }
    if files.is_empty() {
        ask.note("no such file is known to the kernel");
    }
    for (inode, path) in files {
        if inode.u64("i_mode").map(files::kind)? != "REG" {
            ask.note(format!("{path} is no regular file"));
            continue;
        }
        let output = write(kernel, ask, "linux.pagecache.InodePages", path.trim_start_matches('/'), &inode)?;
        let (mapping, size) = (inode.u64("i_mapping")?, inode.u64("i_size")?);
        for page in kernel.cached(&inode)? {
            let begins = page.index.checked_mul(kernel.space.tables().page());
            rows.row(vec![
                Cell::Address(page.page.at),
                address(page.physical),
                Cell::Address(mapping),
                uint(Ok(page.index)),
                Cell::Bool(begins.is_some_and(|begins| begins < size)),
                text(
                    page.page
                        .either(&["flags.f", "flags"])
                        .and_then(|flags| flags.value())
                        .map(|flags| flag_names(kernel, flags)),
                ),
                output.clone(),
            ])?;
        }
    }
    Ok(())
}

/// Everything that is in memory of any file, written below one folder for each device.
pub fn recover(kernel: &Kernel, ask: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
    const NAME: &str = "linux.pagecache.RecoverFs";
    needed(ask.writes().then_some(()), "--output")?;
    each(kernel, ask, &mut |found| {
        let device = found.device().unwrap_or_default().replace(':', "-");
        let path = format!("{device}{}", found.path);
        let kind = found.inode.u64("i_mode").map_or("UNKNOWN", files::kind);
        let cached = found.inode.u64("i_mapping.nrpages").unwrap_or(0);
        let mut output = some_text(None);
        match kind {
            "DIR" => ask.folder(NAME, &path)?,
            "REG" if cached > 0 => output = write(kernel, ask, NAME, &path, &found.inode)?,
            "REG" => {}
            _ => ask.line(&json!({
                "question": NAME, "path": path, "kind": kind, "target": found.target(), "outcome": "not written: no regular file",
            }))?,
        }
        Ok(rows.row(found.row(output))?)
    })
}

/// Writes what memory holds of a file, if files are asked for.
pub(super) fn write(kernel: &Kernel, ask: &Ask, question: &str, path: &str, inode: &Object<'_>) -> Outcome<Cell> {
    if !ask.writes() {
        return Ok(some_text(None));
    }
    let content = match kernel.content(inode) {
        Ok(content) => content,
        Err(error) => {
            ask.note(format!("{path}: {error}"));
            return Ok(Cell::Absent(error.absent()));
        }
    };
    let more = json!({ "inode": format!("{:#x}", inode.at), "number": inode.u64("i_ino").ok() });
    ask.write(question, path, &content, &more)
}

/// Names of the bits of a page's flags, as the kernel has them.
fn flag_names(kernel: &Kernel, flags: u64) -> String {
    let Some(id) = kernel.types.find_enum("pageflags") else { return format!("{flags:#x}") };
    let names = kernel.types.values(id).filter_map(|(name, bit)| {
        let set = (0..64).contains(&bit) && flags >> bit & 1 == 1;
        if set { name.strip_prefix(b"PG_").map(String::from_utf8_lossy) } else { None }
    });
    names.collect::<Vec<_>>().join(",")
}

/// Calls `with` for every file, each inode once.
fn each<'k>(kernel: &'k Kernel, ask: &Ask, with: &mut dyn FnMut(Found<'k>) -> Outcome<()>) -> Outcome<()> {
    // The mounts of all namespaces, whichever processes are asked for.
    let (mut inodes, mut systems, everybody) = (HashSet::new(), HashSet::new(), Ask::default());
    for (_, mount) in kernel.mounts(&everybody)? {
        let Ok(sb) = mount.follow("mnt.mnt_sb") else { continue };
        if !systems.insert(sb.at) {
            continue;
        }
        let point = mount.follow("mnt_mountpoint").and_then(|at| files::walk_up(at, mount.follow("mnt_parent")?));
        let top = point.and_then(|point| Ok((point, sb.follow("s_root")?)));
        let (point, root) = match top {
            Ok(top) => top,
            Err(error) => {
                ask.note(format!("the file system at {:#x}: {error}", sb.at));
                continue;
            }
        };
        let mut walk = Walk { ask, sb, mount_point: point.clone(), dentries: HashSet::new(), inodes: &mut inodes };
        walk.visit(root, &point, with)?;
        let below = if point == "/" { String::new() } else { point };
        walk.below(root, &below, with)?;
    }
    everybody.notes().into_iter().for_each(|note| ask.note(note));
    Ok(())
}

struct Walk<'a, 'k> {
    ask: &'a Ask,
    sb: Object<'k>,
    mount_point: String,
    dentries: HashSet<u64>,
    inodes: &'a mut HashSet<u64>,
}

impl<'k> Walk<'_, 'k> {
    /// One name; is it a folder?
    fn visit(
        &mut self,
        dentry: Object<'k>,
        path: &str,
        with: &mut dyn FnMut(Found<'k>) -> Outcome<()>,
    ) -> Outcome<bool> {
        // A name of nothing: somebody asked, and it was not there.
        let Ok(inode) = dentry.follow("d_inode") else { return Ok(false) };
        let Ok(mode) = inode.u64("i_mode") else { return Ok(false) };
        if inode.u64("i_mapping").is_ok_and(|mapping| mapping >> 63 == 1) && self.inodes.insert(inode.at) {
            with(Found { sb: self.sb, mount_point: self.mount_point.clone(), inode, path: path.to_owned() })?;
        }
        Ok(files::kind(mode) == "DIR")
    }

    /// Everything below a folder.
    fn below(&mut self, root: Object<'k>, path: &str, with: &mut dyn FnMut(Found<'k>) -> Outcome<()>) -> Outcome<()> {
        let mut folders = vec![(root, path.to_owned(), 0)];
        while let Some((folder, path, depth)) = folders.pop() {
            for dentry in self.names(&folder) {
                if depth > DEEP || !self.dentries.insert(dentry.at) || self.dentries.len() > MOST {
                    self.ask.note(format!("the folder at {:#x} leads back into itself", folder.at));
                    break;
                }
                let Ok(name) = files::name(&dentry) else { continue };
                let path = format!("{path}/{name}");
                if self.visit(dentry, &path, with)? {
                    folders.push((dentry, path, depth + 1));
                }
            }
        }
        Ok(())
    }

    /// Names in a folder.
    fn names(&self, folder: &Object<'k>) -> Vec<Object<'k>> {
        let kernel = folder.kernel;
        let walked = if folder.has("d_children") {
            folder.u64("d_children.first").and_then(|first| kernel.bucket(first, "dentry", "d_sib"))
        } else {
            folder.get("d_subdirs").and_then(|head| kernel.list(head.at, "dentry", "d_child"))
        };
        match walked {
            Ok(walked) => self.ask.all("the names of a folder", walked),
            Err(error) => {
                self.ask.note(format!("the folder at {:#x}: {error}", folder.at));
                Vec::new()
            }
        }
    }
}
