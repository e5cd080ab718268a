//! Exhibits that are files of a host, put together again: a disk whose descriptor, deltas and extents were taken one by one,
//! memory whose pages and whose map are two files.
//!
//! The files name each other as they lay on the host, so they are looked up by the paths that `exhibit.json` keeps: among the
//! exhibits beside this one that came of the same run and belong to the same item. Each is read through its own gaps.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use impound_backends::{HostFile, ItemKind};

use super::exhibit::{RECORD, payload, read_record};
use super::{Below, Content, Image, Layer, Options, Place, ReadAt, ReadError, open_below};
use crate::case::record::Record;

/// Folders beside an exhibit that are looked into.
const LISTED: usize = 65_536;
/// Files that may belong to one item.
const FILES: usize = 4096;

/// The files of one item.
pub(super) struct Shelf {
    files: Vec<Kept>,
    item: String,
    run: String,
    options: Options,
}

struct Kept {
    path: PathBuf,
    bag: PathBuf,
    record: Record,
}

/// Opens an exhibit that is a file of the host.
pub(super) fn open(bag: &Path, record: &Record, file: &HostFile, options: &Options) -> Result<Image, ReadError> {
    if record.item.kind == ItemKind::Config {
        let why = "it is a file of the VM's configuration; read it under data/";
        return Err(ReadError::caller(format!("open the exhibit {} as an image", bag.display()), why));
    }
    let mut layers = Vec::new();
    let bytes = payload(bag, record, options, &mut layers)?;
    if let Some(first) = layers.first_mut() {
        first.fact("file", &file.path);
    }
    let shelf = Arc::new(Shelf::around(bag, record, file, options)?);
    let path = plain(Path::new(&file.path));
    let id = shelf.files.iter().position(|kept| kept.path == path).unwrap_or(shelf.files.len());
    let place = Place::on_shelf(shelf, &path, Vec::new(), id as u64);
    let options = Options { wrapping: Some(file.wrapping.clone()), ..options.clone() };
    let mut inner = open_below(Below { bytes, place: Some(place), is_file: true, options })?;
    if let Some(last) = inner.layers.last_mut().filter(|last| last.content == Content::Unknown) {
        last.content = if record.item.kind == ItemKind::Memory { Content::Memory } else { Content::Disk };
    }
    layers.append(&mut inner.layers);
    Ok(Image { layers, ..inner })
}

impl Shelf {
    /// The exhibits in the folder of `bag` that belong to the same item of the same run.
    fn around(bag: &Path, record: &Record, file: &HostFile, options: &Options) -> Result<Self, ReadError> {
        let item = file.of.clone().unwrap_or_else(|| record.item.name.clone());
        let mut shelf = Self { files: Vec::new(), item, run: record.run.clone(), options: options.clone() };
        // The name of the folder may be `.`, which has no parent to be seen.
        let real = bag.canonicalize().map_err(ReadError::io("look around", bag))?;
        let Some(folder) = real.parent() else { return Ok(shelf) };
        let mut bags = vec![real.clone()];
        for entry in std::fs::read_dir(folder).map_err(ReadError::io("list", folder))?.take(LISTED) {
            let entry = entry.map_err(ReadError::io("list", folder))?;
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) && entry.path() != real {
                bags.push(entry.path());
            }
        }
        bags.sort();
        for bag in bags {
            shelf.look_into(bag)?;
        }
        Ok(shelf)
    }

    /// A folder that is no exhibit, or one of something else, is none of ours.
    fn look_into(&mut self, bag: PathBuf) -> Result<(), ReadError> {
        if !bag.join(RECORD).symlink_metadata().is_ok_and(|meta| meta.is_file()) {
            return Ok(());
        }
        let Ok(record) = read_record(&bag) else { return Ok(()) };
        let Some(file) = record.item.file.as_ref().filter(|_| record.run == self.run) else { return Ok(()) };
        if file.of.as_ref().unwrap_or(&record.item.name) != &self.item || record.stored.is_empty() {
            return Ok(());
        }
        if self.files.len() >= FILES {
            let why = format!("more than {FILES} files belong to {}", self.item);
            return Err(ReadError::unsupported("the files of this item", why));
        }
        self.files.push(Kept { path: plain(Path::new(&file.path)), bag, record });
        Ok(())
    }

    /// The file that was called so on the host; else, since descriptors of clones outlive moves, the only one with that last
    /// part of its name, and a word on it. Answers its number, its path, and that word.
    pub(super) fn find(&self, path: &Path) -> Result<Option<(u64, PathBuf, Option<String>)>, ReadError> {
        let wanted = plain(path);
        if let Some(at) = self.files.iter().position(|kept| kept.path == wanted) {
            return Ok(Some((at as u64, wanted, None)));
        }
        let same = |kept: &Kept| kept.path.file_name() == wanted.file_name();
        let mut alike = self.files.iter().enumerate().filter(|(_, kept)| same(kept));
        let Some((at, kept)) = alike.next() else { return Ok(None) };
        if alike.next().is_some() {
            let why = "several exhibits hold a file of that name, and none of them lay there";
            return Err(ReadError::caller(format!("open {}", wanted.display()), why));
        }
        let odd = format!("the image names {}; {} was taken", wanted.display(), kept.path.display());
        Ok(Some((at as u64, kept.path.clone(), Some(odd))))
    }

    /// The bytes of file number `id`.
    pub(super) fn open(&self, id: u64) -> Result<Arc<dyn ReadAt>, ReadError> {
        let kept = usize::try_from(id).ok().and_then(|id| self.files.get(id));
        let kept = kept.ok_or_else(|| ReadError::caller("open a file of this item", self.lacks()))?;
        let within = ReadError::within(format!("exhibit {}", kept.bag.display()));
        if !kept.record.outcome.is_complete() && kept.record.stored.iter().all(|file| file.len == 0) {
            let why = kept.record.outcome.why().unwrap_or("no reason is given").to_owned();
            return Err(within(ReadError::unsupported("a file that was not captured", why)));
        }
        payload(&kept.bag, &kept.record, &self.options, &mut Vec::<Layer>::new()).map_err(within)
    }

    /// Why a file is not there.
    pub(super) fn lacks(&self) -> String {
        let (item, run) = (&self.item, &self.run);
        format!(
            "it is not among the exhibits beside this one that belong to {item} of run {run}: keep them in one folder"
        )
    }

    /// Names of the files.
    pub(super) fn names(&self) -> impl Iterator<Item = OsString> {
        self.files.iter().filter_map(|kept| kept.path.file_name().map(ToOwned::to_owned))
    }
}

/// The path without `.` and `..`, as far as its text tells.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                plain.pop();
            }
            part => plain.push(part),
        }
    }
    plain
}
