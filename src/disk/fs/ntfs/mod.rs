//! NTFS, versions 1.2 to 3.1, after the linux-ntfs documentation and Microsoft's MS-FSCC, MS-XCA and USN pages; no code of any driver.
//!
//! $LogFile is not replayed: whether it had to be is said. Not read: content that is encrypted (EFS), compressed by the
//! Windows Overlay Filter, deduplicated, or kept elsewhere; it fails with that reason, never with other bytes. Names are
//! UTF-16 and become bytes as `text` says. A file's number is that of its record in $MFT, its generation the sequence number.

mod attribute;
mod bitmap;
mod boot;
mod compressed;
mod data;
mod index;
mod info;
mod logfile;
mod lost;
mod lznt1;
mod mft;
mod node;
mod record;
mod reparse;
mod text;
mod usn;

use std::sync::{Arc, OnceLock};

use super::{Change, FileKind, Filesystem, Listing, Lost, Node, Options, Run, Stream};
use crate::disk::us;
use crate::image::{ReadAt, ReadError, read_vec};
use attribute::{Attribute, DATA, VOLUME_INFORMATION, VOLUME_NAME, Value};
use bitmap::Bitmap;
use boot::Boot;
use mft::{File, Mft};
use record::Reference;
use reparse::Reparse;

/// Numbers of the file system's own files.
const LOG_FILE: u64 = 2;
const VOLUME: u64 = 3;
const ROOT: u64 = 5;
const BITMAP: u64 = 6;
const UPCASE: u64 = 10;
const EXTEND: u64 = 11;
/// Flag of $VOLUME_INFORMATION: chkdsk is to look at it.
const DIRTY: u16 = 1;

/// See the module.
pub(super) struct Ntfs {
    volume: Arc<dyn ReadAt>,
    boot: Boot,
    clusters: u64,
    mft: Mft,
    bitmap: Bitmap,
    upcase: OnceLock<Vec<u16>>,
    facts: Vec<(String, String)>,
    odd: Vec<String>,
    /// See [`Filesystem::is_whole`].
    whole: bool,
}

/// Opens the file system on a volume.
pub fn open(volume: Arc<dyn ReadAt>, options: Options) -> Result<Arc<dyn Filesystem>, ReadError> {
    let (boot, backup) = Boot::read(volume.as_ref())?;
    let mut odd: Vec<_> = backup.into_iter().collect();
    let mft = Mft::open(&volume, &boot, &mut odd)?;
    let clusters = boot.clusters(volume.as_ref());
    if boot.sectors.saturating_mul(boot.sector) > volume.len() {
        odd.push(format!("it should have {} sectors of {} bytes, and is cut short", boot.sectors, boot.sector));
    }
    let bitmap = Bitmap::new(Arc::new(crate::image::InMemory(Vec::new())), clusters);
    let (upcase, facts) = (OnceLock::new(), Vec::new());
    let mut ntfs = Ntfs { volume, boot, clusters, mft, bitmap, upcase, facts, odd, whole: true };
    match ntfs.mft.file(BITMAP).and_then(|file| ntfs.content_of(&file)) {
        Ok(bytes) => ntfs.bitmap = Bitmap::new(bytes, clusters),
        Err(error) => ntfs.odd.push(format!("$Bitmap: {error}")),
    }
    ntfs.describe();
    ntfs.log(options);
    Ok(Arc::new(ntfs))
}

impl Ntfs {
    fn fact(&mut self, name: &str, value: impl std::fmt::Display) {
        self.facts.push((name.to_owned(), value.to_string()));
    }

    /// What boot sector and $Volume tell.
    fn describe(&mut self) {
        let Boot { sector, cluster, record, serial, .. } = self.boot;
        self.fact("serial", format!("{serial:016x}"));
        self.fact("sector", sector);
        self.fact("cluster", cluster);
        self.fact("clusters", self.clusters);
        self.fact("records of $MFT", format!("{} of {record} bytes", self.mft.len()));
        let backup = self.boot.backup(self.volume.as_ref());
        self.fact("backup boot sector", backup);
        match self.mft.file(VOLUME) {
            Ok(file) => self.describe_volume(&file),
            Err(error) => self.odd.push(format!("$Volume: {error}")),
        }
        let bad = self.mft.file(node::BAD_CLUSTERS).ok().and_then(|file| match &file.get(DATA, b"$Bad")?.value {
            Value::Mapped(mapping) => Some(mapping.runs.iter().map(|run| run.len).sum::<u64>()),
            Value::Resident(_) => None,
        });
        if let Some(bad) = bad {
            self.fact("bad clusters", bad);
        }
    }

    fn describe_volume(&mut self, file: &File) {
        if let Some(label) = file.value(VOLUME_NAME) {
            self.fact("label", crate::report::readable(&text::name(label.bytes())));
        }
        let Some(Ok((major, minor, flags))) = file
            .value(VOLUME_INFORMATION)
            .map(|value| Ok::<_, ReadError>((value.u8(8)?, value.u8(9)?, value.u16(10)?)))
        else {
            self.odd.push("$Volume has no $VOLUME_INFORMATION".to_owned());
            return;
        };
        self.fact("version", format!("{major}.{minor}"));
        self.fact("volume flags", format!("{flags:#06x}"));
        if flags & DIRTY != 0 {
            self.odd.push("the volume is marked dirty: chkdsk was to look at it".to_owned());
        }
    }

    /// A log with changes that are nowhere else means that what stands there may be out of date; not if the state as it
    /// stands there was asked for.
    fn log(&mut self, options: Options) {
        let state = self
            .mft
            .file(LOG_FILE)
            .and_then(|file| self.content_of(&file))
            .and_then(|log| logfile::state(log.as_ref()));
        match state {
            Ok(state) => {
                self.fact("$LogFile", state.name());
                if state == logfile::Log::Dirty && !options.no_journal {
                    let what = "$LogFile is dirty and is not replayed: the last changes may be missing or half done";
                    self.odd.push(format!("{what} (--no-journal takes it as it is)"));
                    self.whole = false;
                }
            }
            Err(error) => {
                self.odd.push(format!("$LogFile cannot be read: {error}"));
                self.whole = options.no_journal;
            }
        }
    }

    /// Is what a name leads to another file by now?
    fn gone(&self, reference: Reference) -> bool {
        self.mft.record(reference.number).is_ok_and(|record| record.reference() != reference)
    }

    fn upcase(&self) -> &[u16] {
        self.upcase.get_or_init(|| {
            let bytes = self.mft.file(UPCASE).and_then(|file| self.content_of(&file));
            let bytes = bytes.and_then(|bytes| read_vec(bytes.as_ref(), 0, us(bytes.len().min(1 << 17))));
            let pairs = bytes.unwrap_or_default();
            pairs
                .chunks_exact(2)
                .map(|pair| pair.iter().rev().fold(0, |unit, byte| unit << 8 | u16::from(*byte)))
                .collect()
        })
    }

    /// $Extend\$UsnJrnl:$J.
    fn journal(&self) -> Result<Arc<dyn ReadAt>, ReadError> {
        let none =
            || ReadError::unsupported("the journal of ntfs", "the volume has no $Extend\\$UsnJrnl: none was kept");
        let entries = self.entries(EXTEND, false)?.entries;
        let entry = entries.into_iter().find(|entry| entry.name == b"$UsnJrnl").ok_or_else(none)?;
        let file = self.mft.file(entry.inode)?;
        self.bytes_of(file.get(DATA, b"$J").ok_or_else(none)?)
    }
}

impl Filesystem for Ntfs {
    fn name(&self) -> &'static str {
        "ntfs"
    }

    fn facts(&self) -> Vec<(String, String)> {
        self.facts.clone()
    }

    fn odd(&self) -> Vec<String> {
        self.odd.clone()
    }

    fn is_whole(&self) -> bool {
        self.whole
    }

    fn root(&self) -> u64 {
        ROOT
    }

    fn block_size(&self) -> u64 {
        self.boot.cluster
    }

    fn blocks(&self) -> u64 {
        self.clusters
    }

    fn node(&self, inode: u64) -> Result<Node, ReadError> {
        let file = self.mft.file(inode)?;
        let mut node = node::node(&file);
        node.facts = node::facts(&file, &node.times);
        Ok(node)
    }

    fn look(&self, inode: u64) -> Result<(Node, bool), ReadError> {
        let file = self.mft.file(inode)?;
        Ok((node::node(&file), self.content_of(&file).is_ok()))
    }

    fn entries(&self, directory: u64, deleted: bool) -> Result<Listing, ReadError> {
        let file = self.mft.file(directory)?;
        if node::kind(&file) != FileKind::Directory {
            return Err(ReadError::caller(format!("list file {directory}"), "it is no directory"));
        }
        let mut listing = self.index(&file, deleted)?.listing(|reference| self.gone(reference));
        listing.odd.extend(file.odd.iter().cloned());
        Ok(listing)
    }

    fn content(&self, inode: u64) -> Result<Arc<dyn ReadAt>, ReadError> {
        self.content_of(self.mft.file(inode)?.as_ref())
    }

    fn slack(&self, inode: u64) -> Result<Vec<u8>, ReadError> {
        let file = self.mft.file(inode)?;
        let (cluster, size) = (self.boot.cluster, file.get(DATA, b"").map_or(0, Attribute::size));
        match file.get(DATA, b"").map(|data| &data.value) {
            Some(Value::Mapped(mapping)) if !size.is_multiple_of(cluster) && mapping.unit == 0 => {
                let last = size / cluster;
                let run = mapping.runs.iter().find(|run| last.checked_sub(run.logical).is_some_and(|n| n < run.len));
                let Some(run) = run else { return Ok(Vec::new()) };
                let at = (run.physical + (last - run.logical)) * cluster + size % cluster;
                read_vec(self.volume.as_ref(), at, us(cluster - size % cluster))
            }
            Some(Value::Mapped(_)) => Ok(Vec::new()),
            // Content in the record ends where the record does.
            Some(Value::Resident(_)) | None => Ok(file.record.slack().to_vec()),
        }
    }

    fn target(&self, inode: u64) -> Result<Vec<u8>, ReadError> {
        let file = self.mft.file(inode)?;
        let reparse = Reparse::of(&file).and_then(|point| point.target()).map(|[followed, _]| followed);
        let interix = || reparse::interix(&file).filter(|device| device.kind == FileKind::Link);
        let none = || ReadError::caller(format!("follow file {inode}"), "it is no symbolic link");
        reparse.or_else(|| interix().map(|device| device.target)).ok_or_else(none)
    }

    fn runs(&self, inode: u64) -> Result<Vec<Run>, ReadError> {
        let file = self.mft.file(inode)?;
        Ok(match file.main().map(|attribute| &attribute.value) {
            Some(Value::Mapped(mapping)) => mapping.runs.clone(),
            _ => Vec::new(),
        })
    }

    fn block_in_use(&self, block: u64) -> Result<bool, ReadError> {
        self.bitmap.get(block)
    }

    fn space(&self) -> Option<Arc<dyn ReadAt>> {
        Some(Arc::clone(&self.volume))
    }

    fn lost(&self) -> Result<Vec<Lost>, ReadError> {
        lost::all(self)
    }

    fn streams(&self, inode: u64) -> Result<Vec<Stream>, ReadError> {
        let file = self.mft.file(inode)?;
        let stream = |one: &Attribute| Stream { name: one.name.clone(), content: self.stream_of(one) };
        Ok(node::streams(&file).map(stream).collect())
    }

    fn changes(&self, each: &mut dyn FnMut(Change) -> Result<(), ReadError>) -> Result<(), ReadError> {
        usn::all(self.journal()?.as_ref(), each)
    }

    fn same_name(&self, one: &[u8], other: &[u8]) -> bool {
        if one == other {
            return true;
        }
        let upper = |name| {
            let units: Vec<u16> = text::units(name)?;
            let up = |unit: u16| self.upcase().get(usize::from(unit)).copied().unwrap_or(unit);
            Some(units.into_iter().map(up).collect::<Vec<_>>())
        };
        upper(one).is_some_and(|one| upper(other).is_some_and(|other| one == other))
    }
}
