//! A new folder that files from evidence are written into, by the paths that they have there, and its manifest.
//!
//! What is not all there carries `.partial` behind its name, because files get copied without their manifest.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use super::names::Taken;
use super::{Folder, Written, write};
use crate::image::ReadAt;

/// What stands behind the name of a file that is not all there.
const PARTIAL: &str = ".partial";
/// Folders that are kept open: there may be more of them than a process may have.
const OPEN: usize = 64;

/// See the module. Content lies below `files/`; `manifest.jsonl` beside it has a line for whatever the caller tells of.
pub struct Tree {
    root: Folder,
    /// By the path in evidence.
    below: HashMap<Vec<u8>, Below>,
    /// Paths below the new folder, the last used one behind.
    open: VecDeque<(String, Arc<Folder>)>,
    manifest: BufWriter<File>,
}

/// A folder that was made: the names in it, and its path below the new folder.
struct Below {
    taken: Taken,
    path: String,
}

/// A file that was written.
pub struct Placed {
    /// Its path below the new folder.
    pub path: String,
    /// What it lacks and why; nothing if it is all there.
    pub lacks: Option<String>,
    written: Written,
}

impl Placed {
    /// What the manifest tells of it: `file`, `outcome`, and of a partial one `why` and the ranges that are `missing`.
    pub fn told(&self) -> Value {
        let Some(why) = &self.lacks else { return json!({ "file": self.path, "outcome": "complete" }) };
        let gap = |gap: &super::Gap| json!({ "at": gap.at, "len": gap.len, "why": gap.why });
        let missing: Vec<_> = self.written.gaps.iter().map(gap).collect();
        let mut told = json!({ "file": self.path, "outcome": "partial", "why": why, "missing": missing });
        if let (1.., Some(told)) = (self.written.unlisted, told.as_object_mut()) {
            told.insert("missing_unlisted".to_owned(), json!(self.written.unlisted));
        }
        told
    }
}

impl Tree {
    /// Makes the folder, which must not exist.
    pub fn create(path: &Path) -> io::Result<Self> {
        let root = Folder::create(path)?;
        let manifest = BufWriter::new(root.file("manifest.jsonl")?);
        root.folder("files")?;
        let top = Below { taken: Taken::default(), path: "files".to_owned() };
        Ok(Self { root, below: HashMap::from([(Vec::new(), top)]), open: VecDeque::new(), manifest })
    }

    /// Makes the folder for a path of evidence, and those above it, unless it is there.
    pub fn folder(&mut self, path: &[u8]) -> io::Result<()> {
        self.at(path).map(drop)
    }

    /// What is known of the folder for a path of evidence; made if it is not there.
    fn at(&mut self, path: &[u8]) -> io::Result<&mut Below> {
        let mut here = Vec::new();
        for part in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
            let full = [here.as_slice(), b"/", part].concat();
            if !self.below.contains_key(&full) {
                let parent = self.below.get_mut(&here).ok_or_else(missing)?;
                let safe = parent.taken.take(part);
                let (above, path) = (parent.path.clone(), format!("{}/{safe}", parent.path));
                self.opened(&above)?.folder(&safe).map_err(|error| told(&path, &error))?;
                self.below.insert(full.clone(), Below { taken: Taken::default(), path });
            }
            here = full;
        }
        self.below.get_mut(&here).ok_or_else(missing)
    }

    /// The folder at a path below the new one.
    fn opened(&mut self, path: &str) -> io::Result<Arc<Folder>> {
        if let Some(index) = self.open.iter().rposition(|(open, _)| open == path) {
            let found = self.open.remove(index);
            self.open.extend(found);
        } else {
            if self.open.len() >= OPEN {
                self.open.pop_front();
            }
            self.open.push_back((path.to_owned(), Arc::new(self.root.again(path)?)));
        }
        self.open.back().map(|(_, folder)| Arc::clone(folder)).ok_or_else(missing)
    }

    /// Writes content into the folder for the path `above`, under a safe form of its `own` name. `foreign` tells why bytes that
    /// can be read are not its own. An error is one of this machine that would meet every other file too.
    pub fn content(
        &mut self,
        above: &[u8],
        own: &[u8],
        content: &dyn ReadAt,
        foreign: Option<&str>,
    ) -> io::Result<Placed> {
        let (folder, safe, path) = self.name(above, own)?;
        let mut file = folder.file(&safe).map_err(|error| told(&path, &error))?;
        let (written, failed) = match write(content, &mut file) {
            Ok(written) => (written, None),
            Err(error) if is_full(&error) => return Err(told(&path, &error)),
            Err(error) => (Written::default(), Some(format!("could not be written: {error}"))),
        };
        let lacks = (written.missing > 0).then(|| format!("{} bytes could not be read and are zeros", written.missing));
        let why: Vec<_> = failed.into_iter().chain(lacks).chain(foreign.map(str::to_owned)).collect();
        if why.is_empty() {
            return Ok(Placed { path, lacks: None, written });
        }
        let (_, marked, to) = self.name(above, &[own, PARTIAL.as_bytes()].concat())?;
        folder.rename(&safe, &marked).map_err(|error| told(&to, &error))?;
        Ok(Placed { path: to, lacks: Some(why.join("; ")), written })
    }

    /// A name for a file in the folder for a path of evidence: that folder, the safe name, and the path of both.
    fn name(&mut self, above: &[u8], own: &[u8]) -> io::Result<(Arc<Folder>, String, String)> {
        let below = self.at(above)?;
        let safe = below.taken.take(own);
        let (above, path) = (below.path.clone(), format!("{}/{safe}", below.path));
        Ok((self.opened(&above)?, safe, path))
    }

    /// Adds a line to the manifest.
    pub fn line(&mut self, line: &Value) -> io::Result<()> {
        writeln!(self.manifest, "{line}").map_err(|error| told("manifest.jsonl", &error))
    }

    /// Lets no line of the manifest wait.
    pub fn flush(&mut self) -> io::Result<()> {
        self.manifest.flush().map_err(|error| told("manifest.jsonl", &error))
    }
}

fn missing() -> io::Error {
    io::Error::other("a folder went missing")
}

fn told(path: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("could not write {path}: {error}"))
}

/// No room, or no right to write: not a matter of one file.
fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem | PermissionDenied)
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
        let mut put = |own: &[u8], bytes: &[u8], foreign: Option<&str>| {
            tree.content(b"/many/0/..", own, &InMemory(bytes.to_vec()), foreign).unwrap()
        };
        let placed = put(b"../a\0", b"content", None);
        assert_eq!((placed.path.as_str(), &placed.lacks), ("files/many/0/_%2e%2e/..%2fa%00", &None));
        assert_eq!(std::fs::read(root.join(&placed.path)).unwrap(), b"content");
        assert_eq!(put(b"../A\0", b"", None).path, "files/many/0/_%2e%2e/..%2fA%00~2");
        let partial = put(b"b", b"of others", Some("taken"));
        assert_eq!(
            (partial.path.as_str(), partial.lacks.as_deref()),
            ("files/many/0/_%2e%2e/b.partial", Some("taken"))
        );
        assert_eq!(std::fs::read_dir(root.join("files/many")).unwrap().count(), 3 * OPEN);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
