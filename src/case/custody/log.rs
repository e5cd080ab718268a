//! Adding to the custody log: one writer at a time, durable before it counts, the head last.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::{FlockOperation, flock};

use super::{Event, Head, LINE_LIMIT, Log, NewEvent, lines};
use crate::case::CaseError;
use crate::case::digest::sha256;
use crate::case::disk::Disk;
use crate::case::sign::Signer;

/// The custody log of one case.
#[derive(Debug, Clone)]
pub struct Custody {
    dir: PathBuf,
    disk: Disk,
    signer: Option<Signer>,
}

/// The log, open for this writer alone until it is dropped.
pub(crate) struct Locked {
    file: File,
}

impl Custody {
    pub(crate) fn new(dir: &Path, disk: Disk, signer: Option<Signer>) -> Self {
        Self { dir: dir.to_owned(), disk, signer }
    }

    /// `custody.jsonl`.
    pub fn log_path(&self) -> PathBuf {
        self.dir.join("custody.jsonl")
    }

    /// `custody.head`.
    pub fn head_path(&self) -> PathBuf {
        self.dir.join("custody.head")
    }

    /// `custody.head.sig`.
    pub fn signature_path(&self) -> PathBuf {
        self.dir.join("custody.head.sig")
    }

    /// The log as it lies there; nothing is checked.
    pub fn read(&self) -> Result<Log, CaseError> {
        lines::read_file(&self.log_path())
    }

    /// What `custody.head` says.
    pub fn head(&self) -> Result<Head, CaseError> {
        Head::read(&self.head_path())
    }

    /// Begins the log of a new case.
    pub(crate) fn create(&self, events: &[NewEvent]) -> Result<Head, CaseError> {
        let path = self.log_path();
        let file = OpenOptions::new().append(true).read(true).create_new(true).mode(0o644).open(&path);
        let file = file.map_err(CaseError::io("begin the custody log", &path))?;
        self.write(&mut Locked { file }, &Head::of_nothing(), events)
    }

    /// Adds events: signs the head that they will make, writes them durably, then the head and its signature. Refuses to
    /// go on from a log that does not end as its head says.
    pub fn append(&self, events: &[NewEvent]) -> Result<Head, CaseError> {
        let mut log = self.lock()?;
        let (head, last) = self.tail(&mut log)?;
        if last.signer.is_some() && self.signer.is_none() {
            let why = "every event of this case is signed, so this one must be too: give the key";
            return Err(CaseError::caller("add to the custody log", self.log_path(), why));
        }
        self.write(&mut log, &head, events)
    }

    /// Waits until no other process writes.
    pub(crate) fn lock(&self) -> Result<Locked, CaseError> {
        let path = self.log_path();
        let no_follow = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or_default();
        let file = OpenOptions::new().append(true).read(true).custom_flags(no_follow).open(&path);
        let file = file.map_err(CaseError::io("open the custody log", &path))?;
        flock(&file, FlockOperation::LockExclusive)
            .map_err(|errno| CaseError::io("lock the custody log", &path)(errno.into()))?;
        Ok(Locked { file })
    }

    /// The head, and the last event of the log if the head fits it.
    fn tail(&self, log: &mut Locked) -> Result<(Head, Event), CaseError> {
        let head = self.head()?;
        let line =
            last_line(&mut log.file).map_err(CaseError::io("read the end of the custody log", self.log_path()))?;
        let found = sha256(&line);
        let event = Event::parse(&line).ok().filter(|event| found == head.hash && event.n == head.count);
        event.map(|event| (head.clone(), event)).ok_or_else(|| CaseError::Corrupt {
            on: self.log_path(),
            at: "its last line".to_owned(),
            expected: format!("event {} with SHA-256 {}", head.count, head.hash),
            found: format!(
                "SHA-256 {found}; `impound verify` says what happened, `impound case recover` mends a crash"
            ),
        })
    }

    fn write(&self, log: &mut Locked, after: &Head, events: &[NewEvent]) -> Result<Head, CaseError> {
        let (bytes, head) = self.compose(after, events)?;
        // Signed before anything is written: a wrong passphrase leaves the log as it was.
        let signature = self.sign(&head)?;
        self.disk.append(&mut log.file, &self.log_path(), &bytes)?;
        self.put_head(&head, signature.as_deref())?;
        Ok(head)
    }

    /// The lines of the events and the head that they make.
    fn compose(&self, after: &Head, events: &[NewEvent]) -> Result<(Vec<u8>, Head), CaseError> {
        let refuse = |why: String| CaseError::caller("add to the custody log", self.log_path(), why);
        let (mut bytes, mut head) = (Vec::new(), after.clone());
        for new in events {
            let event = Event {
                n: head.count.saturating_add(1),
                prev: head.hash,
                time: Timestamp::now(),
                event: new.event.clone(),
                subject: new.subject.clone(),
                digest: new.digest.clone(),
                signer: self.signer.as_ref().map(|signer| signer.fingerprint().to_owned()),
                who: new.who.clone(),
                details: new.details.clone(),
            };
            event.check().map_err(refuse)?;
            let line = event.line().map_err(|error| refuse(error.to_string()))?;
            if line.len() >= LINE_LIMIT {
                return Err(refuse(format!("the event is {} bytes long, {LINE_LIMIT} are allowed", line.len())));
            }
            head = Head { count: event.n, hash: sha256(&line) };
            bytes.extend_from_slice(&line);
            bytes.push(b'\n');
        }
        Ok((bytes, head))
    }

    /// Signs a head, if this case is signed.
    pub(crate) fn sign(&self, head: &Head) -> Result<Option<Vec<u8>>, CaseError> {
        self.signer.as_ref().map(|signer| signer.sign(&head.bytes())).transpose()
    }

    /// Puts a head and its signature into place.
    pub(crate) fn put_head(&self, head: &Head, signature: Option<&[u8]>) -> Result<(), CaseError> {
        let (head_path, signature_path) = (self.head_path(), self.signature_path());
        let head = self.disk.write_temporary(&head_path, &head.bytes(), 0o644)?;
        let signature = match signature {
            Some(bytes) => Some(self.disk.write_temporary(&signature_path, bytes, 0o644)?),
            None => None,
        };
        // Both lie ready, so that only two renames are between the old pair and the new.
        self.disk.rename_over(&head, &head_path)?;
        signature.map_or(Ok(()), |signature| self.disk.rename_over(&signature, &signature_path))
    }

    /// Cuts a torn line off the end of the log, leaving `len` bytes.
    pub(crate) fn cut(&self, log: &Locked, len: u64) -> Result<(), CaseError> {
        let attempt = || log.file.set_len(len).and_then(|()| log.file.sync_all());
        attempt().map_err(CaseError::io("cut the torn line off the custody log", self.log_path()))
    }
}

/// The last line of a file, without its newline; of a torn one what there is.
fn last_line(file: &mut File) -> std::io::Result<Vec<u8>> {
    let len = file.seek(SeekFrom::End(0))?;
    let window = (LINE_LIMIT as u64).saturating_add(1);
    file.seek(SeekFrom::Start(len.saturating_sub(window)))?;
    let mut end = Vec::new();
    file.take(window).read_to_end(&mut end)?;
    // A torn line must not pass for a whole one: it is kept as it is, and fits no head.
    let body = end.strip_suffix(b"\n").map_or_else(|| [end.as_slice(), b" (torn)"].concat(), <[u8]>::to_vec);
    let begin = body.iter().rposition(|&b| b == b'\n').map_or(0, |at| at.saturating_add(1));
    Ok(body.get(begin..).unwrap_or_default().to_vec())
}
