//! Tables: `parts`, `fs`, `ls`, `find`.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Result;
use rayon::prelude::*;

use super::super::Exit;
use super::super::aside::Aside;
use super::super::context::Context;
use super::open::{Disk, Mounted, Start};
use crate::disk::fs::{FileKind, Filesystem, Lost, Node, State, Stream, Times};
use crate::disk::walk::{self, Found, How};
use crate::image::{Kind, ReadError};
use crate::progress::Task;
use crate::report::{Absent, Cell, Column, printable};

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

/// A row of a file.
fn cells(label: &str, path: Cell, inode: u64, node: Option<&Node>, last: [Cell; 3]) -> Vec<Cell> {
    let of = |cell: &dyn Fn(&Node) -> Cell| node.map_or(Cell::Absent(Absent::Unreadable), cell);
    let time = |pick: &dyn Fn(&Node) -> Option<jiff::Timestamp>| {
        of(&|node| Cell::or_absent(pick(node), Absent::NotApplicable, Cell::Time))
    };
    let [state, source, content] = last;
    vec![
        Cell::text(label),
        path,
        int(inode),
        of(&|node| Cell::or_absent(node.kind, Absent::Unknown, |kind| Cell::Word(kind.name()))),
        of(&|node| Cell::Bytes(node.size)),
        of(&|node| Cell::text(format!("{:04o}", node.mode & 0o7777))),
        of(&|node| Cell::Int(i64::from(node.uid))),
        of(&|node| Cell::Int(i64::from(node.gid))),
        time(&|node| node.times.modified),
        of(&|node| accessed(&node.times)),
        time(&|node| node.times.changed),
        time(&|node| node.times.born),
        time(&|node| node.times.deleted),
        state,
        source,
        content,
    ]
}

/// When a file was last read, as exactly as its file system keeps it.
pub(super) fn accessed(times: &Times) -> Cell {
    Cell::or_absent(times.accessed, Absent::NotApplicable, if times.accessed_day { Cell::Day } else { Cell::Time })
}

/// Files whose rows are made together.
const BATCH: usize = 4096;

/// Rows of files that were found, made by all cores.
struct Files {
    rows: Aside<Vec<Vec<Cell>>>,
    waiting: Vec<(Arc<str>, Arc<dyn Filesystem>, Found)>,
    task: Box<dyn Task>,
    /// All that was found could be read.
    good: bool,
}

impl Files {
    fn new(what: &str, context: &Context) -> Self {
        let task = context.counting(what, "files");
        Self { rows: context.table_aside(FILES), waiting: Vec::new(), task, good: true }
    }

    fn add(&mut self, label: &Arc<str>, fs: &Arc<dyn Filesystem>, found: Found) -> Result<()> {
        // What a deleted name points to may long be somebody else's.
        let live = found.entry.state == State::Allocated;
        self.good &= !live || (found.readable && found.node.as_ref().is_ok_and(|node| node.odd.is_empty()));
        self.waiting.push((Arc::clone(label), Arc::clone(fs), found));
        if self.waiting.len() >= BATCH { self.print() } else { Ok(()) }
    }

    fn print(&mut self) -> Result<()> {
        self.task.add(self.waiting.len() as u64);
        let waiting = std::mem::take(&mut self.waiting);
        let rows = waiting.into_par_iter().with_min_len(128).map(|(label, fs, found)| rows(&label, fs.as_ref(), found));
        let rows: Vec<_> = rows.collect::<Result<_, ReadError>>()?;
        self.rows.give(rows.into_iter().flatten().collect())
    }

    fn lost(&mut self, label: &str, lost: &Lost) -> Result<()> {
        self.print()?;
        let last = [Cell::Word(lost.state.name()), Cell::text(&lost.source), Cell::Word(lost.confidence.name())];
        self.rows.give(vec![cells(label, path(lost), lost.node.inode, Some(&lost.node), last)])
    }

    fn end(mut self) -> Result<bool> {
        self.print()?;
        self.rows.end()?;
        Ok(self.good)
    }
}

/// The row of a file, and one for each of its streams.
fn rows(label: &str, fs: &dyn Filesystem, found: Found) -> Result<Vec<Vec<Cell>>, ReadError> {
    let live = found.entry.state == State::Allocated;
    let streams = if live { streams(label, fs, &found)? } else { Vec::new() };
    let file = found.node.as_ref().is_ok_and(|node| node.kind == Some(FileKind::File));
    // Could the content be read? Its map was, not its bytes.
    let content = if file && live { readable(found.readable) } else { Cell::Absent(Absent::NotApplicable) };
    let last = [Cell::Word(found.entry.state.name()), Cell::Word(found.entry.source), content];
    let own = cells(label, Cell::Name(found.path), found.entry.inode, found.node.as_ref().ok(), last);
    Ok(std::iter::once(own).chain(streams).collect())
}

fn readable(readable: bool) -> Cell {
    Cell::Word(if readable { "readable" } else { "unreadable" })
}

/// A row for each stream of a file, as `path:stream`.
fn streams(label: &str, fs: &dyn Filesystem, found: &Found) -> Result<Vec<Vec<Cell>>, ReadError> {
    let Ok(node) = &found.node else { return Ok(Vec::new()) };
    let row = |stream: Stream| {
        let size = stream.content.len();
        let gap = size > 0 && !stream.content.extent(0).is_ok_and(|extent| !matches!(extent.kind, Kind::Gap(_)));
        let last = [Cell::Word(found.entry.state.name()), Cell::Word("stream"), readable(!gap)];
        let path = Cell::Name([found.path.as_slice(), b":", &stream.name].concat());
        let node = Node { kind: Some(FileKind::File), size, ..node.clone() };
        cells(label, path, node.inode, Some(&node), last)
    };
    Ok(fs.streams(node.inode)?.into_iter().map(row).collect())
}

pub(super) fn ls(disk: &Disk, recursive: bool, deleted: bool, context: &Context) -> Result<Exit> {
    let mut files = Files::new("listing", context);
    let mut label = Label::default();
    let Wanted { lost, good, swap } = if deleted { wanted(disk, recursive, context)? } else { Wanted::default() };
    let known = Known::new(&lost, swap);
    let whole = disk.each(How { recursive, deleted }, context, &mut |mounted, found| {
        if known.has(&mounted.label, &found) {
            return Ok(());
        }
        files.add(label.of(&mounted.label), &mounted.fs, found)
    })?;
    for (label, lost) in &lost {
        files.lost(label, lost)?;
    }
    Ok(exit(files.end()? & whole & good))
}

/// Lost files to list.
struct Wanted {
    lost: Vec<(String, Lost)>,
    /// All could be looked for.
    good: bool,
    /// The directory that was named, and its path: it may have been named by its number.
    swap: Option<(Vec<u8>, Vec<u8>)>,
}

impl Default for Wanted {
    fn default() -> Self {
        Self { lost: Vec::new(), good: true, swap: None }
    }
}

/// The lost files that were in the directory that was named, or below it.
fn wanted(disk: &Disk, recursive: bool, context: &Context) -> Result<Wanted> {
    let (mut lost, good) = disk.lost(context)?;
    if disk.address.inside.is_none() {
        return Ok(Wanted { lost, good, swap: None });
    }
    let Start { mounted, inode, path: named } = disk.one(context)?;
    let path = path_of(&mounted, inode, named.clone())?;
    lost.retain(|(_, lost)| is_below(lost, &path, recursive));
    Ok(Wanted { lost, good, swap: Some((named, path)) })
}

/// Lost files by volume and path. They have rows of their own, which say more than what is left of their names.
struct Known<'a> {
    inodes: HashMap<(&'a str, &'a [u8]), Vec<u64>>,
    swap: Option<(Vec<u8>, Vec<u8>)>,
}

impl<'a> Known<'a> {
    fn new(lost: &'a [(String, Lost)], swap: Option<(Vec<u8>, Vec<u8>)>) -> Self {
        let mut inodes: HashMap<_, Vec<u64>> = HashMap::new();
        for (label, lost) in lost {
            if let Some(path) = &lost.path {
                inodes.entry((label.as_str(), path.as_slice())).or_default().push(lost.node.inode);
            }
        }
        Self { inodes, swap }
    }

    /// Is a deleted name that of one of these? It may not lead to its inode any more.
    fn has(&self, label: &str, found: &Found) -> bool {
        if found.entry.state != State::Deleted {
            return false;
        }
        let swap = self.swap.as_ref().and_then(|(named, real)| Some((found.path.strip_prefix(&named[..])?, real)));
        let below = |rest: &[u8], real: &[u8]| walk::join(real, rest.strip_prefix(b"/").unwrap_or(rest));
        let path = swap.map_or_else(|| found.path.clone(), |(rest, real)| below(rest, real));
        let inode = found.entry.inode;
        let same = |inodes: &Vec<u64>| inode == 0 || inodes.contains(&inode);
        self.inodes.get(&(label, &path[..])).is_some_and(same)
    }
}

/// The name of the volume of many files, once.
#[derive(Default)]
struct Label(Option<Arc<str>>);

impl Label {
    fn of(&mut self, label: &str) -> &Arc<str> {
        if self.0.as_deref().is_some_and(|old| old != label) {
            self.0 = None;
        }
        self.0.get_or_insert_with(|| Arc::from(label))
    }
}

/// The path of a directory that may have been named by its number.
fn path_of(mounted: &Mounted, inode: u64, named: Vec<u8>) -> Result<Vec<u8>> {
    if !named.starts_with(b"/#") {
        return Ok(named);
    }
    let mut path = if inode == mounted.fs.root() { b"/".to_vec() } else { named };
    let (root, how) = (mounted.fs.root(), How { recursive: true, deleted: false });
    walk::walk::<ReadError>(mounted.fs.as_ref(), (root, b"/"), how, &mut |_| {}, &mut |found| {
        if found.entry.inode == inode {
            path.clone_from(&found.path);
        }
        Ok(())
    })?;
    Ok(path)
}

/// Was it in this directory, or anywhere below it? One without a path was nowhere that is known.
fn is_below(lost: &Lost, directory: &[u8], recursive: bool) -> bool {
    let inside = directory.strip_suffix(b"/").unwrap_or(directory);
    let rest = lost.path.as_ref().and_then(|path| path.strip_prefix(inside)?.strip_prefix(b"/"));
    rest.is_some_and(|rest| recursive || !rest.contains(&b'/'))
}

fn path(lost: &Lost) -> Cell {
    Cell::or_absent(lost.path.clone(), Absent::Unknown, Cell::Name)
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
    let mut files = Files::new("looking", context);
    let mut label = Label::default();
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
            files.add(label.of(&mounted.label), &mounted.fs, found)?;
        }
        Ok(())
    })?;
    Ok(exit(files.end()? & whole))
}
