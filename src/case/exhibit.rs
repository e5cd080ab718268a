//! From a draft to a sealed exhibit.
//!
//! A draft is the folder `exhibits/NAME.partial/`: a bag under construction. Sealing writes its tag files, makes all of
//! it read-only and durable, signs it, writes the event into the custody log, and only then gives the folder its final
//! name. So whatever bears a final name is in the log, and what a crash leaves is `.partial`: either whole and already in
//! the log (`recover` gives it its name) or not in the log at all.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use impound_backends::Why;
use jiff::Timestamp;
use rustix::fs::{FlockOperation, flock};

use super::bag::{self, ALGORITHMS, BAGIT, SIGNATURE, TAG_MANIFEST};
use super::custody::{EventKind, NewEvent};
use super::disk::{is_temporary, read_bounded};
use super::manifest::{self, Entries};
use super::record::{Gap, Record, Stored};
use super::tree::{self, Nature};
use super::{Case, CaseError, digest, schema};
use crate::progress::Silent;

/// What a draft is to become if its run is killed; not part of the bag.
pub(crate) const INTENT: &str = ".intent.json";
/// Ending of a draft's folder.
pub(crate) const PARTIAL: &str = ".partial";

/// An exhibit under construction. Held by a lock until it is dropped, so that `recover` leaves it alone.
#[derive(Debug)]
pub struct Draft {
    case: Case,
    name: String,
    dir: PathBuf,
    _lock: File,
}

/// An exhibit that was sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// Its name.
    pub name: String,
    /// Its folder.
    pub dir: PathBuf,
    /// SHA-256 of its tag manifest, which stands for all of it.
    pub tag_manifest: String,
}

impl Draft {
    /// Makes the folder of a new draft.
    pub(crate) fn begin(case: &Case, name: String) -> Result<Self, CaseError> {
        let dir = case.exhibits().join(format!("{name}{PARTIAL}"));
        case.disk.make_dir(&dir)?;
        case.disk.make_dir(&dir.join("data"))?;
        Self::take(case, name, dir)
    }

    /// Goes on with a draft that a run left behind; refuses one that a live run still writes.
    pub fn reopen(case: &Case, name: &str) -> Result<Self, CaseError> {
        let dir = case.exhibits().join(format!("{name}{PARTIAL}"));
        let there = fs::symlink_metadata(&dir).is_ok_and(|found| found.is_dir());
        if !super::names::is_safe(name) || !there {
            return Err(CaseError::caller("go on with a draft", dir, "there is no such draft"));
        }
        Self::take(case, name.to_owned(), dir)
    }

    fn take(case: &Case, name: String, dir: PathBuf) -> Result<Self, CaseError> {
        let lock = File::open(&dir).map_err(CaseError::io("open the draft", &dir))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| CaseError::caller("go on with a draft", &dir, "another run is writing it"))?;
        // What a killed run was just writing has a temporary name, and is not part of a bag.
        for (name, nature) in tree::children(&dir).map_err(CaseError::io("list the draft", &dir))? {
            if nature == Nature::File && is_temporary(&name) {
                remove(&dir.join(name))?;
            }
        }
        Ok(Self { case: case.clone(), name, dir, _lock: lock })
    }

    /// Name that the exhibit will have.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The bag under construction; the payload belongs into `data/` below it.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes down what this draft is to become, so that a killed run can still be sealed as interrupted.
    pub fn intend(&self, record: &Record) -> Result<(), CaseError> {
        let path = self.dir.join(INTENT);
        let intended = Record { schema: schema::EXHIBIT.to_owned(), name: self.name.clone(), ..record.clone() };
        let bytes = schema::write(&intended, &path)?;
        let temporary = self.case.disk.write_temporary(&path, &bytes, 0o600)?;
        self.case.disk.rename_over(&temporary, &path)
    }

    /// The run that began it, as it wrote down itself.
    pub fn begun_by(&self) -> Option<String> {
        self.intended().map(|intended| intended.run)
    }

    /// Was it begun for this item?
    pub fn is_for(&self, item: &str, source: &str) -> bool {
        self.intended().is_some_and(|intended| intended.item.name == item && intended.item.source == source)
    }

    /// Is there nothing of the item in it yet?
    pub fn is_empty(&self) -> bool {
        fs::read_dir(self.dir.join("data")).is_ok_and(|mut entries| entries.next().is_none())
    }

    fn intended(&self) -> Option<Record> {
        let bytes = read_bounded(&self.dir.join(INTENT), super::record::RECORD_LIMIT).ok()?;
        super::record::read(&bytes).ok()
    }

    /// Seals the draft. `stored` are the files under `data/` with the digests taken while they were written; they are
    /// not read again. `wire` is the log of the run's exchanges so far. May be called again after a failure.
    pub fn seal(&self, mut record: Record, stored: Vec<Stored>, wire: Option<&Path>) -> Result<Sealed, CaseError> {
        self.check_payload(&stored)?;
        let unreadable = |gap: &Gap| matches!(gap.why, Why::Unreadable(_));
        if record.outcome.is_complete() && (record.gaps.unreadable > 0 || record.gaps.listed.iter().any(unreadable)) {
            return Err(CaseError::caller(
                "seal the exhibit",
                &self.dir,
                "it has unreadable gaps and claims to be complete",
            ));
        }
        schema::EXHIBIT.clone_into(&mut record.schema);
        record.name.clone_from(&self.name);
        record.stored = stored;
        record.custody = Some(self.case.custody().head()?);
        self.write_tag_files(&record, wire)?;
        let tag_manifest = self.close()?;
        self.publish(&record, &tag_manifest)
    }

    /// Does the payload consist of these files, of these lengths, and nothing else?
    fn check_payload(&self, stored: &[Stored]) -> Result<(), CaseError> {
        let refuse = |on: &Path, why: &str| Err(CaseError::caller("seal the exhibit", on, why));
        let found = tree::walk(&self.dir.join("data")).map_err(CaseError::io("list the payload", &self.dir))?;
        for file in stored {
            let path = self.dir.join(&file.path);
            if !file.path.starts_with("data") || !manifest::stays_inside(&file.path) {
                return refuse(&path, "payload lies below data/");
            }
            if !digest::is_hex(&file.digests.sha256, 64) {
                return refuse(&path, "it has no SHA-256");
            }
            if fs::symlink_metadata(&path).ok().filter(fs::Metadata::is_file).is_none_or(|meta| meta.len() != file.len)
            {
                return refuse(&path, "it is not the file that was written: no regular file of its length is there");
            }
        }
        for (path, nature) in found.iter().filter(|(_, nature)| *nature != Nature::Folder) {
            let path = Path::new("data").join(path);
            if *nature != Nature::File || !stored.iter().any(|file| file.path == path) {
                return refuse(&self.dir.join(path), "it is in the payload and nobody stored it");
            }
        }
        Ok(())
    }

    fn write_tag_files(&self, record: &Record, wire: Option<&Path>) -> Result<(), CaseError> {
        // A seal that failed half-way may have left any of these.
        let stale = ALGORITHMS.iter().map(|a| a.manifest).chain([TAG_MANIFEST, SIGNATURE]);
        for name in stale {
            remove(&self.dir.join(name))?;
        }
        self.replace("exhibit.json", &schema::write(record, &self.dir.join("exhibit.json"))?)?;
        self.replace("bagit.txt", BAGIT)?;
        self.replace("bag-info.txt", &bag::info(record, self.case.info().organization.as_deref(), Timestamp::now()))?;
        if let Some(wire) = wire {
            let path = self.dir.join("wire.jsonl");
            let temporary = self.case.disk.copy_lines(wire, &path, 0o444)?;
            self.case.disk.rename_over(&temporary, &path)?;
        }
        for algorithm in &ALGORITHMS {
            if let Some(bytes) = bag::payload_manifest(algorithm, &record.stored) {
                self.replace(algorithm.manifest, &bytes)?;
            }
        }
        Ok(())
    }

    /// Makes everything read-only and durable, then writes and signs the tag manifest. Answers its SHA-256.
    fn close(&self) -> Result<String, CaseError> {
        // From here on `exhibit.json` says what was intended.
        remove(&self.dir.join(INTENT))?;
        let found = tree::walk(&self.dir).map_err(CaseError::io("list the exhibit", &self.dir))?;
        let mut tags = Entries::new();
        for (path, nature) in &found {
            let whole = self.dir.join(path);
            match nature {
                Nature::File => self.case.disk.settle(&whole)?,
                Nature::Folder | Nature::EmptyFolder => self.case.disk.sync_dir(&whole)?,
                _ => return Err(CaseError::caller("seal the exhibit", whole, format!("it is a {}", nature.name()))),
            }
            if *nature == Nature::File && !path.starts_with("data") {
                let hashed = digest::file::<sha2::Sha256>(&whole, &Silent);
                tags.insert(path.clone(), hashed.map_err(CaseError::io("hash the file", &whole))?.1);
            }
        }
        let bytes = manifest::write(&tags);
        self.case.disk.write_new(&self.dir.join(TAG_MANIFEST), &bytes)?;
        if let Some(signer) = &self.case.signer {
            self.case.disk.write_new(&self.dir.join(SIGNATURE), &signer.sign(&bytes)?)?;
        }
        self.case.disk.sync_dir(&self.dir)?;
        Ok(digest::sha256(&bytes))
    }

    /// The log first, then the name: a name without an event could be anybody's.
    fn publish(&self, record: &Record, tag_manifest: &str) -> Result<Sealed, CaseError> {
        let details = serde_json::json!({
            "run": record.run, "item": record.item.name, "method": record.method, "outcome": record.outcome,
            "bytes": record.stored.iter().fold(0u64, |sum, file| sum.saturating_add(file.len)),
        });
        let event = NewEvent::new(EventKind::Sealed, &record.case.examiner);
        self.case.custody().append(&[event.to(&self.name).digest(tag_manifest).details(details)])?;
        let dir = self.case.exhibits().join(&self.name);
        self.case.disk.rename_new(&self.dir, &dir)?;
        Ok(Sealed { name: self.name.clone(), dir, tag_manifest: tag_manifest.to_owned() })
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), CaseError> {
        let path = self.dir.join(name);
        let temporary = self.case.disk.write_temporary(&path, bytes, 0o444)?;
        self.case.disk.rename_over(&temporary, &path)
    }
}

fn remove(path: &Path) -> Result<(), CaseError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(CaseError::io("remove a half-made file", path)(error))
        }
        _ => Ok(()),
    }
}
