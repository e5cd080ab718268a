//! Where the other files of an image are looked up: in the folder of the image and nowhere else, unless told otherwise.
//!
//! Backing files, extents and segments are names that stand inside an image, and whoever wrote the image may have put
//! `/etc/shadow` or `/dev/sda` there. So a name is opened below the folder (`openat2` with `RESOLVE_BENEATH`, so that
//! neither `..` nor a link leads out), must be a regular file, and a name that points elsewhere is looked for by its last
//! part in the folder, since evidence is copied without its directories.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use super::file::FileBytes;
use super::shelf::Shelf;
use super::{ReadAt, ReadError};

/// The most files a chain may have.
const CHAIN: usize = 256;

/// The folder of an image, and which files led to this one.
#[derive(Clone)]
pub struct Place {
    folder: Folder,
    path: PathBuf,
    name: OsString,
    follow: bool,
    chain: Vec<(u64, u64)>,
}

/// Where the other files are.
#[derive(Clone)]
enum Folder {
    Real(Arc<File>),
    /// Exhibits of one run, by the names that their files had on the host.
    Shelf(Arc<Shelf>),
}

/// Another file of the same image.
pub struct Found {
    /// Its bytes.
    pub bytes: Arc<dyn ReadAt>,
    /// Where it is, for the files that it names in turn.
    pub place: Place,
    /// It is not where the image says, or lies outside its folder: to be told.
    pub odd: Option<String>,
}

impl Place {
    /// Opens the image that the user named, and its folder.
    pub(super) fn open(path: &Path, follow: bool) -> Result<(FileBytes, Self), ReadError> {
        let bytes = FileBytes::open(path)?;
        let place = Self::of(path, follow, vec![bytes.id])?;
        Ok((bytes, place))
    }

    fn of(path: &Path, follow: bool, chain: Vec<(u64, u64)>) -> Result<Self, ReadError> {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let folder = File::open(parent).map_err(ReadError::io("open the folder", parent))?;
        let name = path.file_name().unwrap_or_default().to_owned();
        Ok(Self { folder: Folder::Real(Arc::new(folder)), path: parent.to_owned(), name, follow, chain })
    }

    /// The place that a file had on the host it was taken from; `id` tells it from the others there.
    pub(super) fn on_shelf(shelf: Arc<Shelf>, path: &Path, mut chain: Vec<(u64, u64)>, id: u64) -> Self {
        chain.push((u64::MAX, id));
        let (parent, name) = (path.parent().unwrap_or(Path::new("")), path.file_name().unwrap_or_default());
        let (path, name) = (parent.to_owned(), name.to_owned());
        Self { folder: Folder::Shelf(shelf), path, name, follow: false, chain }
    }

    /// Name of the image's file.
    pub fn name(&self) -> &OsStr {
        &self.name
    }

    /// Opens the file that the image calls `name`. Blanks and quotes are part of it; both `/` and `\` part folders.
    pub fn find(&self, name: &[u8]) -> Result<Found, ReadError> {
        let attempted = || format!("open {} ({})", String::from_utf8_lossy(name), self.path.display());
        if name.is_empty() || name.len() > 4096 || name.contains(&0) {
            return Err(ReadError::caller(attempted(), "that is no name of a file"));
        }
        let said = Path::new(OsStr::from_bytes(name));
        let path = self.path.join(said);
        if let Folder::Shelf(shelf) = &self.folder {
            return self.taken_down(shelf, &path)?.ok_or_else(|| ReadError::caller(attempted(), shelf.lacks()));
        }
        if self.follow {
            if let Ok(found) = self.outside(&path) {
                return Ok(found);
            }
        } else if !said.is_absolute()
            && let Ok(found) = self.beneath(said)
        {
            return Ok(found);
        }
        let last = name.rsplit(|&b| b == b'/' || b == b'\\').next().unwrap_or_default();
        if last.is_empty() || last == b".." || last == b"." {
            return Err(ReadError::caller(attempted(), "that is no name of a file"));
        }
        let advice = "put the file into the folder of the image, or allow any place with --follow";
        let mut found = self.beneath(Path::new(OsStr::from_bytes(last))).map_err(|error| match error {
            ReadError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                ReadError::caller(attempted(), format!("it is not there; {advice}"))
            }
            other => other,
        })?;
        if last != name {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            found.odd = Some(format!("the image names {}; {} beside it was taken", text(name), text(last)));
        }
        Ok(found)
    }

    /// Opens a file beside the image: the next segment, the `.vmsn` of a `.vmem`. `None` if there is none.
    pub fn beside(&self, name: &OsStr) -> Result<Option<Found>, ReadError> {
        if let Folder::Shelf(shelf) = &self.folder {
            return self.taken_down(shelf, &self.path.join(name));
        }
        match self.beneath(Path::new(name)) {
            Ok(found) => Ok(Some(found)),
            Err(ReadError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The image's own name with another ending: `a.vmem` → `a.vmsn`. `ending` without the dot.
    pub fn sibling(&self, ending: &str) -> OsString {
        PathBuf::from(&self.name).with_extension(ending).into_os_string()
    }

    /// Names of the files in the folder; at most `most` of them.
    pub fn list(&self, most: usize) -> Result<Vec<OsString>, ReadError> {
        let failed = |e: Errno| ReadError::io("list", &self.path)(e.into());
        let mut names = Vec::new();
        let folder = match &self.folder {
            Folder::Real(folder) => folder,
            Folder::Shelf(shelf) => return Ok(shelf.names().take(most).collect()),
        };
        for entry in rustix::fs::Dir::read_from(folder).map_err(failed)?.take(most) {
            names.push(OsString::from_vec(entry.map_err(failed)?.file_name().to_bytes().to_vec()));
        }
        names.sort();
        Ok(names)
    }

    fn taken_down(&self, shelf: &Arc<Shelf>, path: &Path) -> Result<Option<Found>, ReadError> {
        let Some((id, path, odd)) = shelf.find(path)? else { return Ok(None) };
        self.check_chain(|| format!("open {}", path.display()))?;
        let place = Self::on_shelf(Arc::clone(shelf), &path, self.chain.clone(), id);
        Ok(Some(Found { bytes: shelf.open(id)?, place, odd }))
    }

    fn beneath(&self, name: &Path) -> Result<Found, ReadError> {
        let path = self.path.join(name);
        let Folder::Real(folder) = &self.folder else {
            return Err(ReadError::caller(format!("open {}", path.display()), "it is not among the exhibits"));
        };
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let fd = openat2(folder, name, flags, Mode::empty(), resolve).map_err(|error| match error {
            Errno::XDEV => ReadError::caller(format!("open {}", path.display()), "it leads out of the folder"),
            error => ReadError::io("open", &path)(error.into()),
        })?;
        self.take(FileBytes::from_fd(fd, &path, false)?, &path, None)
    }

    fn outside(&self, path: &Path) -> Result<Found, ReadError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| ReadError::io("open", path)(e.into()))?;
        let odd = (path.parent() != Some(&self.path)).then(|| format!("{} is in another folder", path.display()));
        self.take(FileBytes::from_fd(fd, path, false)?, path, odd)
    }

    fn take(&self, bytes: FileBytes, path: &Path, odd: Option<String>) -> Result<Found, ReadError> {
        self.check_chain(|| format!("open {}", path.display()))?;
        let mut chain = self.chain.clone();
        chain.push(bytes.id);
        let place = Self::of(path, self.follow, chain)?;
        Ok(Found { bytes: Arc::new(bytes), place, odd })
    }

    fn check_chain(&self, attempted: impl Fn() -> String) -> Result<(), ReadError> {
        if self.chain.len() < CHAIN {
            return Ok(());
        }
        Err(ReadError::caller(attempted(), format!("more than {CHAIN} files depend on each other")))
    }

    /// Fails if this file is one of those that led to it: a chain that bites its tail.
    pub fn refuse_loop(&self) -> Result<(), ReadError> {
        let (last, before) = self.chain.split_last().unwrap_or((&(0, 0), &[]));
        if before.contains(last) {
            let attempted = format!("follow the chain of files to {}", self.name.display());
            return Err(ReadError::caller(attempted, "it leads back to itself"));
        }
        Ok(())
    }
}
