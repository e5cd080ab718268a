//! From an address on the command line to file systems.

use std::cell::OnceCell;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, anyhow};

use super::super::context::Context;
use super::super::exit::UsageError;
use super::super::image::OpenArgs;
use crate::disk::address::{Address, Inside};
use crate::disk::fs::{self, Filesystem, Lost};
use crate::disk::volume::{self, Volumes};
use crate::disk::walk::{self, Found, How};
use crate::image::ReadAt;
use crate::report::printable;

/// An opened image and what of it was asked for.
pub(super) struct Disk {
    pub(super) bytes: Arc<dyn ReadAt>,
    pub(super) volumes: Volumes,
    pub(super) address: Address,
    options: fs::Options,
    /// The file systems, and whether all could be opened and read; once they were asked for.
    mounted: OnceCell<(Vec<Mounted>, bool)>,
}

/// A file system, and its volume's name.
#[derive(Clone)]
pub(super) struct Mounted {
    pub(super) label: String,
    pub(super) fs: Arc<dyn Filesystem>,
}

impl Disk {
    pub(super) fn open(text: &OsStr, how: &OpenArgs, no_journal: bool) -> Result<Self> {
        let address = Address::parse(text, |name| Path::new(name).exists());
        let image = how.open(&address.image)?;
        let bytes = Arc::clone(image.bytes());
        let volumes = volume::scan(&bytes)?;
        Ok(Self { bytes, volumes, address, options: fs::Options { no_journal }, mounted: OnceCell::new() })
    }

    /// The file systems that were asked for, and whether all of them could be opened.
    pub(super) fn mounted(&self, context: &Context) -> Result<(Vec<Mounted>, bool)> {
        if let Some((all, whole)) = self.mounted.get() {
            return Ok((all.clone(), *whole));
        }
        let opened = self.mount(context)?;
        Ok(self.mounted.get_or_init(|| opened).clone())
    }

    fn mount(&self, context: &Context) -> Result<(Vec<Mounted>, bool)> {
        let (mut all, mut whole) = (Vec::new(), true);
        let wanted = self.address.volume;
        for volume in self.volumes.readable().filter(|volume| wanted.is_none_or(|n| volume.number == Some(n))) {
            let label = volume.label().unwrap_or_default();
            match volume.open(&self.bytes).and_then(|bytes| fs::open(&bytes, self.options)) {
                Ok(Some(fs)) => {
                    fs.odd().iter().for_each(|line| context.say(&format!("{label}: {}", printable(line))));
                    whole &= fs.is_whole();
                    all.push(Mounted { label, fs });
                }
                Ok(None) => {
                    let holds = volume.holds.unwrap_or("nothing that is known");
                    context.say(&format!("{label} holds {holds}; no file system was read there"));
                    whole &= matches!(volume.holds, None | Some("swap")) && wanted.is_none();
                }
                Err(error) => {
                    context.say(&format!("{label}: {}", printable(&error.to_string())));
                    whole = false;
                }
            }
        }
        if all.is_empty() {
            let what = wanted.map_or_else(
                || "there is no file system that can be read".to_owned(),
                |n| {
                    format!(
                        "p{n} is no volume with a file system that can be read; impound disk IMAGE parts lists them"
                    )
                },
            );
            return Err(anyhow!(what));
        }
        Ok((all, whole))
    }

    /// The one file system that a path or number is meant for, and the file: the root if none was named.
    pub(super) fn one(&self, context: &Context) -> Result<(Mounted, u64, Vec<u8>)> {
        let (mut all, _) = self.mounted(context)?;
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
        Ok((mounted, inode, path))
    }

    /// Hands every file to `take`: below what was named, or of all volumes. Tells whether all could be read.
    pub(super) fn each(
        &self,
        how: How,
        context: &Context,
        take: &mut dyn FnMut(&Mounted, Found) -> Result<()>,
    ) -> Result<bool> {
        let (all, mut whole) = if self.address.inside.is_some() {
            (vec![self.one(context)?], true)
        } else {
            let (mounted, whole) = self.mounted(context)?;
            (
                mounted
                    .into_iter()
                    .map(|m| {
                        let root = m.fs.root();
                        (m, root, b"/".to_vec())
                    })
                    .collect(),
                whole,
            )
        };
        for (mounted, inode, path) in all {
            let mut odd = |line: String| {
                whole = false;
                context.say(&format!("{}: {}", mounted.label, printable(&line)));
            };
            walk::walk(mounted.fs.as_ref(), (inode, &path), how, &mut odd, &mut |found| take(&mounted, found))?;
        }
        Ok(whole)
    }

    /// Files that are no longer there, of all volumes that were asked for, and whether all of those could be read.
    pub(super) fn lost(&self, context: &Context) -> Result<(Vec<(String, Lost)>, bool)> {
        let (mounted, whole) = self.mounted(context)?;
        let mut all = Vec::new();
        for Mounted { label, fs } in mounted {
            all.extend(fs.lost()?.into_iter().map(|lost| (label.clone(), lost)));
        }
        Ok((all, whole))
    }
}
