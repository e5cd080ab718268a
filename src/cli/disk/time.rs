//! `timeline`: what happened when. Sorted by way of temporary files, so that it does not matter how many files there are.

use std::env;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Result;
use jiff::Timestamp;
use rayon::prelude::*;

use super::super::Exit;
use super::super::aside::{Aside, Sink};
use super::super::context::{Context, Stdout, output};
use super::body;
use super::list::{exit, int};
use super::open::Disk;
use crate::disk::fs::{FileKind, Node, State, Times};
use crate::disk::sort::{Key, Sorter};
use crate::disk::walk::How;
use crate::progress::Task;
use crate::report::{Cell, Column, Format, Rows};

/// How the timeline is to be made.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own on the command line")]
pub(super) struct TimeArgs {
    /// Write a bodyfile instead, not sorted, for mactime; `|`, `\` and control characters as \xNN
    #[arg(long, conflicts_with_all = ["mactime", "timesketch"])]
    bodyfile: bool,
    /// Write lines as mactime does; names as in a bodyfile, times in UTC
    #[arg(long, conflicts_with = "timesketch")]
    mactime: bool,
    /// Write the columns that Timesketch wants, as CSV or with --format jsonl
    #[arg(long)]
    timesketch: bool,
    /// Deleted files too, also from the journal
    #[arg(long)]
    deleted: bool,
    /// Folder for temporary files [default: $TMPDIR, else /var/tmp]
    #[arg(long, value_name = "DIR")]
    temp: Option<PathBuf>,
}

const EVENTS: &[Column] = &[
    Column("time"),
    Column("macb"),
    Column("size"),
    Column("mode"),
    Column("uid"),
    Column("gid"),
    Column("inode"),
    Column("state"),
    Column("path"),
];

/// Timesketch, "Import data from CSV or JSONL": the first three are required; `timestamp` in microseconds.
const TIMESKETCH: &[Column] = &[
    Column("message"),
    Column("datetime"),
    Column("timestamp_desc"),
    Column("timestamp"),
    Column("data_type"),
    Column("file_path"),
    Column("inode"),
    Column("file_size"),
    Column("mode"),
    Column("uid"),
    Column("gid"),
    Column("state"),
];

/// The four letters of mactime and one for the deletion, and how plaso names them.
const NAMES: [(char, &str); 5] = [
    ('m', "Content Modification Time"),
    ('a', "Last Access Time"),
    ('c', "Metadata Modification Time"),
    ('b', "Creation Time"),
    ('d', "Deletion Time"),
];

/// Of these, the time that may be a day only.
const ACCESSED: usize = 1;
/// The bit of an event that stands for a whole day, and is put where that begins.
const DAY: u8 = 1 << 7;

/// Bytes of events that are kept in memory.
const BUDGET: usize = 32 << 20;
/// Files that are counted together: the clock costs as much as a file.
const COUNTED: u64 = 1024;
/// Events, or files, whose lines are made together.
const BATCH: usize = 8192;

/// What a timeline tells of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct File<'a> {
    pub(super) path: &'a [u8],
    pub(super) state: State,
    pub(super) kind: Option<FileKind>,
    pub(super) inode: u64,
    pub(super) size: u64,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Not kept while it is sorted.
    pub(super) times: Times,
}

/// Bytes of a record in front of the path.
const FIXED: usize = 30;
/// Kinds, by their number in a record; the first is none.
const KINDS: [Option<FileKind>; 8] = [
    None,
    Some(FileKind::File),
    Some(FileKind::Directory),
    Some(FileKind::Link),
    Some(FileKind::CharDevice),
    Some(FileKind::BlockDevice),
    Some(FileKind::Fifo),
    Some(FileKind::Socket),
];
/// The same for states.
const STATES: [State; 3] = [State::Allocated, State::Deleted, State::Orphan];

impl<'a> File<'a> {
    fn new(path: &'a [u8], node: &Node, state: State) -> Self {
        let Node { kind, inode, size, mode, uid, gid, times, .. } = node;
        let (inode, size, mode, uid, gid) = (*inode, *size, *mode, *uid, *gid);
        Self { path, state, kind: *kind, inode, size, mode, uid, gid, times: *times }
    }

    /// As bytes, for the sorter.
    fn record(&self, to: &mut Vec<u8>) {
        to.clear();
        let number = |place: Option<usize>| place.and_then(|place| u8::try_from(place).ok()).unwrap_or(0);
        to.push(number(STATES.iter().position(|state| *state == self.state)));
        to.push(number(KINDS.iter().position(|kind| *kind == self.kind)));
        let wide = [self.inode, self.size];
        to.extend(wide.iter().flat_map(|n| n.to_le_bytes()));
        to.extend([self.mode, self.uid, self.gid].iter().flat_map(|n| n.to_le_bytes()));
        to.extend_from_slice(self.path);
    }

    fn of_record(bytes: &'a [u8]) -> Option<Self> {
        let (fixed, path) = bytes.split_at_checked(FIXED)?;
        let wide = |at: usize| Some(u64::from_le_bytes(fixed.get(at..at + 8)?.try_into().ok()?));
        let narrow = |at: usize| Some(u32::from_le_bytes(fixed.get(at..at + 4)?.try_into().ok()?));
        let state = *STATES.get(usize::from(*fixed.first()?))?;
        let kind = *KINDS.get(usize::from(*fixed.get(1)?))?;
        let (inode, size, times) = (wide(2)?, wide(10)?, Times::default());
        let (mode, uid, gid) = (narrow(18)?, narrow(22)?, narrow(26)?);
        Some(Self { path, state, kind, inode, size, mode, uid, gid, times })
    }

    fn times(&self) -> [Option<Timestamp>; 5] {
        let times = &self.times;
        [times.modified, times.accessed, times.changed, times.born, times.deleted]
    }

    /// Its moments, and by bit which of its times they are. `whole` seconds are what mactime knows, and days it does not: there
    /// they are midnight, as fls has them.
    fn moments(&self, whole: bool) -> Vec<(Key, u8)> {
        let mut all: Vec<(Key, u8)> = Vec::with_capacity(5);
        for (index, at) in self.times().iter().enumerate() {
            let Some(at) = at else { continue };
            let key = (at.as_second(), if whole { 0 } else { at.subsec_nanosecond() });
            let day = if index == ACCESSED && self.times.accessed_day && !whole { DAY } else { 0 };
            match all.iter_mut().find(|(old, bits)| *old == key && bits & DAY == day) {
                Some((_, bits)) => *bits |= 1 << index,
                None => all.push((key, 1 << index | day)),
            }
        }
        all
    }
}

pub(super) fn timeline(disk: &Disk, args: &TimeArgs, context: &Context) -> Result<Exit> {
    let task = context.counting("reading", "files");
    if args.bodyfile {
        let mut lines = Lines::default();
        let whole = files(disk, args.deleted, context, task.as_ref(), &mut |file| lines.add(file))?;
        lines.print()?;
        lines.to.flush()?;
        return Ok(exit(whole));
    }
    let mut sorter = Sorter::new(BUDGET, &folder(args.temp.as_deref()));
    let mut record = Vec::new();
    let whole = files(disk, args.deleted, context, task.as_ref(), &mut |file| {
        file.record(&mut record);
        Ok(sorter.add(&record, file.moments(args.mactime))?)
    })?;
    drop(task);
    let (mactime, timesketch, format) = (args.mactime, args.timesketch, context.format());
    let mut events = Aside::new(move || Events::new(mactime, timesketch, format));
    let mut waiting = Vec::with_capacity(BATCH);
    sorter.finish(|key, tag, record| {
        waiting.push((key, tag, record.to_vec()));
        if waiting.len() < BATCH {
            Ok(())
        } else {
            events.give(std::mem::replace(&mut waiting, Vec::with_capacity(BATCH)))
        }
    })?;
    events.give(waiting)?;
    events.end()?;
    Ok(exit(whole))
}

/// Where large temporary files belong: `/tmp` may be memory.
fn folder(named: Option<&Path>) -> PathBuf {
    let usual = || env::var_os("TMPDIR").map(PathBuf::from).filter(|path| path.is_absolute());
    let large = || Some(PathBuf::from("/var/tmp")).filter(|path| path.is_dir());
    named.map(Path::to_owned).or_else(usual).or_else(large).unwrap_or_else(env::temp_dir)
}

/// Hands out every file, and tells whether all could be read.
fn files(
    disk: &Disk,
    deleted: bool,
    context: &Context,
    task: &dyn Task,
    take: &mut dyn FnMut(&File<'_>) -> Result<()>,
) -> Result<bool> {
    let (mut good, mut count) = (true, 0_u64);
    let mut whole = disk.each(How { recursive: true, deleted: false }, context, &mut |mounted, found| {
        count += 1;
        if count.is_multiple_of(COUNTED) {
            task.add(COUNTED);
        }
        if let Ok(node) = found.node {
            return take(&File::new(&named(&mounted.label, found.path), &node, State::Allocated));
        }
        good = false;
        Ok(())
    })?;
    if deleted {
        let (lost, all) = disk.lost(context)?;
        whole &= all;
        for (label, lost) in lost {
            let path = lost.path.unwrap_or_else(|| format!("/#{}", lost.node.inode).into_bytes());
            take(&File::new(&named(&label, path), &lost.node, lost.state))?;
        }
    }
    Ok(whole && good)
}

fn named(label: &str, path: Vec<u8>) -> Vec<u8> {
    if label == "p0" { path } else { [b"/", label.as_bytes(), &path].concat() }
}

/// Lines that are no table.
struct Lines {
    to: io::BufWriter<Stdout>,
    waiting: String,
}

impl Default for Lines {
    fn default() -> Self {
        Self { to: output(), waiting: String::new() }
    }
}

impl Lines {
    fn add(&mut self, file: &File<'_>) -> Result<()> {
        body::line(file, &mut self.waiting);
        if self.waiting.len() < 1 << 16 { Ok(()) } else { self.print() }
    }

    fn print(&mut self) -> Result<()> {
        self.to.write_all(self.waiting.as_bytes())?;
        self.waiting.clear();
        Ok(())
    }
}

/// A moment of a file, with its record.
type Event = (Key, u8, Vec<u8>);

/// Events in order, on their way to stdout.
enum Events {
    Table { rows: Box<dyn Rows>, row: fn(&Event) -> Option<Vec<Cell>> },
    Mactime { lines: Lines, last: i64 },
}

impl Events {
    fn new(mactime: bool, for_timesketch: bool, format: Format) -> Self {
        let table = |format: Format, columns| format.rows(columns, Box::new(output()));
        match (mactime, for_timesketch, format) {
            (true, ..) => Self::Mactime { lines: Lines::default(), last: i64::MIN },
            (_, true, Format::Text) => Self::Table { rows: table(Format::Csv, TIMESKETCH), row: timesketch },
            (_, true, format) => Self::Table { rows: table(format, TIMESKETCH), row: timesketch },
            (_, false, format) => Self::Table { rows: table(format, EVENTS), row },
        }
    }
}

impl Sink<Vec<Event>> for Events {
    fn take(&mut self, events: Vec<Event>) -> Result<()> {
        match self {
            Self::Table { rows, row } => {
                let made = events.into_par_iter().with_min_len(256).filter_map(|event| row(&event));
                Ok(rows.rows(made.collect())?)
            }
            Self::Mactime { lines, last } => {
                let mut before = std::mem::replace(last, events.last().map_or(*last, |(key, ..)| key.0));
                let first: Vec<bool> =
                    events.iter().map(|(key, ..)| std::mem::replace(&mut before, key.0) != key.0).collect();
                let made = events.into_par_iter().zip(first).with_min_len(256);
                let made: Vec<_> = made.filter_map(|(event, first)| mactime(&event, first)).collect();
                made.iter().try_for_each(|line| lines.to.write_all(line.as_bytes()))?;
                Ok(())
            }
        }
    }

    fn end(self) -> Result<()> {
        match self {
            Self::Table { rows, .. } => rows.end()?,
            Self::Mactime { mut lines, .. } => lines.to.flush()?,
        }
        Ok(())
    }
}

/// `m.c.`, with a fifth letter where a deletion is told.
fn letters(tag: u8, all: usize) -> String {
    let letter = |(index, (letter, _)): (usize, &(char, &str))| if tag >> index & 1 == 1 { *letter } else { '.' };
    NAMES.iter().enumerate().take(all).map(letter).collect()
}

/// When an event was, no more exactly than is known.
fn when(key: &Key, tag: u8) -> Option<Cell> {
    let at = Timestamp::new(key.0, key.1).ok()?;
    Some(if tag & DAY == 0 { Cell::Time(at) } else { Cell::Day(at) })
}

fn row((key, tag, record): &Event) -> Option<Vec<Cell>> {
    let file = File::of_record(record)?;
    Some(vec![
        when(key, *tag)?,
        Cell::text(letters(*tag, 5)),
        Cell::Bytes(file.size),
        Cell::text(format!("{:04o}", file.mode & 0o7777)),
        Cell::Int(i64::from(file.uid)),
        Cell::Int(i64::from(file.gid)),
        int(file.inode),
        Cell::Word(file.state.name()),
        Cell::Name(file.path.to_vec()),
    ])
}

fn timesketch((key, tag, record): &Event) -> Option<Vec<Cell>> {
    let file = File::of_record(record)?;
    let at = Timestamp::new(key.0, key.1).ok()?;
    let names = NAMES.iter().enumerate().filter(|(index, _)| tag >> index & 1 == 1);
    let mut names: Vec<_> = names.map(|(_, (_, name))| *name).collect();
    // Timesketch wants an instant in `datetime`.
    names.extend((tag & DAY != 0).then_some("the day only, its time is not kept"));
    let path = body::escaped(file.path);
    let gone = if file.state == State::Allocated { String::new() } else { format!(" ({})", file.state.name()) };
    Some(vec![
        Cell::text(format!("{path}{gone}")),
        Cell::Time(at),
        Cell::text(names.join("; ")),
        Cell::Int(at.as_microsecond()),
        Cell::Word("fs:stat"),
        Cell::text(path),
        int(file.inode),
        // A number also where sizes are for eyes.
        int(file.size),
        Cell::text(format!("{:04o}", file.mode & 0o7777)),
        Cell::Int(i64::from(file.uid)),
        Cell::Int(i64::from(file.gid)),
        Cell::Word(file.state.name()),
    ])
}

fn mactime((key, tag, record): &Event, first: bool) -> Option<String> {
    let file = File::of_record(record)?;
    let mut line = String::new();
    // A deletion is no time that mactime knows.
    let tag = Some(tag & 15).filter(|tag| *tag != 0)?;
    body::mactime(&file, Timestamp::from_second(key.0).ok()?, &letters(tag, 4), first, &mut line);
    Some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_the_file_that_it_was_made_of() {
        for state in [State::Allocated, State::Deleted, State::Orphan] {
            let (kind, mode) = (Some(FileKind::Link), 0o120_777);
            let file = File {
                path: b"/a|\xff",
                state,
                kind,
                inode: u64::MAX - 1,
                size: 1 << 40,
                mode,
                uid: 70_000,
                gid: 7,
                times: Times::default(),
            };
            let mut record = vec![9; 3];
            file.record(&mut record);
            assert_eq!(File::of_record(&record), Some(file));
            assert_eq!(File::of_record(&record[..FIXED - 1]), None);
        }
    }
}
