//! Walks a folder of evidence without ever following a link, and says what each name is.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Deepest folder that is looked into, and most names: a hostile case must not hold the verifier for ever.
const DEEPEST: usize = 32;
const MOST: usize = 1_000_000;

/// What a name in a folder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Nature {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A folder with nothing in it.
    EmptyFolder,
    /// A symbolic link.
    Link,
    /// A pipe, socket or device.
    Special,
    /// A folder that is deeper than this program looks.
    TooDeep,
    /// A folder that could not be read.
    Closed,
}

impl Nature {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Folder => "folder",
            Self::EmptyFolder => "empty folder",
            Self::Link => "symbolic link",
            Self::Special => "pipe, socket or device",
            Self::TooDeep => "folder nested too deeply",
            Self::Closed => "folder that cannot be read",
        }
    }
}

/// A name below the folder that was walked, relative to it.
pub(crate) type Found = (PathBuf, Nature);

/// Everything below `root`, sorted by path. Folders that hold something are listed too.
pub(crate) fn walk(root: &Path) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    let mut open = vec![(PathBuf::new(), 0usize)];
    while let Some((below, depth)) = open.pop() {
        let children = match children(&root.join(&below)) {
            Err(error) if below.as_os_str().is_empty() => return Err(error),
            other => other,
        };
        let nature = match &children {
            Err(_) => Nature::Closed,
            Ok(names) if names.is_empty() => Nature::EmptyFolder,
            Ok(_) if depth >= DEEPEST => Nature::TooDeep,
            Ok(_) => Nature::Folder,
        };
        if !below.as_os_str().is_empty() {
            found.push((below.clone(), nature));
        }
        for (name, nature) in children.ok().filter(|_| nature != Nature::TooDeep).unwrap_or_default() {
            match nature {
                Nature::Folder => open.push((below.join(name), depth.saturating_add(1))),
                _ => found.push((below.join(name), nature)),
            }
        }
        if found.len().saturating_add(open.len()) > MOST {
            return Err(io::Error::other(format!("there are more than {MOST} names below it")));
        }
    }
    found.sort();
    Ok(found)
}

/// The names directly in a folder, unsorted.
pub(crate) fn children(dir: &Path) -> io::Result<Vec<(PathBuf, Nature)>> {
    fs::read_dir(dir)?
        .map(|entry| {
            let entry = entry?;
            Ok((PathBuf::from(entry.file_name()), nature(entry.file_type()?)))
        })
        .collect()
}

fn nature(kind: fs::FileType) -> Nature {
    if kind.is_symlink() {
        Nature::Link
    } else if kind.is_dir() {
        Nature::Folder
    } else if kind.is_file() {
        Nature::File
    } else {
        Nature::Special
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_named_and_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/empty")).unwrap();
        fs::write(dir.path().join("a/file"), b"").unwrap();
        std::os::unix::fs::symlink(dir.path(), dir.path().join("a/loop")).unwrap();
        let found = walk(dir.path()).unwrap();
        let expected = [
            ("a", Nature::Folder),
            ("a/empty", Nature::EmptyFolder),
            ("a/file", Nature::File),
            ("a/loop", Nature::Link),
        ];
        assert_eq!(found, expected.map(|(path, nature)| (PathBuf::from(path), nature)));
    }

    #[test]
    fn a_folder_nested_without_end_is_left_at_some_depth() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("d/".repeat(60))).unwrap();
        assert_eq!(walk(dir.path()).unwrap().last().unwrap().1, Nature::TooDeep);
    }
}
