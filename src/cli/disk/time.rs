//! `timeline`: what happened when.

use std::io::{self, Write};

use anyhow::Result;
use jiff::Timestamp;

use super::super::Exit;
use super::super::context::Context;
use super::list::{exit, int};
use super::open::Disk;
use crate::disk::fs::{Node, State};
use crate::disk::walk::How;
use crate::report::{Cell, Column};

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

/// One file, as long as its events wait to be sorted.
struct File {
    path: Vec<u8>,
    node: Node,
    state: State,
}

pub(super) fn timeline(disk: &Disk, bodyfile: bool, deleted: bool, context: &Context) -> Result<Exit> {
    let mut files = Vec::new();
    let mut good = true;
    let whole = disk.each(How { recursive: true, deleted: false }, context, &mut |mounted, found| {
        match found.node {
            Ok(node) => files.push(File { path: named(&mounted.label, &found.path), node, state: State::Allocated }),
            Err(_) => good = false,
        }
        Ok(())
    })?;
    if deleted {
        for (label, lost) in disk.lost(context)?.0 {
            let path = lost.path.unwrap_or_else(|| format!("/#{}", lost.node.inode).into_bytes());
            files.push(File { path: named(&label, &path), node: lost.node, state: lost.state });
        }
    }
    if bodyfile {
        let mut out = io::BufWriter::new(io::stdout().lock());
        files.iter().try_for_each(|file| writeln!(out, "{}", body(file)))?;
        out.flush()?;
    } else {
        print(&files, context)?;
    }
    Ok(exit(whole && good))
}

fn named(label: &str, path: &[u8]) -> Vec<u8> {
    if label == "p0" { path.to_vec() } else { [b"/", label.as_bytes(), path].concat() }
}

/// The four letters of mactime, and one for the deletion.
fn times(node: &Node) -> [(char, Option<Timestamp>); 5] {
    let times = &node.times;
    [('m', times.modified), ('a', times.accessed), ('c', times.changed), ('b', times.born), ('d', times.deleted)]
}

fn print(files: &[File], context: &Context) -> Result<()> {
    let mut events: Vec<(Timestamp, usize)> = Vec::new();
    for (index, file) in files.iter().enumerate() {
        events.extend(times(&file.node).iter().filter_map(|(_, at)| *at).map(|at| (at, index)));
    }
    events.sort_unstable();
    events.dedup();
    let mut rows = context.table(EVENTS);
    for (at, index) in events {
        let Some(file) = files.get(index) else { continue };
        let letters = times(&file.node).map(|(letter, time)| if time == Some(at) { letter } else { '.' });
        let letters: String = letters.into_iter().collect();
        rows.row(vec![
            Cell::Time(at),
            Cell::text(letters),
            Cell::Bytes(file.node.size),
            Cell::text(format!("{:04o}", file.node.mode & 0o7777)),
            Cell::Int(i64::from(file.node.uid)),
            Cell::Int(i64::from(file.node.gid)),
            int(file.node.inode),
            Cell::text(file.state.name()),
            Cell::Name(file.path.clone()),
        ])?;
    }
    rows.end()?;
    Ok(())
}

/// A line of a bodyfile: `MD5|name|inode|mode|UID|GID|size|atime|mtime|ctime|crtime`.
fn body(file: &File) -> String {
    let seconds = |at: Option<Timestamp>| at.map_or(0, Timestamp::as_second);
    let (node, times) = (&file.node, &file.node.times);
    let kind = node.kind.map_or('-', crate::disk::fs::FileKind::letter);
    let deleted = if file.state == State::Deleted { " (deleted)" } else { "" };
    format!(
        "0|{}{deleted}|{}|{kind}/{}|{}|{}|{}|{}|{}|{}|{}",
        escaped(&file.path),
        node.inode,
        permissions(kind, node.mode),
        node.uid,
        node.gid,
        node.size,
        seconds(times.accessed),
        seconds(times.modified),
        seconds(times.changed),
        seconds(times.born)
    )
}

/// Whatever would end a field or a line, or is no text, as `\xNN`.
fn escaped(path: &[u8]) -> String {
    let mut text = String::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '|' || c == '\\' || c.is_control() {
                let mut bytes = [0; 4];
                c.encode_utf8(&mut bytes).bytes().for_each(|byte| text.extend(hex(byte)));
            } else {
                text.push(c);
            }
        }
        chunk.invalid().iter().for_each(|byte| text.extend(hex(*byte)));
    }
    text
}

/// A byte that is not shown as it is.
fn hex(byte: u8) -> [char; 4] {
    let digit = |n: u8| char::from_digit(u32::from(n), 16).unwrap_or('?');
    ['\\', 'x', digit(byte >> 4), digit(byte & 15)]
}

fn permissions(kind: char, mode: u32) -> String {
    let mut text = String::from(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bit = |n: u32| mode >> shift & n != 0;
        text.push(if bit(4) { 'r' } else { '-' });
        text.push(if bit(2) { 'w' } else { '-' });
        text.push(match (bit(1), mode & special != 0) {
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_end_a_field_of_a_bodyfile() {
        assert_eq!(escaped(b"a|b\nc\\d\xff"), "a\\x7cb\\x0ac\\x5cd\\xff");
        assert_eq!(permissions('d', 0o1777), "drwxrwxrwt");
        assert_eq!(permissions('r', 0o4644), "rrwSr--r--");
    }
}
