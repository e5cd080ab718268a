//! Tables: `parts`, `fs`, `ls`, `find`.

use anyhow::Result;

use super::super::Exit;
use super::super::context::Context;
use super::open::{Disk, Mounted};
use crate::disk::fs::{FileKind, Lost, Node, State};
use crate::disk::walk::{Found, How};
use crate::image::Kind;
use crate::report::{Absent, Cell, Column, Rows, printable};

pub(super) fn int(n: u64) -> Cell {
    Cell::Int(i64::try_from(n).unwrap_or(i64::MAX))
}

pub(super) fn exit(whole: bool) -> Exit {
    if whole { Exit::Complete } else { Exit::Partial }
}

const PARTS: &[Column] = &[
    Column("volume"),
    Column("on"),
    Column("at"),
    Column("size"),
    Column("what"),
    Column("type"),
    Column("name"),
    Column("holds"),
    Column("note"),
];

pub(super) fn parts(disk: &Disk, context: &Context) -> Result<Exit> {
    let mut rows = context.table(PARTS);
    let text = |text: &Option<String>| Cell::or_absent(text.as_ref(), Absent::NotApplicable, Cell::text);
    for volume in &disk.volumes.list {
        rows.row(vec![
            text(&volume.label),
            text(&volume.on),
            Cell::or_absent(volume.from, Absent::NotApplicable, Cell::Address),
            Cell::Bytes(volume.len),
            Cell::text(volume.what.name()),
            Cell::text(&volume.kind),
            text(&volume.name),
            Cell::or_absent(volume.holds, Absent::Unknown, Cell::text),
            text(&volume.note),
        ])?;
    }
    rows.end()?;
    disk.volumes.odd.iter().for_each(|line| context.say(&printable(line)));
    // Volumes may lie in what cannot be read: the list is not all there is.
    let lacking = disk.volumes.readable().filter_map(|one| Some((one.label.as_ref()?, one.lacks.as_ref()?)));
    let mut whole = true;
    for (label, why) in lacking {
        context.say(&printable(&format!("{label}: {why}")));
        whole = false;
    }
    Ok(exit(whole))
}

const FACTS: &[Column] = &[Column("volume"), Column("file_system"), Column("property"), Column("value")];

pub(super) fn facts(disk: &Disk, context: &Context) -> Result<Exit> {
    let (all, whole) = disk.mounted(context)?;
    let mut rows = context.table(FACTS);
    for mounted in all {
        let odd = mounted.fs.odd().into_iter().map(|line| ("odd".to_owned(), line));
        for (name, value) in mounted.facts.into_iter().chain(mounted.fs.facts()).chain(odd) {
            let first = [Cell::text(&mounted.label), Cell::text(mounted.fs.name())];
            rows.row(first.into_iter().chain([Cell::text(name), Cell::text(value)]).collect())?;
        }
    }
    rows.end()?;
    Ok(exit(whole))
}

const FILES: &[Column] = &[
    Column("volume"),
    Column("path"),
    Column("inode"),
    Column("kind"),
    Column("size"),
    Column("mode"),
    Column("uid"),
    Column("gid"),
    Column("modified"),
    Column("accessed"),
    Column("changed"),
    Column("born"),
    Column("deleted"),
    Column("state"),
    Column("source"),
    Column("content"),
];

fn cells(label: &str, path: Cell, inode: u64, node: Option<&Node>, last: [Cell; 3]) -> Vec<Cell> {
    let of = |cell: &dyn Fn(&Node) -> Cell| node.map_or(Cell::Absent(Absent::Unreadable), cell);
    let time = |pick: &dyn Fn(&Node) -> Option<jiff::Timestamp>| {
        of(&|node| Cell::or_absent(pick(node), Absent::NotApplicable, Cell::Time))
    };
    let first = vec![
        Cell::text(label),
        path,
        int(inode),
        of(&|node| Cell::or_absent(node.kind, Absent::Unknown, |kind| Cell::text(kind.name()))),
        of(&|node| Cell::Bytes(node.size)),
        of(&|node| Cell::text(format!("{:04o}", node.mode & 0o7777))),
        of(&|node| Cell::Int(i64::from(node.uid))),
        of(&|node| Cell::Int(i64::from(node.gid))),
        time(&|node| node.times.modified),
        time(&|node| node.times.accessed),
        time(&|node| node.times.changed),
        time(&|node| node.times.born),
        time(&|node| node.times.deleted),
    ];
    first.into_iter().chain(last).collect()
}

pub(super) fn ls(disk: &Disk, recursive: bool, deleted: bool, context: &Context) -> Result<Exit> {
    let mut rows = context.table(FILES);
    let mut good = true;
    let whole = disk.each(How { recursive, deleted }, context, &mut |mounted, found| {
        let live = found.entry.state == State::Allocated;
        good &= !live || found.node.as_ref().is_ok_and(|node| node.odd.is_empty());
        // What a deleted name points to may long be somebody else's.
        let last = [Cell::text(found.entry.state.name()), Cell::text(found.entry.source), content(mounted, &found)];
        let node = found.node.as_ref().ok();
        let path = Cell::Name(found.path.clone());
        rows.row(cells(&mounted.label, path, found.entry.inode, node, last))?;
        if live { streams(mounted, &found, rows.as_mut()) } else { Ok(()) }
    })?;
    if deleted {
        for (label, lost) in disk.lost(context)?.0 {
            let state = Cell::text(lost.state.name());
            let last = [state, Cell::text(&lost.source), Cell::text(lost.confidence.name())];
            rows.row(cells(&label, path(&lost), lost.node.inode, Some(&lost.node), last))?;
        }
    }
    rows.end()?;
    Ok(exit(whole && good))
}

/// A row for each stream of a file, as `path:stream`.
fn streams(mounted: &Mounted, found: &Found, rows: &mut dyn Rows) -> Result<()> {
    let Ok(node) = &found.node else { return Ok(()) };
    for stream in mounted.fs.streams(node.inode)? {
        let size = stream.content.len();
        let gap = size > 0 && !stream.content.extent(0).is_ok_and(|extent| !matches!(extent.kind, Kind::Gap(_)));
        let content = Cell::text(if gap { "unreadable" } else { "readable" });
        let last = [Cell::text(found.entry.state.name()), Cell::text("stream"), content];
        let path = Cell::Name([found.path.as_slice(), b":", &stream.name].concat());
        let node = Node { kind: Some(FileKind::File), size, ..node.clone() };
        rows.row(cells(&mounted.label, path, node.inode, Some(&node), last))?;
    }
    Ok(())
}

fn path(lost: &Lost) -> Cell {
    Cell::or_absent(lost.path.clone(), Absent::Unknown, Cell::Name)
}

/// Could the content be read? Its map is read, not its bytes.
fn content(mounted: &Mounted, found: &Found) -> Cell {
    let file = found.node.as_ref().is_ok_and(|node| node.kind == Some(FileKind::File));
    if !file || found.entry.state != State::Allocated {
        return Cell::Absent(Absent::NotApplicable);
    }
    Cell::text(if mounted.fs.content(found.entry.inode).is_ok() { "readable" } else { "unreadable" })
}

/// What is looked for.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(super) struct FindArgs {
    /// Files whose name holds this text
    #[arg(long, value_name = "TEXT")]
    name: Option<std::ffi::OsString>,
    /// Names of this inode
    #[arg(long, value_name = "NUMBER")]
    inode: Option<u64>,
    /// The file that this block of the volume belongs to
    #[arg(long, value_name = "NUMBER")]
    block: Option<u64>,
}

pub(super) fn find(disk: &Disk, args: &FindArgs, context: &Context) -> Result<Exit> {
    use std::os::unix::ffi::OsStrExt;
    let mut rows = context.table(FILES);
    let whole = disk.each(How { recursive: true, deleted: false }, context, &mut |mounted, found| {
        let by_name = args.name.as_ref().is_some_and(|name| {
            let name = name.as_bytes();
            found.entry.name.windows(name.len().max(1)).any(|part| part == name)
        });
        let by_block = args.block.is_some_and(|block| {
            let runs = mounted.fs.runs(found.entry.inode).unwrap_or_default();
            runs.iter().any(|run| block.checked_sub(run.physical).is_some_and(|inside| inside < run.len))
        });
        if by_name || by_block || args.inode == Some(found.entry.inode) {
            let state =
                [Cell::text(found.entry.state.name()), Cell::text(found.entry.source), content(mounted, &found)];
            let node = found.node.as_ref().ok();
            rows.row(cells(&mounted.label, Cell::Name(found.path), found.entry.inode, node, state))?;
        }
        Ok(())
    })?;
    rows.end()?;
    Ok(exit(whole))
}
