//! The folder of a case: making it, opening it, and what is done to it as a whole.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::json;

use super::custody::{Custody, EventKind, Head, NewEvent};
use super::disk::{Disk, read_bounded};
use super::exhibit::{Draft, PARTIAL};
use super::journal::{RunInfo, RunJournal, WireFile};
use super::sign::ALLOWED_SIGNERS;
use super::sign::Signer;
use super::verify::{Options, Report, verify};
use super::{CaseError, CaseInfo, digest, names, schema};
use crate::progress::Progress;

/// The program that checks a case without us; a copy lies in each.
pub const VERIFY_SH: &str = include_str!("verify.sh");
/// Longest `case.json` and `allowed_signers`, in bytes.
const SMALL: u64 = 1 << 20;

/// A case. Cheap to clone; every change takes a lock on the log.
#[derive(Debug, Clone)]
pub struct Case {
    dir: PathBuf,
    info: Arc<CaseInfo>,
    pub(crate) disk: Disk,
    pub(crate) signer: Option<Signer>,
}

impl Case {
    /// Makes a new case in a folder that is not there or empty. `case.json` comes last: without it there is no case.
    pub fn create(dir: impl AsRef<Path>, info: &CaseInfo, signer: Option<Signer>) -> Result<Self, CaseError> {
        Self::create_on(Disk::default(), dir.as_ref(), info, signer)
    }

    pub(crate) fn create_on(
        disk: Disk,
        dir: &Path,
        info: &CaseInfo,
        signer: Option<Signer>,
    ) -> Result<Self, CaseError> {
        if !dir.exists() {
            disk.make_dir(dir)?;
        }
        if fs::read_dir(dir).map_err(CaseError::io("make a case", dir))?.next().is_some() {
            let why = "the folder is not empty; a case begins in a new one";
            return Err(CaseError::caller("make a case", dir, why));
        }
        let case = Self { dir: dir.to_owned(), info: Arc::new(info.clone()), disk, signer };
        case.disk.make_dir(&case.exhibits())?;
        case.disk.make_dir(&case.journals())?;
        let json = schema::write(info, &dir.join("case.json"))?;
        let kept = |name: &str, bytes: &[u8]| {
            NewEvent::new(EventKind::Kept, &info.examiner).to(name).digest(digest::sha256(bytes))
        };
        let opened = NewEvent::new(EventKind::CaseOpened, &info.examiner)
            .details(json!({"number": info.number, "authority": info.authority, "goals": info.goals}));
        let mut events = vec![opened, kept("case.json", &json), kept("verify.sh", VERIFY_SH.as_bytes())];
        case.disk.write_new_script(&dir.join("verify.sh"), VERIFY_SH.as_bytes())?;
        if let Some(signer) = &case.signer {
            let line = signer.allowed_line(&info.examiner);
            case.disk.write_new(&dir.join(ALLOWED_SIGNERS), line.as_bytes())?;
            events.push(kept(ALLOWED_SIGNERS, line.as_bytes()));
        }
        case.custody().create(&events)?;
        case.disk.write_new(&dir.join("case.json"), &json)?;
        Ok(case)
    }

    /// Opens a case. Nothing is verified.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, CaseError> {
        Self::open_on(Disk::default(), dir.as_ref())
    }

    pub(crate) fn open_on(disk: Disk, dir: &Path) -> Result<Self, CaseError> {
        let path = dir.join("case.json");
        let bytes = read_bounded(&path, SMALL).map_err(CaseError::io("open the case", &path))?;
        let info: CaseInfo = schema::read(&bytes, schema::CASE).map_err(|refused| refused.of(&path))?;
        Ok(Self { dir: dir.to_owned(), info: Arc::new(info), disk, signer: None })
    }

    /// Opens the case if there is one, makes it otherwise.
    pub fn open_or_create(dir: impl AsRef<Path>, info: &CaseInfo, signer: Option<Signer>) -> Result<Self, CaseError> {
        let dir = dir.as_ref();
        if fs::symlink_metadata(dir.join("case.json")).is_err() {
            return Self::create(dir, info, signer);
        }
        let case = Self::open(dir)?;
        match signer {
            Some(signer) => case.signed_by(signer, &info.examiner),
            None => Ok(case),
        }
    }

    /// Signs every event and exhibit from now on. A key that is new to the case is added to `allowed_signers`; the event
    /// that says so, with the line itself, comes first.
    pub fn signed_by(mut self, signer: Signer, who: &str) -> Result<Self, CaseError> {
        let path = self.dir.join(ALLOWED_SIGNERS);
        let mut text = match read_bounded(&path, SMALL) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(CaseError::io("read the keys of the case", &path)(error)),
        };
        let line = signer.allowed_line(who);
        self.signer = Some(signer);
        if !text.split(|&b| b == b'\n').any(|old| old == line.trim_end().as_bytes()) {
            text.extend_from_slice(line.as_bytes());
            let event = NewEvent::new(EventKind::Kept, who).to(ALLOWED_SIGNERS).digest(digest::sha256(&text));
            self.custody().append(&[event.details(json!({"line": line}))])?;
            let temporary = self.disk.write_temporary(&path, &text, 0o444)?;
            self.disk.rename_over(&temporary, &path)?;
        }
        Ok(self)
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What `case.json` says.
    pub fn info(&self) -> &CaseInfo {
        &self.info
    }

    /// The folder of the exhibits.
    pub fn exhibits(&self) -> PathBuf {
        self.dir.join("exhibits")
    }

    /// The folder of the journals.
    pub(crate) fn journals(&self) -> PathBuf {
        self.dir.join("journal")
    }

    /// The custody log.
    pub fn custody(&self) -> Custody {
        Custody::new(&self.dir, self.disk.clone(), self.signer.clone())
    }

    /// Begins an exhibit. Its name is made of these, made safe; a counter is added where the name is taken.
    pub fn draft(&self, target: &str, item: &str, at: Timestamp) -> Result<Draft, CaseError> {
        let base = names::exhibit(target, item, at);
        let log = self.custody().read()?;
        for counter in 1..10_000u32 {
            let name = if counter == 1 { base.clone() } else { format!("{base}-{counter}") };
            let logged = log.events().any(|event| event.subject.as_deref() == Some(&name));
            let there = |name: &str| fs::symlink_metadata(self.exhibits().join(name)).is_ok();
            if !logged && !there(&name) && !there(&format!("{name}{PARTIAL}")) {
                return Draft::begin(self, name);
            }
        }
        Err(CaseError::caller("begin an exhibit", self.exhibits().join(base), "ten thousand have that name already"))
    }

    /// Begins the journal of a run.
    pub fn journal(&self, run: &RunInfo) -> Result<RunJournal, CaseError> {
        RunJournal::begin(self, run)
    }

    /// Begins the log of everything a run says to the hypervisor.
    pub fn wire_log(&self, run: &RunInfo) -> Result<WireFile, CaseError> {
        WireFile::begin(self, run)
    }

    /// Writes down that an item could not be taken.
    pub fn not_taken(&self, run: &str, item: &str, why: &str, who: &str) -> Result<Head, CaseError> {
        let event = NewEvent::new(EventKind::NotTaken, who).to(names::safe(item));
        self.custody().append(&[event.details(json!({"run": run, "item": item, "why": why}))])
    }

    /// Writes down that a copy of something was made in another format. `subject` is the exhibit, or the name of the file;
    /// `sha256` that of the copy.
    pub fn note_export(
        &self,
        subject: &str,
        sha256: &str,
        details: serde_json::Value,
        who: &str,
    ) -> Result<Head, CaseError> {
        let event = NewEvent::new(EventKind::Exported, who).to(subject).digest(sha256.to_owned());
        self.custody().append(&[event.details(details)])
    }

    /// Writes something down.
    pub fn note(&self, text: &str, who: &str) -> Result<Head, CaseError> {
        self.custody().append(&[NewEvent::new(EventKind::Note, who).details(json!({"text": text}))])
    }

    /// Hashes all of it again and writes down that it was handed over. The answer is what the receiver should keep apart
    /// from the case: with it even a log that was rolled back together with its head is seen.
    pub fn transfer(&self, to: &str, purpose: &str, who: &str, progress: &dyn Progress) -> Result<Head, CaseError> {
        let report = verify(&self.dir, &Options::default(), progress)?;
        if let Some(finding) = report.findings.iter().find(|finding| finding.is_failure()) {
            let why = format!("it does not verify: {finding}");
            return Err(CaseError::caller("hand the case over", &self.dir, why));
        }
        let before = self.custody().head()?;
        let details = json!({
            "to": to, "purpose": purpose, "events": before.count, "exhibits": report.exhibits.len(), "bytes": report.bytes,
        });
        let event = NewEvent::new(EventKind::Transferred, who).digest(before.hash);
        self.custody().append(&[event.details(details)])
    }

    /// Writes down that the case was verified and what came of it.
    pub fn note_verification(&self, report: &Report, who: &str) -> Result<Head, CaseError> {
        let details = json!({
            "exit": report.exit_code(), "exhibits": report.exhibits.len(), "bytes": report.bytes,
            "findings": report.findings.iter().take(64).map(ToString::to_string).collect::<Vec<_>>(),
        });
        self.custody().append(&[NewEvent::new(EventKind::Verified, who).details(details)])
    }
}
