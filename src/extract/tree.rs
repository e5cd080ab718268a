//! A new folder that files from evidence are written into, by the paths that they have there, and its manifest.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use super::names::Taken;
use super::{Folder, Written, write};
use crate::image::{ReadAt, ReadError};

/// Folders that stay open; a tree may have more than a process may have files.
const OPEN: usize = 128;

/// See the module. Content lies below `files/`; `manifest.jsonl` beside it has a line for whatever the caller tells of.
pub struct Tree {
    root: Folder,
    below: HashMap<Vec<u8>, Below>,
    open: HashMap<String, Folder>,
    manifest: File,
}

/// A folder that was made, and the names in it.
#[derive(Default)]
struct Below {
    taken: Taken,
    path: String,
}

impl Tree {
    /// Makes the folder, which must not exist.
    pub fn create(path: &Path) -> io::Result<Self> {
        let root = Folder::create(path)?;
        let manifest = root.file("manifest.jsonl")?;
        root.folder("files")?;
        let top = Below { path: "files".to_owned(), ..Below::default() };
        Ok(Self { root, below: HashMap::from([(Vec::new(), top)]), open: HashMap::new(), manifest })
    }

    /// Makes the folder for a path of evidence, with those above it, if it is not there.
    pub fn folder(&mut self, path: &[u8]) -> io::Result<()> {
        self.at(path).map(drop)
    }

    /// What is known of the folder for a path; made if it is not there.
    fn at(&mut self, path: &[u8]) -> io::Result<&mut Below> {
        let lost = || io::Error::other("a folder went missing");
        let mut here = Vec::new();
        for part in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
            let full = [here.as_slice(), b"/", part].concat();
            if !self.below.contains_key(&full) {
                let parent = self.below.get_mut(&here).ok_or_else(lost)?;
                let (safe, above) = (parent.taken.take(part), parent.path.clone());
                let path = format!("{above}/{safe}");
                let made = self.opened(&above)?.folder(&safe).map_err(|error| told(&path, &error))?;
                self.open.insert(path.clone(), made);
                self.below.insert(full.clone(), Below { path, ..Below::default() });
            }
            here = full;
        }
        self.below.get_mut(&here).ok_or_else(lost)
    }

    /// A folder that was made here, opened again if need be.
    fn opened(&mut self, path: &str) -> io::Result<&Folder> {
        if self.open.len() > OPEN {
            self.open.clear();
        }
        if !self.open.contains_key(path) {
            let mut parts = path.split('/');
            let mut folder = self.root.open(parts.next().unwrap_or_default())?;
            for part in parts {
                folder = folder.open(part)?;
            }
            self.open.insert(path.to_owned(), folder);
        }
        self.open.get(path).ok_or_else(|| io::Error::other("a folder went missing"))
    }

    /// Writes content into the folder for the path `above`, under a safe form of its `own` name; gives the path that it got below the
    /// new folder, and how reading went. The outer error is this machine's.
    pub fn content(
        &mut self,
        above: &[u8],
        own: &[u8],
        content: &dyn ReadAt,
    ) -> io::Result<(String, Result<Written, ReadError>)> {
        let below = self.at(above)?;
        let (safe, above) = (below.taken.take(own), below.path.clone());
        let path = format!("{above}/{safe}");
        let mut file = self.opened(&above)?.file(&safe).map_err(|error| told(&path, &error))?;
        Ok((path, write(content, &mut file)))
    }

    /// Adds a line to the manifest.
    pub fn line(&mut self, line: &serde_json::Value) -> io::Result<()> {
        writeln!(self.manifest, "{line}").map_err(|error| told("manifest.jsonl", &error))
    }
}

fn told(path: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("could not make {path}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::InMemory;

    #[test]
    fn more_folders_than_may_be_open_are_made_and_names_lead_nowhere_else() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("out");
        let mut tree = Tree::create(&root).unwrap();
        assert_eq!(Tree::create(&root).err().map(|error| error.kind()), Some(io::ErrorKind::AlreadyExists));
        for n in 0..3 * OPEN {
            tree.folder(format!("/many/{n}/..").as_bytes()).unwrap();
        }
        let (path, written) = tree.content(b"/many/0/..", b"../a\0", &InMemory(b"content".to_vec())).unwrap();
        assert_eq!(
            (path.as_str(), written.unwrap().outcome()),
            ("files/many/0/_%2e%2e/..%2fa%00", "complete".to_owned())
        );
        assert_eq!(std::fs::read(root.join(&path)).unwrap(), b"content");
        let (again, _) = tree.content(b"/many/0/..", b"../A\0", &InMemory(Vec::new())).unwrap();
        assert_eq!(again, "files/many/0/_%2e%2e/..%2fA%00~2");
        assert_eq!(std::fs::read_dir(root.join("files/many")).unwrap().count(), 3 * OPEN);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
