//! Single files: `stat`, `cat`; and `hash` of all.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use anyhow::{Result, anyhow};
use rayon::prelude::*;

use super::super::Exit;
use super::super::context::{Context, raw_stdout, write_zeros};
use super::list::{accessed, exit, int};
use super::open::{Disk, Start};
use crate::disk::fs::{FileKind, Filesystem};
use crate::disk::walk::How;
use crate::image::{Kind, ReadAt, ReadError, digest::Digests, map};
use crate::progress::Task;
use crate::report::{Absent, Cell, Column, Rows, printable, readable};

/// Bytes that are read at a time.
const CHUNK: u64 = 1 << 20;
/// Files that are hashed before their rows are printed: bounds memory.
const BATCH: usize = 4096;

const FACTS: &[Column] = &[Column("property"), Column("value")];

pub(super) fn stat(disk: &Disk, context: &Context) -> Result<Exit> {
    let Start { mounted, inode, path } = disk.one(context)?;
    let node = mounted.fs.node(inode)?;
    let time = |at: Option<jiff::Timestamp>| Cell::or_absent(at, Absent::NotApplicable, Cell::Time);
    let mut rows = context.table(FACTS);
    let mut row = |name: &str, cell: Cell| rows.row(vec![Cell::text(name), cell]);
    row("path", Cell::Name(path))?;
    row("inode", int(inode))?;
    row("state", Cell::text(if node.allocated { "allocated" } else { "deleted" }))?;
    row("kind", Cell::or_absent(node.kind, Absent::Unknown, |kind| Cell::text(kind.name())))?;
    row("mode", Cell::text(format!("{:04o}", node.mode & 0o7777)))?;
    row("uid", Cell::Int(i64::from(node.uid)))?;
    row("gid", Cell::Int(i64::from(node.gid)))?;
    row("size", Cell::Bytes(node.size))?;
    row("links", Cell::Int(i64::from(node.links)))?;
    row("modified", time(node.times.modified))?;
    row("accessed", accessed(&node.times))?;
    row("changed", time(node.times.changed))?;
    row("born", time(node.times.born))?;
    row("deleted", time(node.times.deleted))?;
    for (name, value) in &node.facts {
        row(name, Cell::text(value))?;
    }
    if node.kind == Some(FileKind::Link) {
        row("target", mounted.fs.target(inode).map_or(Cell::Absent(Absent::Unreadable), Cell::Name))?;
    }
    for stream in mounted.fs.streams(inode)? {
        row("stream", Cell::Name(stream.name))?;
        row("stream size", Cell::Bytes(stream.content.len()))?;
    }
    for run in mounted.fs.runs(inode)? {
        let (end, unwritten) =
            (run.physical.saturating_add(run.len - 1), if run.unwritten { " unwritten" } else { "" });
        row("blocks", Cell::text(format!("{} at {}-{end}{unwritten}", run.logical, run.physical)))?;
    }
    for line in &node.odd {
        row("odd", Cell::text(line))?;
    }
    rows.end()?;
    Ok(exit(node.odd.is_empty()))
}

/// Takes bytes, or the length of a hole that is zero.
type Take<'a> = &'a mut dyn FnMut(Result<&[u8], u64>) -> io::Result<()>;

/// Reads all of a file, piece by piece. Holes that are zero come as their length.
pub(super) fn pieces(content: &dyn ReadAt, take: Take<'_>) -> Result<()> {
    let mut buffer = vec![0; crate::disk::us(CHUNK.min(content.len()))];
    for extent in map::walk(content, 0..content.len()) {
        let extent = extent?;
        match extent.kind {
            Kind::Zero => take(Err(extent.len))?,
            Kind::Gap(why) => return Err(ReadError::Gap { at: extent.at, len: extent.len, why }.into()),
            Kind::Data => {
                let mut at = extent.at;
                while at < extent.end() {
                    let len = crate::disk::us((extent.end() - at).min(CHUNK));
                    let Some(part) = buffer.get_mut(..len) else { break };
                    content.read_at(at, part)?;
                    take(Ok(part))?;
                    at += len as u64;
                }
            }
        }
    }
    Ok(())
}

pub(super) fn cat(disk: &Disk, slack: bool, stream: Option<&OsStr>, context: &Context) -> Result<Exit> {
    let mut out = raw_stdout()?;
    let Start { mounted, inode, .. } = disk.one(context)?;
    let node = mounted.fs.node(inode)?;
    if slack {
        out.write_all(&mounted.fs.slack(inode)?)?;
        return Ok(Exit::Complete);
    }
    let content = match stream {
        Some(name) => stream_of(mounted.fs.as_ref(), inode, name.as_bytes())?,
        None => mounted.fs.content(inode)?,
    };
    let done = pieces(content.as_ref(), &mut |piece| match piece {
        Ok(bytes) => out.write_all(bytes),
        Err(zeros) => write_zeros(&mut out, zeros),
    });
    out.flush()?;
    node.odd.iter().for_each(|line| context.say(&printable(line)));
    match done {
        Err(error) if error.downcast_ref::<ReadError>().is_some() => {
            context.say(&format!("stopped: {}", printable(&error.to_string())));
            Ok(Exit::Partial)
        }
        Err(error) => Err(error),
        Ok(()) => Ok(exit(node.odd.is_empty())),
    }
}

/// The stream of this name, as the file system compares names.
fn stream_of(fs: &dyn Filesystem, inode: u64, name: &[u8]) -> Result<Arc<dyn ReadAt>> {
    let streams = fs.streams(inode)?;
    let exact = streams.iter().find(|stream| stream.name == name);
    let found = exact.or_else(|| streams.iter().find(|stream| fs.same_name(&stream.name, name)));
    found.map(|stream| Arc::clone(&stream.content)).ok_or_else(|| {
        let names: Vec<_> = streams.iter().map(|stream| printable(&readable(&stream.name))).collect();
        let there = if names.is_empty() { "it has none".to_owned() } else { format!("it has {}", names.join(", ")) };
        anyhow!("the file has no stream {}; {there}", printable(&readable(name)))
    })
}

const HASHES: &[Column] =
    &[Column("volume"), Column("path"), Column("inode"), Column("size"), Column("digest"), Column("hex")];

/// What is to be computed of which files.
#[derive(Debug, clap::Args)]
pub(super) struct HashArgs {
    /// Digest to compute; may be given several times
    #[arg(long = "digest", value_name = "NAME", default_values = ["sha256"], value_parser = ["sha256", "sha1", "md5"])]
    digests: Vec<String>,
    /// Leave out files that are longer: a sparse file may claim terabytes, and a digest goes over all of them
    #[arg(long, value_name = "SIZE", value_parser = super::size)]
    max_size: Option<u64>,
}

struct Waiting {
    label: String,
    path: Vec<u8>,
    inode: u64,
    size: u64,
    fs: Arc<dyn Filesystem>,
    /// Not the content, but this stream.
    stream: Option<Arc<dyn ReadAt>>,
}

/// Files that wait for their digests, and rows that were printed.
struct Hashing<'a> {
    wanted: Vec<&'a str>,
    most: u64,
    rows: Box<dyn Rows>,
    task: Box<dyn Task>,
    waiting: Vec<Waiting>,
    /// Every digest could be computed.
    good: bool,
}

impl Hashing<'_> {
    fn add(&mut self, file: Waiting) -> Result<()> {
        self.waiting.push(file);
        if self.waiting.len() >= BATCH { self.print() } else { Ok(()) }
    }

    /// By all cores, each file by one; printed in their order.
    fn print(&mut self) -> Result<()> {
        let (wanted, most, task) = (&self.wanted, self.most, self.task.as_ref());
        let work = self.waiting.par_iter().with_max_len(1);
        let done: Vec<_> = work.map(|file| (file.size <= most).then(|| digests(file, wanted, task))).collect();
        for (file, digests) in self.waiting.drain(..).zip(done) {
            self.good &= !matches!(digests, Some(Err(_)));
            for (index, name) in self.wanted.iter().enumerate() {
                let hex = match &digests {
                    None => Cell::Absent(Absent::NotApplicable),
                    Some(digests) => {
                        let hex = digests.as_ref().ok().and_then(|all| all.get(index)).map(|digest| digest.hex.clone());
                        Cell::or_absent(hex, Absent::Unreadable, Cell::text)
                    }
                };
                let (path, size) = (Cell::Name(file.path.clone()), Cell::Bytes(file.size));
                self.rows.row(vec![Cell::text(&file.label), path, int(file.inode), size, Cell::text(*name), hex])?;
            }
        }
        Ok(())
    }
}

pub(super) fn hash(disk: &Disk, args: &HashArgs, context: &Context) -> Result<Exit> {
    let mut hashing = Hashing {
        wanted: args.digests.iter().map(String::as_str).collect(),
        most: args.max_size.unwrap_or(u64::MAX),
        rows: context.table(HASHES),
        task: context.progress().begin("hashing", None),
        waiting: Vec::new(),
        good: true,
    };
    let whole = disk.each(How { recursive: true, deleted: false }, context, &mut |mounted, found| {
        let Ok(node) = &found.node else {
            hashing.good = false;
            return Ok(());
        };
        let wait = |path: Vec<u8>, size, stream| {
            let (label, fs) = (mounted.label.clone(), Arc::clone(&mounted.fs));
            Waiting { label, path, inode: node.inode, size, fs, stream }
        };
        for stream in mounted.fs.streams(node.inode)? {
            let path = [found.path.as_slice(), b":", &stream.name].concat();
            hashing.add(wait(path, stream.content.len(), Some(stream.content)))?;
        }
        if node.kind == Some(FileKind::File) {
            let (path, size) = (found.path.clone(), node.size);
            hashing.add(wait(path, size, None))?;
        }
        Ok(())
    })?;
    hashing.print()?;
    hashing.rows.end()?;
    Ok(exit(whole && hashing.good))
}

/// In the order of `wanted`.
fn digests(file: &Waiting, wanted: &[&str], task: &dyn Task) -> Result<Vec<crate::image::Carried>> {
    let content = file.stream.clone().map_or_else(|| file.fs.content(file.inode), Ok)?;
    let mut sums = Digests::new(wanted);
    pieces(content.as_ref(), &mut |piece| {
        match piece {
            Ok(bytes) => {
                sums.add(bytes);
                task.add(bytes.len() as u64);
            }
            Err(zeros) => sums.add_zeros(zeros),
        }
        Ok(())
    })?;
    let found = sums.finish();
    Ok(wanted.iter().filter_map(|name| found.iter().find(|one| one.algorithm == *name).cloned()).collect())
}
