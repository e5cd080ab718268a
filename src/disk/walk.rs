//! All files below a directory, with their paths, each once in the order of the directories.
//!
//! A directory that is met again is not entered again, so a loop ends. Directories that will be entered soon are read
//! together, and so are the inodes of one, each by all cores; the order does not depend on that.

use std::collections::HashSet;

use rayon::prelude::*;

use super::fs::{Entry, FileKind, Filesystem, Node, State};
use crate::image::ReadError;
use crate::report::readable;

/// The longest path that is followed, in bytes.
const LONGEST: usize = 1 << 16;
/// Directories that are read together.
const TOGETHER: usize = 32;
/// Entries of one directory whose inodes are read together.
const PART: usize = 2048;
/// Entries that wait to be handed out, beyond which no further directory is read ahead.
const AHEAD: usize = 1 << 14;

/// A file that was found.
pub struct Found {
    /// Path from the root of the file system, with `/` in front.
    pub path: Vec<u8>,
    /// The entry that names it.
    pub entry: Entry,
    /// Its metadata without [`Node::facts`], or why not.
    pub node: Result<Node, ReadError>,
    /// The content of a file can be read, as far as its map tells.
    pub readable: bool,
}

/// How.
#[derive(Debug, Clone, Copy)]
pub struct How {
    /// Into subdirectories.
    pub recursive: bool,
    /// Also what is left of deleted names.
    pub deleted: bool,
}

/// Hands every file below `directory` to `take`; what could not be read to `odd`. `take` may end it.
pub fn walk<E: From<ReadError>>(
    fs: &dyn Filesystem,
    (directory, path): (u64, &[u8]),
    how: How,
    odd: &mut dyn FnMut(String),
    take: &mut dyn FnMut(Found) -> Result<(), E>,
) -> Result<(), E> {
    let mut walk = Walk { fs, how, seen: HashSet::from([directory]), waiting: Vec::new(), ahead: 0 };
    walk.waiting.push(Waiting { directory, path: path.to_vec(), read: None });
    let mut first = true;
    while let Some(Waiting { directory: _, path, read }) = walk.next() {
        match read {
            Some(Ok(read)) => walk.directory(&path, read, odd, take)?,
            Some(Err(error)) if first => return Err(error.into()),
            Some(Err(error)) => odd(format!("{}: {error}", String::from_utf8_lossy(&path))),
            None => {}
        }
        first = false;
    }
    Ok(())
}

/// One file that was named by its path or number, as if a directory had told of it.
pub fn alone(fs: &dyn Filesystem, inode: u64, path: Vec<u8>) -> Result<Found, ReadError> {
    let (node, readable) = fs.look(inode)?;
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default().to_vec();
    let entry = Entry { name, inode, kind: node.kind, state: State::Allocated, source: "named" };
    Ok(Found { path, entry, node: Ok(node), readable })
}

/// A directory that is to be entered.
struct Waiting {
    directory: u64,
    path: Vec<u8>,
    read: Option<Result<Read, ReadError>>,
}

/// A directory that was read: the first of its entries with their inodes, and those that follow.
struct Read {
    first: Vec<Seen>,
    rest: std::vec::IntoIter<Entry>,
    odd: Vec<String>,
}

/// An entry and the inode that it names.
struct Seen {
    entry: Entry,
    node: Result<Node, ReadError>,
    readable: bool,
}

struct Walk<'a> {
    fs: &'a dyn Filesystem,
    how: How,
    seen: HashSet<u64>,
    /// The next one is the last.
    waiting: Vec<Waiting>,
    /// Entries that were read ahead.
    ahead: usize,
}

impl Walk<'_> {
    /// The next directory, read.
    fn next(&mut self) -> Option<Waiting> {
        if self.waiting.last().is_some_and(|next| next.read.is_none()) {
            let together = if self.ahead < AHEAD { TOGETHER } else { 1 };
            let from = self.waiting.len().saturating_sub(together);
            let (fs, deleted) = (self.fs, self.how.deleted);
            let soon = self.waiting.get_mut(from..).unwrap_or_default();
            let new = soon.par_iter_mut().filter(|one| one.read.is_none()).map(|one| {
                let read = read(fs, one.directory, deleted);
                let count = read.as_ref().map_or(0, Read::len);
                one.read = Some(read);
                count
            });
            self.ahead += new.sum::<usize>();
        }
        let next = self.waiting.pop()?;
        let count = next.read.as_ref().and_then(|read| read.as_ref().ok()).map_or(0, Read::len);
        self.ahead = self.ahead.saturating_sub(count);
        Some(next)
    }

    /// Hands out what is in a directory, and has those below it wait.
    fn directory<E>(
        &mut self,
        path: &[u8],
        read: Read,
        odd: &mut dyn FnMut(String),
        take: &mut dyn FnMut(Found) -> Result<(), E>,
    ) -> Result<(), E> {
        let Read { first: mut part, mut rest, odd: lines } = read;
        for line in lines {
            odd(format!("{}: {line}", String::from_utf8_lossy(path)));
        }
        let from = self.waiting.len();
        while !part.is_empty() {
            for Seen { entry, node, readable } in part {
                let full = join(path, &entry.name);
                let enter = node.as_ref().is_ok_and(|node| node.kind == Some(FileKind::Directory));
                if self.how.recursive && enter && entry.state == State::Allocated {
                    self.wait(entry.inode, &full, odd);
                }
                take(Found { path: full, entry, node, readable })?;
            }
            part = look(self.fs, &mut rest);
        }
        self.waiting.get_mut(from..).unwrap_or_default().reverse();
        Ok(())
    }

    fn wait(&mut self, directory: u64, path: &[u8], odd: &mut dyn FnMut(String)) {
        if path.len() > LONGEST {
            odd(format!("inode {directory} is too deep"));
        } else if self.seen.insert(directory) {
            self.waiting.push(Waiting { directory, path: path.to_vec(), read: None });
        } else {
            odd(format!("{}: directory {directory} has a second name", String::from_utf8_lossy(path)));
        }
    }
}

impl Read {
    fn len(&self) -> usize {
        self.first.len() + self.rest.len()
    }
}

fn read(fs: &dyn Filesystem, directory: u64, deleted: bool) -> Result<Read, ReadError> {
    let listing = fs.entries(directory, deleted)?;
    let mut rest = listing.entries.into_iter();
    Ok(Read { first: look(fs, &mut rest), rest, odd: listing.odd })
}

/// The inodes of the next entries.
fn look(fs: &dyn Filesystem, entries: &mut std::vec::IntoIter<Entry>) -> Vec<Seen> {
    let part: Vec<_> = entries.take(PART).collect();
    let seen = part.into_par_iter().with_min_len(64).map(|entry| {
        let looked = if entry.state == State::Deleted && entry.inode == 0 {
            let attempted = format!("read the metadata of {}", readable(&entry.name));
            Err(ReadError::caller(attempted, "nothing leads to it any more"))
        } else {
            fs.look(entry.inode)
        };
        match looked {
            Ok((node, readable)) => Seen { entry, node: Ok(node), readable },
            Err(error) => Seen { entry, node: Err(error), readable: false },
        }
    });
    seen.collect()
}

/// A name below a path.
pub fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    let mut full = path.strip_suffix(b"/").unwrap_or(path).to_vec();
    full.push(b'/');
    full.extend_from_slice(name);
    full
}

/// The number of the file at `path`. Symbolic links are not followed: a path names what it names.
pub fn find(fs: &dyn Filesystem, path: &[u8]) -> Result<u64, ReadError> {
    let mut here = fs.root();
    for part in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
        let listing = fs.entries(here, false)?;
        let exact = listing.entries.iter().find(|entry| entry.name == part);
        let entry = exact.or_else(|| listing.entries.iter().find(|entry| fs.same_name(&entry.name, part)));
        here = entry.map(|entry| entry.inode).ok_or_else(|| {
            let attempted = format!("find {}", String::from_utf8_lossy(path));
            ReadError::caller(attempted, format!("there is no {}", String::from_utf8_lossy(part)))
        })?;
    }
    Ok(here)
}
