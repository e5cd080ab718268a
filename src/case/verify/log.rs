//! The custody log, its head and the head's signature.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::signature::{self, Trust};
use super::{Finding, Options};
use crate::case::CaseError;
use crate::case::custody::{Entry, EventKind, HEAD_LIMIT, Head, Log, check_chain, read_log};
use crate::case::disk::{open_plain, read_bounded};
use crate::case::schema::Refused;

/// What the log says of the case.
#[derive(Debug, Default)]
pub(super) struct Logged {
    /// The lines.
    pub(super) log: Log,
    /// Digest of each file that was kept.
    pub(super) kept: BTreeMap<PathBuf, String>,
    /// Each sealed exhibit.
    pub(super) sealed: BTreeMap<String, SealedEvent>,
    /// The head, if it could be read.
    pub(super) head: Option<Head>,
    /// Who signed the head.
    pub(super) signer: Option<String>,
}

/// What the log says of one exhibit.
#[derive(Debug, Clone)]
pub(super) struct SealedEvent {
    /// SHA-256 of its tag manifest.
    pub(super) digest: String,
    /// Fingerprint of the key that signed it.
    pub(super) signer: Option<String>,
}

impl Logged {
    /// Does the log contain this head?
    pub(super) fn contains(&self, head: &Head) -> bool {
        let is_it = |entry: &Entry| entry.event.as_ref().is_ok_and(|event| event.n == head.count);
        self.log.entries.iter().any(|entry| entry.hash == head.hash && is_it(entry))
    }
}

/// Reads and checks all of it.
pub(super) fn check(
    dir: &Path,
    options: &Options,
    trust: &Trust,
    findings: &mut Vec<Finding>,
) -> Result<Logged, CaseError> {
    let (log_path, head_path) = (Path::new("custody.jsonl"), Path::new("custody.head"));
    let mut logged = Logged::default();
    match open_plain(&dir.join(log_path)).and_then(read_log) {
        Ok(log) => logged.log = log,
        Err(error) => findings.push(unreadable(log_path, &error)),
    }
    findings.extend(check_chain(&logged.log).into_iter().map(Finding::Log));
    collect(&mut logged);
    match read_bounded(&dir.join(head_path), HEAD_LIMIT) {
        Err(error) => findings.push(unreadable(head_path, &error)),
        Ok(bytes) => match Head::parse(&bytes) {
            Ok(head) => {
                findings.extend(compare(&logged, &head));
                logged.head = Some(head);
            }
            Err(refused) => findings.push(refused_document(head_path, refused)),
        },
    }
    if let Some(expected) = options.head.as_ref().filter(|expected| !logged.contains(expected)) {
        findings.push(Finding::HeadUnexpected { count: expected.count });
    }
    // Once signed, always signed: who cuts the signature off cannot also take it out of the lines.
    let last = logged.log.events().last().and_then(|event| event.signer.clone());
    let any = logged.log.events().filter_map(|event| event.signer.clone()).last();
    if logged.head.is_some() {
        let signed = signature::check(dir, head_path, trust, last.or(any).as_deref())?;
        findings.extend(signed.finding);
        logged.signer = signed.by;
    }
    Ok(logged)
}

/// Where one file or exhibit is named more than once, the last word counts.
fn collect(logged: &mut Logged) {
    for event in logged.log.events() {
        let (Some(subject), Some(digest)) = (&event.subject, &event.digest) else { continue };
        match event.event {
            EventKind::Kept => drop(logged.kept.insert(PathBuf::from(subject), digest.clone())),
            EventKind::Sealed => {
                let sealed = SealedEvent { digest: digest.clone(), signer: event.signer.clone() };
                logged.sealed.insert(subject.clone(), sealed);
            }
            _ => {}
        }
    }
}

fn compare(logged: &Logged, head: &Head) -> Option<Finding> {
    // By the numbers of the events, not of the lines: lines missing from the middle are another finding.
    let found = logged.log.events().map(|event| event.n).max().unwrap_or_default();
    if head.count > found {
        return Some(Finding::LogCut { head: head.count, found });
    }
    if !logged.contains(head) {
        return Some(Finding::HeadDisagrees { count: head.count });
    }
    (head.count < found).then_some(Finding::LogAhead { head: head.count, found })
}

/// A file that could not be read is gone, or is there and nothing is known of it.
pub(super) fn unreadable(file: &Path, error: &std::io::Error) -> Finding {
    match error.kind() {
        std::io::ErrorKind::NotFound => Finding::Removed { file: file.to_owned() },
        _ => Finding::Unreadable { file: file.to_owned(), why: error.to_string() },
    }
}

/// A document that its reader refused.
pub(super) fn refused_document(file: &Path, refused: Refused) -> Finding {
    let file = file.to_owned();
    match refused {
        Refused::Schema { found, known } => Finding::UnknownSchema { file, found, known },
        content @ Refused::Content { .. } => Finding::Malformed { file, why: content.to_string() },
    }
}
