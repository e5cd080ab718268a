//! All files below a directory, with their paths, each once in the order of the directories.
//!
//! A directory that is met again is not entered again, so a loop ends.

use std::collections::HashSet;

use super::fs::{Entry, FileKind, Filesystem, Node, State};
use crate::image::ReadError;
use crate::report::readable;

/// The longest path that is followed, in bytes.
const LONGEST: usize = 1 << 16;

/// A file that was found.
pub struct Found {
    /// Path from the root of the file system, with `/` in front.
    pub path: Vec<u8>,
    /// The entry that names it.
    pub entry: Entry,
    /// Its metadata, or why not.
    pub node: Result<Node, ReadError>,
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
    let mut seen = HashSet::from([directory]);
    let mut waiting = vec![(directory, path.to_vec())];
    let mut first = true;
    while let Some((directory, path)) = waiting.pop() {
        let listing = match fs.entries(directory, how.deleted) {
            Ok(listing) => listing,
            Err(error) if first => return Err(error.into()),
            Err(error) => {
                odd(format!("{}: {error}", String::from_utf8_lossy(&path)));
                continue;
            }
        };
        first = false;
        for line in listing.odd {
            odd(format!("{}: {line}", String::from_utf8_lossy(&path)));
        }
        let mut below = Vec::new();
        for entry in listing.entries {
            let full = join(&path, &entry.name);
            let node = if entry.state == State::Deleted && entry.inode == 0 {
                Err(ReadError::caller(
                    format!("read the metadata of {}", readable(&full)),
                    "nothing leads to it any more",
                ))
            } else {
                fs.look(entry.inode).map(|(node, _)| node)
            };
            let enter = node.as_ref().is_ok_and(|node| node.kind == Some(FileKind::Directory));
            if how.recursive && enter && entry.state == State::Allocated {
                if full.len() > LONGEST {
                    odd(format!("inode {} is too deep", entry.inode));
                } else if seen.insert(entry.inode) {
                    below.push((entry.inode, full.clone()));
                } else {
                    odd(format!("{}: directory {} has a second name", String::from_utf8_lossy(&full), entry.inode));
                }
            }
            take(Found { path: full, entry, node })?;
        }
        below.reverse();
        waiting.append(&mut below);
    }
    Ok(())
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
