//! `file:/path/disk.img`: an existing image file or block device, imaged as dcfldd or dc3dd do.
//!
//! It is opened read-only; a symbolic link is followed and the path it leads to is recorded. Holes of the file system
//! become gaps of the kind `sparse`, on a grid of 4096 bytes. A range that cannot be read is tried again, then halved until
//! only the 4096-byte grains that fail are left: these become gaps of the kind `unreadable`, a grain even where only one
//! sector of 512 bytes is bad.
//!
//! Nothing can be frozen here, and nobody can promise that no one writes meanwhile. So the class is `live`, except for a
//! block device that the kernel itself says is read-only (`ro` in `/sys`), where it is `instantaneous`. Size
//! and time of change are compared before and after, and a difference is a problem in the manifest. The file's time of
//! access is left alone (`O_NOATIME`) where the system allows it: for the file's owner and for root.

mod read;
mod source;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::json;

use crate::{
    Access, Backend, BackendError, Capture, Facts, Finding, Finished, Host, How, Item, ItemKind, Journal, Method, Plan,
    PlannedItem, Target, TargetSummary, Undo, Uri, WireLog,
};
#[cfg(feature = "aws")]
pub(crate) use read::data;
use source::Source;
#[cfg(any(feature = "aws", feature = "azure", feature = "openstack"))]
pub(crate) use source::safe_name;

/// The only way to take a file.
const METHOD: &str = "read";

/// The `file` backend.
#[derive(Debug)]
pub struct File;

#[async_trait]
impl Backend for File {
    fn scheme(&self) -> &'static str {
        "file"
    }

    fn about(&self) -> &'static str {
        "an existing image file or block device: file:/evidence/disk.img, file:/dev/sdb"
    }

    fn tested_against(&self) -> &'static str {
        "files on ext4 and tmpfs, sparse and dense; loop devices"
    }

    async fn connect(&self, uri: &Uri, access: &Access) -> Result<Box<dyn Host>, BackendError> {
        if let Some(vm) = &uri.vm {
            return Err(BackendError::caller("open a file", uri.to_string(), format!("a file holds no VM `{vm}`"))
                .advise("leave `#` and what follows away"));
        }
        let path = PathBuf::from(&uri.rest);
        if !path.is_absolute() {
            return Err(BackendError::caller("open a file", uri.to_string(), "the path is not absolute")
                .advise("write the whole path: file:/evidence/disk.img"));
        }
        Ok(Box::new(FileHost { source: Arc::new(Source::open(&path)?), wire: Arc::clone(&access.wire) }))
    }

    async fn checkup(&self, uri: Option<&Uri>, _access: &Access) -> Vec<Finding> {
        let Some(uri) = uri else { return Vec::new() };
        let what = format!("read {}", uri.rest);
        let finding = match Source::open(&PathBuf::from(&uri.rest)) {
            Ok(source) => Finding { what, good: true, found: format!("{} bytes", source.len), fix: None },
            Err(error) => Finding { what, good: false, found: error.why, fix: error.advice },
        };
        vec![finding]
    }
}

struct FileHost {
    source: Arc<Source>,
    wire: Arc<dyn WireLog>,
}

#[async_trait]
impl Host for FileHost {
    async fn targets(&mut self) -> Result<Vec<TargetSummary>, BackendError> {
        let (name, state) = (self.source.name.clone(), "at rest".into());
        Ok(vec![TargetSummary { name, id: None, state, memory: None, cpus: None }])
    }

    async fn open(&mut self, vm: Option<&str>) -> Result<Box<dyn Target>, BackendError> {
        match vm {
            Some(vm) if vm != self.source.name => {
                Err(BackendError::caller("open a file", self.source.shown(), format!("it holds no VM `{vm}`")))
            }
            _ => {
                let (source, wire) = (self.source.clone(), self.wire.clone());
                Ok(Box::new(FileTarget { source, wire, prepared: None, begun: false }))
            }
        }
    }
}

struct FileTarget {
    source: Arc<Source>,
    wire: Arc<dyn WireLog>,
    /// What is read next, and from where.
    prepared: Option<(Item, u64)>,
    begun: bool,
}

impl FileTarget {
    fn item(&self) -> Item {
        Item {
            kind: ItemKind::Disk,
            name: self.source.name.clone(),
            len: Some(self.source.len),
            source: self.source.shown(),
            resumable: true,
            methods: vec![Method {
                name: METHOD.into(),
                consistency: self.source.consistency(),
                pause: "none: nothing runs".into(),
                holds_guest: false,
                unusable: None,
            }],
            file: None,
        }
    }

    /// The only item there is; anything else is the caller's mistake.
    fn only(&self, items: &[Item]) -> Result<Option<Item>, BackendError> {
        let mine = self.item();
        match items {
            [] => Ok(None),
            [item] if item.name == mine.name && item.kind == mine.kind => Ok(Some(mine)),
            [item, ..] => Err(BackendError::caller(
                "capture",
                self.source.shown(),
                format!("it holds one disk, `{}`, once; asked for `{}`", mine.name, item.name),
            )),
        }
    }

    fn allowed(&self, how: &How) -> Result<(), BackendError> {
        let class = self.source.consistency();
        if class <= how.require {
            return Ok(());
        }
        let (has, asked) = (class.name(), how.require.name());
        Err(BackendError::unsupported("promise one instant", self.source.shown(), format!("it is {has}, not {asked}"))
            .advise("make the device read-only (blockdev --setro), or ask for less: --require live"))
    }
}

/// A place to go on with?
fn check_start(source: &Source, from: u64) -> Result<(), BackendError> {
    if from <= source.len && from.is_multiple_of(crate::GRAIN) {
        return Ok(());
    }
    let why = format!("byte {from} is not a place to go on with in {} bytes", source.len);
    Err(BackendError::caller("go on", source.shown(), why))
}

fn capture(item: Item, source: &Arc<Source>, from: u64, wire: &Arc<dyn WireLog>) -> Capture {
    Capture {
        item,
        method: METHOD,
        len: source.len,
        regions: Vec::new(),
        consistency: source.consistency(),
        holds_guest: false,
        facts: json!({ "source": source.facts(), "started_at": from, "grain": crate::GRAIN }),
        pieces: read::start(source, from, wire),
    }
}

/// Reads the file at `path` as `item`, from byte `from` on: for backends whose disks lie in files of this machine.
#[cfg(feature = "qemu")]
pub(crate) fn capture_path(item: Item, path: &std::path::Path, from: u64) -> Result<Capture, BackendError> {
    let source = Arc::new(Source::open(path)?);
    check_start(&source, from)?;
    let wire: Arc<dyn WireLog> = Arc::new(crate::NoLog);
    Ok(capture(item, &source, from, &wire))
}

#[async_trait]
impl Target for FileTarget {
    async fn describe(&mut self) -> Result<Facts, BackendError> {
        Ok(Facts {
            name: self.source.name.clone(),
            id: None,
            hypervisor: "none".into(),
            version: String::new(),
            state: "at rest".into(),
            cpus: None,
            memory: None,
            clocks: None,
            warnings: self.source.warnings(),
            details: self.source.facts(),
        })
    }

    async fn items(&mut self) -> Result<Vec<Item>, BackendError> {
        Ok(vec![self.item()])
    }

    async fn plan(&mut self, items: &[Item], how: &How) -> Result<Plan, BackendError> {
        let only = self.only(items)?;
        self.allowed(how)?;
        let planned = only.iter().map(|item| {
            let bytes = self.source.len.saturating_sub(how.start_at.get(&item.name).copied().unwrap_or(0));
            PlannedItem {
                item: item.name.clone(),
                method: METHOD.into(),
                consistency: self.source.consistency(),
                bytes,
                allocated: self.source.allocated().min(bytes),
            }
        });
        Ok(Plan {
            items: planned.collect(),
            pause: "none: nothing runs".into(),
            commands: vec![format!("open {} read-only and read it", self.source.shown())],
            scratch_bytes: 0,
            warnings: self.source.warnings(),
        })
    }

    /// Reading needs no claim: two readers do not disturb each other.
    async fn prepare(&mut self, items: &[Item], how: &How, _journal: &mut dyn Journal) -> Result<(), BackendError> {
        self.allowed(how)?;
        let Some(item) = self.only(items)? else { return Ok(()) };
        let from = how.start_at.get(&item.name).copied().unwrap_or(0);
        check_start(&self.source, from)?;
        self.prepared = Some((item, from));
        Ok(())
    }

    async fn begin(&mut self, _journal: &mut dyn Journal) -> Result<Vec<Capture>, BackendError> {
        let Some((item, from)) = self.prepared.take() else { return Ok(Vec::new()) };
        self.begun = true;
        Ok(vec![capture(item, &self.source, from, &self.wire)])
    }

    async fn finish(&mut self, _journal: &mut dyn Journal) -> Result<Finished, BackendError> {
        let changed = if self.begun { self.source.unchanged().err() } else { None };
        Ok(Finished { state: "at rest".into(), problems: changed.into_iter().collect(), ..Finished::default() })
    }

    async fn recover(&mut self, _undo: &[Undo]) -> Result<Vec<String>, BackendError> {
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests;
