//! From an address on the command line to file systems.

use std::cell::OnceCell;
use std::ffi::OsStr;
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use zeroize::Zeroizing;

use super::super::context::Context;
use super::super::exit::UsageError;
use super::super::image::OpenArgs;
use crate::disk::address::{Address, Inside};
use crate::disk::fs::{self, FileKind, Filesystem, Lost, Subvolume};
use crate::disk::volume::luks::Passphrase;
use crate::disk::volume::{self, Beside, Use, Volume, Volumes};
use crate::disk::walk::{self, Found, How};
use crate::image::ReadError;
use crate::report::printable;

/// What is given beside the image.
#[derive(Debug, clap::Args)]
pub(super) struct BesideArgs {
    /// Another image with members of the same array or volume group; may be given several times
    #[arg(long, value_name = "IMAGE")]
    with: Vec<PathBuf>,
    /// File with the passphrase or key of LUKS volumes; - for stdin
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

impl BesideArgs {
    fn open(&self, how: &OpenArgs) -> Result<Beside> {
        let mut with = Vec::new();
        for path in &self.with {
            with.push((path.display().to_string(), Arc::clone(how.open(path)?.bytes())));
        }
        let passphrase = self.passphrase_file.as_deref().map(passphrase).transpose()?.map(Arc::new);
        Ok(Beside { with, passphrase })
    }
}

/// Reads a passphrase into one buffer, which is wiped with it.
fn passphrase(path: &Path) -> Result<Passphrase> {
    let mut from: Box<dyn Read> = if path == Path::new("-") {
        let stdin = std::io::stdin();
        if stdin.is_terminal() {
            let what = "--passphrase-file - reads a file or a pipe: a terminal would show what is typed";
            return Err(UsageError(what.to_owned()).into());
        }
        Box::new(stdin)
    } else {
        let file = std::fs::File::open(path);
        Box::new(file.with_context(|| format!("could not open the passphrase file {}", path.display()))?)
    };
    let mut bytes = Zeroizing::new(vec![0; Passphrase::LONGEST + 1]);
    let mut len = 0;
    while let Some(rest) = bytes.get_mut(len..).filter(|rest| !rest.is_empty()) {
        match from.read(rest).with_context(|| format!("could not read the passphrase from {}", path.display()))? {
            0 => break,
            read => len += read,
        }
    }
    if len == 0 || len > Passphrase::LONGEST {
        let what =
            format!("{} should hold a passphrase of 1 byte to {} MiB", path.display(), Passphrase::LONGEST >> 20);
        return Err(UsageError(what).into());
    }
    bytes.truncate(len);
    Ok(Passphrase::new(bytes))
}

/// An opened image and what of it was asked for.
pub(super) struct Disk {
    pub(super) volumes: Volumes,
    pub(super) address: Address,
    options: fs::Options,
    /// The file systems, and whether all could be opened and read; once they were asked for.
    mounted: OnceCell<(Vec<Mounted>, bool)>,
}

/// A file system, and its volume's name.
#[derive(Clone)]
pub(super) struct Mounted {
    /// `p2`; `p2@home` for a subvolume.
    pub(super) label: String,
    pub(super) fs: Arc<dyn Filesystem>,
    /// What a subvolume is in the file system around it.
    pub(super) facts: Vec<(String, String)>,
    /// It is one, and its blocks are those of the file system around it.
    pub(super) inner: bool,
}

/// A file, and all below it, that is gone through.
pub(super) struct Start {
    pub(super) mounted: Mounted,
    pub(super) inode: u64,
    pub(super) path: Vec<u8>,
}

/// The file system of a volume and those inside it; only the one that was asked for, if one was.
fn with_inner(
    label: &str,
    fs: Arc<dyn Filesystem>,
    inner: Vec<Subvolume>,
    wanted: Option<&[u8]>,
) -> Result<Vec<Mounted>, ReadError> {
    let names: Vec<_> = inner.iter().map(|one| printable(&String::from_utf8_lossy(&one.name))).collect();
    let mut all = vec![Mounted { label: label.to_owned(), fs, facts: Vec::new(), inner: false }];
    if wanted.is_some() {
        all.clear();
    }
    for (one, name) in inner.into_iter().zip(&names) {
        if wanted.is_none_or(|wanted| wanted == one.name) {
            all.push(Mounted { label: format!("{label}@{name}"), fs: one.fs, facts: one.facts, inner: true });
        }
    }
    if all.is_empty() {
        let there = if names.is_empty() { "it has none".to_owned() } else { format!("it has {}", names.join(", ")) };
        return Err(ReadError::caller(format!("find that subvolume of {label}"), there));
    }
    Ok(all)
}

fn is_directory(mounted: &Mounted, inode: u64) -> bool {
    // What cannot be read is told by whoever walks it.
    mounted.fs.node(inode).map_or(true, |node| node.kind == Some(FileKind::Directory))
}

impl Disk {
    pub(super) fn open(text: &OsStr, how: &OpenArgs, beside: &BesideArgs, no_journal: bool) -> Result<Self> {
        let address = Address::parse(text, |name| Path::new(name).exists());
        let image = how.open(&address.image)?;
        let volumes = volume::scan_with(image.bytes(), &beside.open(how)?)?;
        Ok(Self { volumes, address, options: fs::Options { no_journal }, mounted: OnceCell::new() })
    }

    /// The file systems that were asked for, and whether all of them could be opened.
    pub(super) fn mounted(&self, context: &Context) -> Result<(Vec<Mounted>, bool)> {
        if let Some((all, whole)) = self.mounted.get() {
            return Ok((all.clone(), *whole));
        }
        let opened = self.mount(context)?;
        Ok(self.mounted.get_or_init(|| opened).clone())
    }

    /// The volumes that were asked for. A member is read by its name only: the volumes it is part of are read anyway.
    fn wanted(&self) -> Result<Vec<&Volume>> {
        let Some(label) = &self.address.volume else { return Ok(self.volumes.readable().collect()) };
        let named = |volume: &&Volume| matches!(volume.what, Use::Volume | Use::Member);
        if let Some(volume) = self.volumes.labelled(label).filter(named) {
            return Ok(vec![volume]);
        }
        let there: Vec<_> = self.volumes.readable().filter_map(|volume| volume.label.as_deref()).collect();
        let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
        Err(UsageError(format!("{label} is no volume of this disk; there are: {there}")).into())
    }

    fn mount(&self, context: &Context) -> Result<(Vec<Mounted>, bool)> {
        let (mut all, mut whole) = (Vec::new(), true);
        for volume in self.wanted()? {
            let label = volume.label.clone().unwrap_or_default();
            match self.mount_one(volume, &label, context) {
                Ok((mut found, good)) => {
                    all.append(&mut found);
                    whole &= good;
                }
                Err(error) => {
                    context.say(&format!("{label}: {}", printable(&error.to_string())));
                    whole = false;
                }
            }
        }
        if all.is_empty() {
            let what = self.address.volume.as_ref().map_or_else(
                || "there is no file system that can be read".to_owned(),
                |label| {
                    format!("{label} has no file system that can be read; impound disk IMAGE parts lists the volumes")
                },
            );
            return Err(anyhow!(what));
        }
        Ok((all, whole))
    }

    /// The file systems of a volume, and whether all of it can be read.
    fn mount_one(&self, volume: &Volume, label: &str, context: &Context) -> Result<(Vec<Mounted>, bool), ReadError> {
        let Some(fs) = fs::open(&volume.bytes()?, self.options)? else {
            let holds = volume.holds.unwrap_or("nothing that is known");
            let why = volume.lacks.as_deref().unwrap_or("no file system was read there");
            context.say(&format!("{label} holds {holds}; {}", printable(why)));
            let expected = matches!(volume.holds, None | Some("swap")) && volume.lacks.is_none();
            return Ok((Vec::new(), expected && self.address.volume.is_none()));
        };
        fs.odd().iter().chain(&volume.lacks).for_each(|line| context.say(&format!("{label}: {}", printable(line))));
        let (inner, listed) = match fs.subvolumes() {
            Ok(inner) => (inner, true),
            Err(error) => {
                context.say(&format!("{label}: its subvolumes are not read: {}", printable(&error.to_string())));
                (Vec::new(), false)
            }
        };
        let good = listed && fs.is_whole() && volume.lacks.is_none();
        Ok((with_inner(label, fs, inner, self.address.sub.as_deref())?, good))
    }

    /// The one file system that a path or number is meant for, and the file: the root if none was named.
    pub(super) fn one(&self, context: &Context) -> Result<Start> {
        let (mut all, _) = self.mounted(context)?;
        // A path goes to a subvolume only if that was named.
        all.retain(|mounted| !mounted.inner || self.address.sub.is_some());
        if all.len() > 1 {
            let names: Vec<_> = all.iter().map(|mounted| mounted.label.as_str()).collect();
            let what = format!("say which volume: one of {}", names.join(", "));
            return Err(UsageError(what).into());
        }
        let Some(mounted) = all.pop() else { return Err(anyhow!("there is no file system")) };
        let (inode, path) = match &self.address.inside {
            None => (mounted.fs.root(), b"/".to_vec()),
            Some(Inside::Path(path)) => (walk::find(mounted.fs.as_ref(), path)?, path.clone()),
            Some(Inside::Inode(inode)) => (*inode, format!("/#{inode}").into_bytes()),
        };
        Ok(Start { mounted, inode, path })
    }

    /// Where [`Disk::each`] begins, and whether all file systems that were asked for could be opened.
    pub(super) fn starts(&self, context: &Context) -> Result<(Vec<Start>, bool)> {
        if self.address.inside.is_some() {
            return Ok((vec![self.one(context)?], true));
        }
        let (mounted, whole) = self.mounted(context)?;
        let from_root = |mounted: Mounted| Start { inode: mounted.fs.root(), mounted, path: b"/".to_vec() };
        Ok((mounted.into_iter().map(from_root).collect(), whole))
    }

    /// Hands every file to `take`: those below what was named, or that itself if it is no directory; else those of all volumes.
    /// Tells whether all could be read.
    pub(super) fn each(
        &self,
        how: How,
        context: &Context,
        take: &mut dyn FnMut(&Mounted, Found) -> Result<()>,
    ) -> Result<bool> {
        let (starts, whole) = self.starts(context)?;
        Ok(self.each_of(starts, how, context, take)? & whole)
    }

    /// The same of where it begins, as [`Disk::starts`] found it.
    pub(super) fn each_of(
        &self,
        starts: Vec<Start>,
        how: How,
        context: &Context,
        take: &mut dyn FnMut(&Mounted, Found) -> Result<()>,
    ) -> Result<bool> {
        let mut whole = true;
        for Start { mounted, inode, path } in starts {
            if self.address.inside.is_some() && !is_directory(&mounted, inode) {
                take(&mounted, walk::alone(mounted.fs.as_ref(), inode, path)?)?;
                continue;
            }
            let mut odd = |line: String| {
                whole = false;
                context.say(&format!("{}: {}", mounted.label, printable(&line)));
            };
            let mut began = false;
            let done = walk::walk(mounted.fs.as_ref(), (inode, &path), how, &mut odd, &mut |found| {
                began = true;
                take(&mounted, found)
            });
            match done {
                // The root of one volume of several: the others have theirs.
                Err(error) if !began && self.address.inside.is_none() => odd(error.to_string()),
                done => done?,
            }
        }
        Ok(whole)
    }

    /// Files that are no longer there, of all volumes that were asked for, and whether all of those could be read.
    pub(super) fn lost(&self, context: &Context) -> Result<(Vec<(String, Lost)>, bool)> {
        let (mounted, mut whole) = self.mounted(context)?;
        let mut all = Vec::new();
        for Mounted { label, fs, .. } in mounted {
            match fs.lost() {
                Ok(lost) => all.extend(lost.into_iter().map(|lost| (label.clone(), lost))),
                Err(error) => {
                    context.say(&format!("{label}: what was deleted is not found: {}", printable(&error.to_string())));
                    whole = false;
                }
            }
        }
        Ok((all, whole))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::fs::{Entry, FileKind, Listing, Node, Run, State, Times};
    use crate::image::InMemory;

    /// One file in its root, and subvolumes.
    struct Fake(Vec<&'static str>);

    impl Filesystem for Fake {
        fn name(&self) -> &'static str {
            "fake"
        }
        fn facts(&self) -> Vec<(String, String)> {
            Vec::new()
        }
        fn odd(&self) -> Vec<String> {
            Vec::new()
        }
        fn is_whole(&self) -> bool {
            true
        }
        fn root(&self) -> u64 {
            256
        }
        fn block_size(&self) -> u64 {
            4096
        }
        fn blocks(&self) -> u64 {
            1
        }
        fn node(&self, inode: u64) -> Result<Node, ReadError> {
            let kind = Some(if inode == 256 { FileKind::Directory } else { FileKind::File });
            let (mode, uid, gid, size, links, generation, allocated) = (0, 0, 0, 4, 1, 0, true);
            let (times, facts, odd) = (Times::default(), Vec::new(), Vec::new());
            Ok(Node { inode, generation, kind, mode, uid, gid, size, links, times, allocated, facts, odd })
        }
        fn entries(&self, _directory: u64, _deleted: bool) -> Result<Listing, ReadError> {
            let name = format!("file-{}", self.0.len()).into_bytes();
            let kind = Some(FileKind::File);
            let entries = vec![Entry { name, inode: 257, kind, state: State::Allocated, source: "directory" }];
            Ok(Listing { entries, odd: Vec::new() })
        }
        fn content(&self, _inode: u64) -> Result<Arc<dyn crate::image::ReadAt>, ReadError> {
            Ok(Arc::new(InMemory(b"text".to_vec())))
        }
        fn slack(&self, _inode: u64) -> Result<Vec<u8>, ReadError> {
            Ok(Vec::new())
        }
        fn target(&self, _inode: u64) -> Result<Vec<u8>, ReadError> {
            Ok(Vec::new())
        }
        fn runs(&self, _inode: u64) -> Result<Vec<Run>, ReadError> {
            Ok(Vec::new())
        }
        fn block_in_use(&self, _block: u64) -> Result<bool, ReadError> {
            Ok(true)
        }
        fn lost(&self) -> Result<Vec<Lost>, ReadError> {
            Ok(Vec::new())
        }
        fn subvolumes(&self) -> Result<Vec<Subvolume>, ReadError> {
            let one = |name: &&str| {
                let facts = vec![("subvolume".to_owned(), "yes".to_owned())];
                Subvolume {
                    name: name.as_bytes().to_vec(),
                    facts,
                    fs: Arc::new(Fake(Vec::new())) as Arc<dyn Filesystem>,
                }
            };
            Ok(self.0.iter().map(one).collect())
        }
    }

    #[test]
    fn subvolumes_are_volumes_of_their_own_and_the_one_that_was_named_comes_alone() {
        let fs = Arc::new(Fake(vec!["home", "home/.snapshots/1", "a\u{1b}b"]));
        let mount = |wanted: Option<&str>| {
            let inner = fs.subvolumes().unwrap();
            with_inner("p2", Arc::clone(&fs) as Arc<dyn Filesystem>, inner, wanted.map(str::as_bytes))
        };
        let labels = |all: &[Mounted]| all.iter().map(|one| one.label.clone()).collect::<Vec<_>>();
        let all = mount(None).unwrap();
        assert_eq!(labels(&all), ["p2", "p2@home", "p2@home/.snapshots/1", "p2@a\\u{1b}b"]);
        assert_eq!(all.iter().filter(|one| one.inner).count(), 3);
        let one = mount(Some("home/.snapshots/1")).unwrap();
        assert_eq!((labels(&one), one[0].facts.len()), (vec!["p2@home/.snapshots/1".to_owned()], 1));
        assert_eq!(walk::find(one[0].fs.as_ref(), b"/file-0").unwrap(), 257);
        let error = mount(Some("none")).map(|all| labels(&all)).unwrap_err().to_string();
        assert!(error.contains("home/.snapshots/1") && !error.contains('\u{1b}'), "{error}");
    }
}
