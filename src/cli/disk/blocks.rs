//! `blocks`: which are in use, what is in those that are not, and whose one is.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};

use super::super::Exit;
use super::super::context::{Context, Stdout, raw_stdout, write_zeros};
use super::super::exit::UsageError;
use super::list::{exit, int};
use super::open::{Disk, Mounted};
use crate::disk::fs::{Filesystem, Lost};
use crate::disk::owners::{Owner, Owners, Wanted, of_run};
use crate::image::{Kind, ReadAt, ReadError, map};
use crate::report::{Absent, Cell, Column, printable};

/// Which blocks, and what of them.
#[derive(Debug, clap::Args)]
pub(super) struct BlockArgs {
    /// Those in use, not the others
    #[arg(long, conflicts_with = "all")]
    allocated: bool,
    /// Those in use as well
    #[arg(long)]
    all: bool,
    /// Write the bytes of the blocks to this new file, one range behind the other, or to stdout (`-`)
    #[arg(short, long, value_name = "FILE", conflicts_with = "owner")]
    output: Option<PathBuf>,
    /// Tell whose these blocks are and were: numbers and ranges, like 7,100-120
    #[arg(long, value_name = "BLOCKS", value_parser = list, conflicts_with_all = ["allocated", "all"])]
    owner: Option<Wanted>,
}

/// The most blocks whose owners are told at once.
const MOST: u64 = 1 << 24;
/// Bytes that are read at a time.
const CHUNK: u64 = 1 << 20;

fn list(text: &str) -> Result<Wanted, String> {
    let wrong = || format!("`{text}` is no list of blocks; write it like 7,100-120");
    let number = |text: &str| text.parse::<u64>().map_err(|_| wrong());
    let mut ranges = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        ranges.push(first..last.checked_add(1).filter(|end| *end > first).ok_or_else(wrong)?);
    }
    let wanted = Wanted::new(ranges);
    if wanted.count() > MOST { Err(format!("more than {MOST} blocks at once")) } else { Ok(wanted) }
}

pub(super) fn blocks(disk: &Disk, args: &BlockArgs, context: &Context) -> Result<Exit> {
    match (&args.owner, &args.output) {
        (Some(wanted), _) => owners(disk, wanted, context),
        (None, Some(output)) => write(disk, args, output, context),
        (None, None) => table(disk, args, context),
    }
}

impl BlockArgs {
    /// Hands out the ranges that were asked for, as long as they are of one kind.
    fn each(&self, fs: &dyn Filesystem, each: &mut dyn FnMut(Range<u64>, bool) -> Result<()>) -> Result<()> {
        let wanted = |used: bool| self.all || used == self.allocated;
        let (mut open, mut failed): (Option<(Range<u64>, bool)>, _) = (None, None);
        let done = fs.allocation(&mut |range, used| {
            match &mut open {
                Some((last, kind)) if *kind == used && last.end == range.start => last.end = range.end,
                _ => {
                    let before = open.replace((range, used)).filter(|(_, used)| wanted(*used));
                    if let Some(Err(error)) = before.map(|(range, used)| each(range, used)) {
                        failed = Some(error);
                        return Err(ReadError::caller("go on", "the rows could not be written"));
                    }
                }
            }
            Ok(())
        });
        if let Some(error) = failed {
            return Err(error);
        }
        // What was read before the books ended is true.
        open.filter(|(_, used)| wanted(*used)).map_or(Ok(()), |(range, used)| each(range, used))?;
        Ok(done?)
    }
}

fn state(used: bool) -> Cell {
    Cell::Word(if used { "allocated" } else { "unallocated" })
}

const RANGES: &[Column] = &[
    Column("volume"),
    Column("state"),
    Column("first"),
    Column("last"),
    Column("blocks"),
    Column("at"),
    Column("size"),
];

fn table(disk: &Disk, args: &BlockArgs, context: &Context) -> Result<Exit> {
    let (all, mut whole) = disk.mounted(context)?;
    let mut rows = context.table(RANGES);
    for Mounted { label, fs, .. } in all.into_iter().filter(|one| !one.inner) {
        let size = fs.block_size();
        let mut row = |range: Range<u64>, used| {
            let count = range.end - range.start;
            let at = fs.space().map(|_| range.start.saturating_mul(size));
            rows.row(vec![
                Cell::text(&label),
                state(used),
                int(range.start),
                int(range.end - 1),
                int(count),
                Cell::or_absent(at, Absent::NotApplicable, Cell::Address),
                Cell::Bytes(count.saturating_mul(size)),
            ])?;
            Ok(())
        };
        whole &= said(&label, args.each(fs.as_ref(), &mut row), context)?;
    }
    rows.end()?;
    Ok(exit(whole))
}

/// What could not be read is said and makes the answer partial; what could not be written ends it.
fn said(label: &str, done: Result<()>, context: &Context) -> Result<bool> {
    match done {
        Err(error) if error.downcast_ref::<ReadError>().is_some() => {
            context.say(&format!("{label}: {}", printable(&error.to_string())));
            Ok(false)
        }
        done => done.map(|()| true),
    }
}

/// Where bytes go: a file keeps its holes.
enum Output {
    File(File),
    Stdout(Stdout),
}

impl Output {
    fn open(path: &Path) -> Result<Self> {
        if path == Path::new("-") {
            return raw_stdout().map(Self::Stdout);
        }
        let made = File::options().write(true).create_new(true).open(path);
        Ok(Self::File(
            made.with_context(|| format!("could not create {}; nothing is ever overwritten", path.display()))?,
        ))
    }

    fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::File(file) => file.write_all(bytes),
            Self::Stdout(out) => out.write_all(bytes),
        }
    }

    fn zeros(&mut self, len: u64) -> io::Result<()> {
        match self {
            Self::File(file) => {
                let at = file.stream_position()?.saturating_add(len);
                file.set_len(at)?;
                file.seek(SeekFrom::Start(at)).map(drop)
            }
            Self::Stdout(out) => write_zeros(out, len),
        }
    }
}

fn write(disk: &Disk, args: &BlockArgs, output: &Path, context: &Context) -> Result<Exit> {
    let (mut all, mut whole) = disk.mounted(context)?;
    all.retain(|one| !one.inner);
    let [Mounted { label, fs, .. }] = all.as_slice() else {
        return Err(UsageError("say which volume".to_owned()).into());
    };
    let what = || anyhow!("blocks of {} have no one place on the volume; extract its files instead", fs.name());
    let space = fs.space().ok_or_else(what)?;
    let mut to = Output::open(output)?;
    let task = context.progress().begin("writing", None);
    let mut missing = 0_u64;
    let done = args.each(fs.as_ref(), &mut |range, _| {
        let bytes = range.start.saturating_mul(fs.block_size())..range.end.saturating_mul(fs.block_size());
        missing = missing.saturating_add(copy(space.as_ref(), bytes.clone(), &mut to)?);
        task.add(bytes.end - bytes.start);
        Ok(())
    });
    whole &= said(label, done, context)?;
    if missing > 0 {
        context.say(&format!("{label}: {missing} bytes could not be read and are zeros"));
    }
    Ok(exit(whole && missing == 0))
}

/// Copies a range; gives how much of it the image does not hold, in bytes.
fn copy(from: &dyn ReadAt, range: Range<u64>, to: &mut Output) -> Result<u64> {
    let mut buffer = vec![0; crate::disk::us(CHUNK.min(range.end - range.start))];
    let behind = range.end.saturating_sub(from.len().max(range.start));
    let mut missing = behind;
    for extent in map::walk(from, range) {
        let extent = extent?;
        match extent.kind {
            Kind::Zero => to.zeros(extent.len)?,
            Kind::Gap(_) => {
                missing = missing.saturating_add(extent.len);
                to.zeros(extent.len)?;
            }
            Kind::Data => {
                let mut at = extent.at;
                while at < extent.end() {
                    let len = crate::disk::us((extent.end() - at).min(CHUNK));
                    let Some(part) = buffer.get_mut(..len) else { break };
                    from.read_at(at, part)?;
                    to.data(part)?;
                    at += len as u64;
                }
            }
        }
    }
    to.zeros(behind)?;
    Ok(missing)
}

const OWNERS: &[Column] = &[
    Column("volume"),
    Column("first"),
    Column("last"),
    Column("state"),
    Column("owner"),
    Column("inode"),
    Column("path"),
    Column("file_block"),
    Column("note"),
];

/// A line of the answer.
struct Line {
    blocks: Range<u64>,
    owner: &'static str,
    file: Option<Owner>,
    note: String,
}

fn owners(disk: &Disk, wanted: &Wanted, context: &Context) -> Result<Exit> {
    let Mounted { label, fs, .. } = disk.one(context)?.mounted;
    if let Some(last) = wanted.ranges().last().filter(|last| last.end > fs.blocks()) {
        let what =
            format!("there is no block {}; the last of {label} is {}", last.end - 1, fs.blocks().saturating_sub(1));
        return Err(UsageError(what).into());
    }
    let mut whole = fs.is_whole();
    let mut odd = |line: String| {
        whole = false;
        context.say(&format!("{label}: {}", printable(&line)));
    };
    let live = Owners::find(fs.as_ref(), wanted, &mut odd)?;
    let lost = fs.lost()?;
    let mut lines: Vec<Line> = live.all().iter().map(of_file).collect();
    lines.extend(lost.iter().flat_map(|lost| of_lost(wanted, lost)));
    let owned = Wanted::new(live.all().iter().map(|owner| owner.blocks.clone()).collect());
    lines.extend(others(fs.as_ref(), wanted, &owned)?);
    lines.sort_by_key(|line| line.blocks.start);
    let mut rows = context.table(OWNERS);
    for line in lines {
        rows.row(row(&label, &fs, line)?)?;
    }
    rows.end()?;
    Ok(exit(whole))
}

fn of_file(owner: &Owner) -> Line {
    let what = if owner.logical.is_some() { "content" } else { "map or attributes" };
    Line { blocks: owner.blocks.clone(), owner: what, file: Some(owner.clone()), note: String::new() }
}

/// Blocks that a file had that is no longer there.
fn of_lost(wanted: &Wanted, lost: &Lost) -> Vec<Line> {
    let line = |(blocks, logical): (Range<u64>, u64)| {
        let file =
            Owner { blocks: blocks.clone(), inode: lost.node.inode, path: lost.path.clone(), logical: Some(logical) };
        let owner = if lost.node.allocated { "content" } else { "content once" };
        Line { blocks, owner, file: Some(file), note: format!("{}, {}", lost.state.name(), lost.source) }
    };
    lost.runs.iter().flat_map(|run| of_run(wanted, run)).map(line).collect()
}

/// Blocks that no file has: of the file system, free, or of nobody that was found.
fn others(fs: &dyn Filesystem, wanted: &Wanted, owned: &Wanted) -> Result<Vec<Line>> {
    let mut lines: Vec<Line> = Vec::new();
    let mut owned = owned.ranges().iter().peekable();
    for block in wanted.ranges().iter().cloned().flatten() {
        while owned.next_if(|range| range.end <= block).is_some() {}
        if owned.peek().is_some_and(|range| range.start <= block) {
            continue;
        }
        let purpose = fs.purpose(block);
        let owner = match (&purpose, fs.block_in_use(block)?) {
            (Some(_), _) => "file system",
            (None, true) => "unknown",
            (None, false) => "nobody",
        };
        let note = purpose.unwrap_or_default();
        match lines.last_mut() {
            Some(last) if last.blocks.end == block && last.owner == owner && last.note == note => last.blocks.end += 1,
            _ => lines.push(Line { blocks: block..block + 1, owner, file: None, note }),
        }
    }
    Ok(lines)
}

fn row(label: &str, fs: &Arc<dyn Filesystem>, line: Line) -> Result<Vec<Cell>> {
    let file = line.file.as_ref();
    let absent = Absent::NotApplicable;
    Ok(vec![
        Cell::text(label),
        int(line.blocks.start),
        int(line.blocks.end.saturating_sub(1)),
        state(fs.block_in_use(line.blocks.start)?),
        Cell::Word(line.owner),
        Cell::or_absent(file.map(|file| file.inode), absent, int),
        Cell::or_absent(file.and_then(|file| file.path.clone()), absent, Cell::Name),
        Cell::or_absent(file.and_then(|file| file.logical), absent, int),
        Cell::text(line.note),
    ])
}
