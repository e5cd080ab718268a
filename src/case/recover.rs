//! Puts in order what a killed run left in a case. What can only be somebody's hand is refused; what could be either is
//! said line by line, and the log keeps that it was recovered and what.
//!
//! The hypervisor's side comes from [`super::open_runs`] and the backend; [`close_run`] then closes the run's journal.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::custody::{Break, Custody, EventKind, Head, Log, NewEvent, check_chain};
use super::disk::{is_temporary, read_bounded};
use super::exhibit::{Draft, INTENT, PARTIAL};
use super::folder::ALLOWED_SIGNERS;
use super::manifest::MANIFEST_LIMIT;
use super::record::{Digests, Outcome, RECORD_LIMIT, Record, Stored};
use super::sign::{Seen, look};
use super::tree::{self, Nature};
use super::{Case, CaseError, bag, digest, journal, names, record};
use crate::progress::{Progress, Task};

/// What to do with drafts that no run writes any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drafts {
    /// Leave them, to be resumed.
    Keep,
    /// Seal what is there as interrupted. Their files are read to be hashed.
    Seal,
}

/// Mends the log, its head and signature, finishes exhibits that are sealed but not named, and seals drafts if asked to.
/// Answers what was done, a line each.
pub fn recover(case: &Case, who: &str, drafts: Drafts, progress: &dyn Progress) -> Result<Vec<String>, CaseError> {
    let mut did = mend_log(&case.custody())?;
    did.extend(remove_temporary(case)?);
    let log = case.custody().read()?;
    did.extend(mend_signers(case, &log)?);
    let task = progress.begin("recovering", None);
    for name in partials(case)? {
        did.extend(finish(case, &log, &name, drafts, task.as_ref())?);
    }
    if !did.is_empty() {
        case.custody().append(&[NewEvent::new(EventKind::Recovered, who).details(json!({ "did": did }))])?;
    }
    Ok(did)
}

/// Writes down that a killed run is over, and what its backend undid.
pub fn close_run(case: &Case, run: &str, who: &str, undone: &[String]) -> Result<Head, CaseError> {
    journal::close(case, run, who, Some(undone))
}

/// A log may be ahead of its head by what one killed run was adding, and its last line may be torn. No more than that.
fn mend_log(custody: &Custody) -> Result<Vec<String>, CaseError> {
    let mut did = Vec::new();
    let lock = custody.lock()?;
    let log = custody.read()?;
    let refuse = |why: String| CaseError::caller("mend the custody log", custody.log_path(), why);
    if let Some(other) = check_chain(&log).iter().find(|found| !matches!(found, Break::Torn { .. })) {
        return Err(refuse(format!("no crash does this, look at it with `impound verify`: {other}")));
    }
    let head = custody.head()?;
    let fits = head.count.checked_sub(1).and_then(|at| log.entries.get(usize::try_from(at).ok()?));
    if fits.is_none_or(|entry| entry.hash != head.hash) {
        return Err(refuse("its head is not that of any of its lines: no crash does this".to_owned()));
    }
    if let Some(torn) = &log.torn {
        let len = fs::metadata(custody.log_path()).map_err(CaseError::io("measure the log", custody.log_path()))?.len();
        custody.cut(&lock, len.saturating_sub(torn.len() as u64))?;
        did.push(format!("cut a torn line of {} bytes off the custody log", torn.len()));
    }
    let now = log.entries.last().map(|last| Head { count: log.entries.len() as u64, hash: last.hash.clone() });
    let now = now.unwrap_or_else(|| head.clone());
    let ahead = log.events().filter(|event| event.n > head.count);
    did.extend(ahead.map(|event| format!("took event {} ({}) into the head", event.n, event.event)));
    let signed = log.events().last().is_some_and(|event| event.signer.is_some());
    let good = || matches!(look(&custody.head_path(), &custody.signature_path()), Ok(Seen::Good(_)));
    if now == head && (!signed || good()) {
        return Ok(did);
    }
    let signature = custody.sign(&now)?;
    if signed && signature.is_none() {
        return Err(refuse("its head has to be signed again: give the key".to_owned()));
    }
    if now == head {
        did.push("signed the head of the custody log again".to_owned());
    }
    custody.put_head(&now, signature.as_deref())?;
    Ok(did)
}

fn remove_temporary(case: &Case) -> Result<Vec<String>, CaseError> {
    let found = tree::children(case.dir()).map_err(CaseError::io("list the case", case.dir()))?;
    let mut did = Vec::new();
    for (name, _) in found.iter().filter(|(name, nature)| *nature == Nature::File && is_temporary(name)) {
        let path = case.dir().join(name);
        fs::remove_file(&path).map_err(CaseError::io("remove a half-made file", &path))?;
        did.push(format!("removed the half-made file {}", names::Shown(name)));
    }
    Ok(did)
}

/// The event that adds a key carries its line, so that the file can be finished from the log.
fn mend_signers(case: &Case, log: &Log) -> Result<Option<String>, CaseError> {
    let path = case.dir().join(ALLOWED_SIGNERS);
    let last =
        log.events().filter(|e| e.event == EventKind::Kept && e.subject.as_deref() == Some(ALLOWED_SIGNERS)).last();
    let Some((event, line)) = last.and_then(|event| Some((event, event.details.get("line")?.as_str()?))) else {
        return Ok(None);
    };
    let mut text = read_bounded(&path, 1 << 20).unwrap_or_default();
    if event.digest.as_deref() == Some(&digest::sha256(&text)) {
        return Ok(None);
    }
    text.extend_from_slice(line.as_bytes());
    // Anything else is damage, and for verify to name.
    if event.digest.as_deref() != Some(&digest::sha256(&text)) {
        return Ok(None);
    }
    let temporary = case.disk.write_temporary(&path, &text, 0o444)?;
    case.disk.rename_over(&temporary, &path)?;
    Ok(Some("added the key that the log announces to allowed_signers".to_owned()))
}

/// Names of the drafts, without their ending.
pub(super) fn partials(case: &Case) -> Result<Vec<String>, CaseError> {
    let found = tree::children(&case.exhibits()).map_err(CaseError::io("list the exhibits", case.exhibits()))?;
    let folders = found.into_iter().filter(|(_, nature)| *nature == Nature::Folder);
    let mut names: Vec<_> =
        folders.filter_map(|(name, _)| Some(name.to_str()?.strip_suffix(PARTIAL)?.to_owned())).collect();
    names.sort();
    Ok(names)
}

fn finish(case: &Case, log: &Log, name: &str, drafts: Drafts, task: &dyn Task) -> Result<Option<String>, CaseError> {
    // A live run still holds it, or its name is none: verify tells.
    let Ok(draft) = Draft::reopen(case, name) else { return Ok(None) };
    let sealed = log.events().filter(|e| e.event == EventKind::Sealed && e.subject.as_deref() == Some(name)).last();
    if let Some(event) = sealed {
        let bytes = read_bounded(&draft.dir().join(bag::TAG_MANIFEST), MANIFEST_LIMIT).unwrap_or_default();
        if event.digest.as_deref() != Some(&digest::sha256(&bytes)) {
            return Ok(None);
        }
        case.disk.rename_new(draft.dir(), &case.exhibits().join(name))?;
        return Ok(Some(format!("gave the sealed exhibit {name} its name")));
    }
    if drafts == Drafts::Keep {
        return Ok(None);
    }
    let Some(mut record) = intended(draft.dir())? else {
        // Killed before it was known what it was to become. With something in it, it is left for a person to look at.
        let empty = tree::walk(draft.dir()).is_ok_and(|found| found.iter().all(|(_, n)| *n == Nature::EmptyFolder));
        let took = |()| Some(format!("took away the empty draft {name}"));
        return if empty { draft.discard().map(took) } else { Ok(None) };
    };
    let mut stored = hash_payload(draft.dir(), task)?;
    let key = |file: &Stored| (file.path.clone(), file.len, file.digests.sha256.clone());
    let recorded: BTreeSet<_> = record.stored.iter().map(key).collect();
    if !stored.is_empty() && stored.iter().map(key).collect::<BTreeSet<_>>() == recorded {
        // Killed while it was being sealed: all that was captured is there as it was written.
        stored.clone_from(&record.stored);
    } else {
        record.outcome = Outcome::Interrupted { why: "the run was killed; sealed by recover".to_owned() };
    }
    let wire = case.journals().join(format!("{}.wire.jsonl", record.run));
    let wire = Some(wire.as_path()).filter(|wire| names::is_safe(&record.run) && wire.is_file());
    let outcome = record.outcome.name();
    draft.seal(record, stored, wire)?;
    Ok(Some(format!("sealed what was captured of {name} as {outcome}")))
}

/// What a draft was to become: as it was being sealed, else as it was intended.
fn intended(dir: &Path) -> Result<Option<Record>, CaseError> {
    for path in [dir.join("exhibit.json"), dir.join(INTENT)] {
        match read_bounded(&path, RECORD_LIMIT) {
            Ok(bytes) => return record::read(&bytes).map(Some).map_err(|refused| refused.of(&path)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(CaseError::io("read what the draft was to become", &path)(error)),
        }
    }
    Ok(None)
}

/// Hashes what is under `data/` as it lies there: nobody else can say any more what was written.
fn hash_payload(dir: &Path, task: &dyn Task) -> Result<Vec<Stored>, CaseError> {
    let found = tree::walk(&dir.join("data")).map_err(CaseError::io("list the payload", dir))?;
    let files = found.into_iter().filter(|(_, nature)| *nature == Nature::File);
    files
        .map(|(path, _)| {
            let path = PathBuf::from("data").join(path);
            let hashed = digest::file::<sha2::Sha256>(&dir.join(&path), task);
            let (len, sha256) = hashed.map_err(CaseError::io("hash the file", dir.join(&path)))?;
            Ok(Stored { path, len, blocks: None, digests: Digests { sha256, ..Digests::default() } })
        })
        .collect()
}
