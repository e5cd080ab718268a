//! Single files: `stat`, `cat`; and `hash` of all.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use anyhow::{Result, anyhow};
use rayon::prelude::*;

use super::super::Exit;
use super::super::context::{Context, raw_stdout, write_zeros};
use super::list::{exit, int};
use super::open::Disk;
use crate::disk::fs::{FileKind, Filesystem, State};
use crate::disk::walk::How;
use crate::image::{Kind, ReadAt, ReadError, digest::Digests, map};
use crate::report::{Absent, Cell, Column, printable, readable};

/// Bytes that are read at a time.
const CHUNK: u64 = 1 << 20;
/// Files that are hashed before their rows are printed: bounds memory.
const BATCH: usize = 4096;

const FACTS: &[Column] = &[Column("property"), Column("value")];

pub(super) fn stat(disk: &Disk, context: &Context) -> Result<Exit> {
    let (mounted, inode, path) = disk.one(context)?;
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
    row("accessed", time(node.times.accessed))?;
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
    let (mounted, inode, _) = disk.one(context)?;
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

struct Waiting {
    label: String,
    path: Vec<u8>,
    inode: u64,
    size: u64,
    fs: Arc<dyn Filesystem>,
    /// Not the content, but this stream.
    stream: Option<Arc<dyn ReadAt>>,
}

pub(super) fn hash(disk: &Disk, wanted: &[String], context: &Context) -> Result<Exit> {
    let wanted: Vec<_> = wanted.iter().map(String::as_str).collect();
    let mut rows = context.table(HASHES);
    let (mut good, mut batch) = (true, Vec::new());
    let mut print = |batch: &mut Vec<Waiting>| -> Result<()> {
        let done: Vec<_> = batch.par_iter().map(|file| digests(file, &wanted)).collect();
        for (file, digests) in batch.drain(..).zip(done) {
            good &= digests.is_ok();
            for (index, name) in wanted.iter().enumerate() {
                let hex = digests.as_ref().ok().and_then(|all| all.get(index)).map(|digest| digest.hex.clone());
                let hex = Cell::or_absent(hex, Absent::Unreadable, Cell::text);
                let path = Cell::Name(file.path.clone());
                let size = Cell::Bytes(file.size);
                rows.row(vec![Cell::text(&file.label), path, int(file.inode), size, Cell::text(*name), hex])?;
            }
        }
        Ok(())
    };
    let whole = disk.each(How { recursive: true, deleted: false }, context, &mut |mounted, found| {
        if let Ok(node) = &found.node
            && found.entry.state == State::Allocated
        {
            let wait = |path: Vec<u8>, size, stream| Waiting {
                label: mounted.label.clone(),
                path,
                inode: node.inode,
                size,
                fs: Arc::clone(&mounted.fs),
                stream,
            };
            for stream in mounted.fs.streams(node.inode)? {
                let path = [found.path.as_slice(), b":", &stream.name].concat();
                batch.push(wait(path, stream.content.len(), Some(stream.content)));
            }
            if node.kind == Some(FileKind::File) {
                batch.push(wait(found.path, node.size, None));
            }
        }
        if batch.len() >= BATCH { print(&mut batch) } else { Ok(()) }
    })?;
    print(&mut batch)?;
    rows.end()?;
    Ok(exit(whole && good))
}

/// In the order md5, sha1, sha256 that `Digests` has, turned into that of `wanted`.
fn digests(file: &Waiting, wanted: &[&str]) -> Result<Vec<crate::image::Carried>> {
    let content = file.stream.clone().map_or_else(|| file.fs.content(file.inode), Ok)?;
    let mut sums = Digests::new(wanted);
    pieces(content.as_ref(), &mut |piece| {
        match piece {
            Ok(bytes) => sums.add(bytes),
            Err(zeros) => sums.add_zeros(zeros),
        }
        Ok(())
    })?;
    let found = sums.finish();
    Ok(wanted.iter().filter_map(|name| found.iter().find(|one| one.algorithm == *name).cloned()).collect())
}
