//! One exhibit: its tag files against the tag manifest, its payload against the manifests, its documents against each
//! other.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::log::{Logged, refused_document, unreadable};
use super::payload;
use super::signature::{self, Trust};
use super::{ExhibitReport, Finding, Options, Report};
use crate::case::bag::{self as tags, ALGORITHMS, Algorithm, TAG_MANIFEST};
use crate::case::disk::read_bounded;
use crate::case::manifest::{self, Entries, MANIFEST_LIMIT};
use crate::case::record::{self, RECORD_LIMIT, Record};
use crate::case::tree::{self, Found, Nature};
use crate::case::{CaseError, digest, names};
use crate::progress::{Progress, Task};

/// An exhibit to check.
#[derive(Debug)]
pub(super) struct Bag {
    /// Its folder, relative to what is verified.
    pub(super) below: PathBuf,
    /// The name it should have.
    pub(super) name: String,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) exhibit: ExhibitReport,
    pub(super) findings: Vec<Finding>,
    pub(super) bytes_hashed: u64,
}

/// What is known of a bag while it is checked.
pub(super) struct View<'a> {
    /// What is verified.
    pub(super) root: &'a Path,
    /// The bag below it.
    pub(super) below: &'a Path,
    /// Everything in the bag.
    pub(super) found: BTreeMap<PathBuf, Nature>,
    /// Tag files whose content is as it was sealed.
    pub(super) intact: Vec<PathBuf>,
    pub(super) task: &'a dyn Task,
    pub(super) whole: bool,
}

impl View<'_> {
    /// Where a file of the bag lies.
    pub(super) fn at(&self, path: &Path) -> PathBuf {
        self.root.join(self.below).join(path)
    }

    /// How findings name it.
    pub(super) fn named(&self, path: &Path) -> PathBuf {
        self.below.join(path)
    }

    /// Is a listed path a regular file? If not, what is wrong with it.
    pub(super) fn missing(&self, path: &Path) -> Option<Finding> {
        match self.found.get(path) {
            Some(Nature::File) => None,
            Some(nature) => Some(Finding::Replaced { file: self.named(path), nature: *nature }),
            None => Some(Finding::Removed { file: self.named(path) }),
        }
    }

    fn read_manifest(&self, name: &str, digits: usize, findings: &mut Vec<Finding>) -> Entries {
        let path = Path::new(name);
        let bytes = match read_bounded(&self.at(path), MANIFEST_LIMIT) {
            Ok(bytes) => bytes,
            Err(error) => {
                findings.push(unreadable(&self.named(path), &error));
                return Entries::new();
            }
        };
        let (entries, bad) = manifest::parse(&bytes, digits);
        let named =
            |bad: manifest::BadLine| Finding::BadManifest { file: self.named(path), line: bad.line, why: bad.why };
        findings.extend(bad.into_iter().map(named));
        entries
    }
}

/// Verifies an exhibit without its case.
pub(super) fn verify_alone(dir: &Path, options: &Options, progress: &dyn Progress) -> Result<Report, CaseError> {
    let trust = Trust::of(options, None);
    let name = record_of(&dir.join("exhibit.json")).map(|record| record.name).unwrap_or_default();
    let task = progress.begin("verifying", Some(payload_len(dir)));
    let bag = Bag { below: PathBuf::new(), name };
    let checked = check(dir, &bag, None, &trust, options, task.as_ref())?;
    let mut report = Report { findings: checked.findings, bytes: checked.bytes_hashed, ..Report::default() };
    report.signers = checked.exhibit.signer.iter().cloned().collect();
    report.exhibits.push(checked.exhibit);
    report.findings.push(Finding::WithoutCase);
    match (report.signers.is_empty(), &trust) {
        (true, Trust::Nobody) => report.findings.push(Finding::Unsigned),
        (false, Trust::Nobody | Trust::Own(_)) => report.findings.push(Finding::SelfAsserted),
        _ => {}
    }
    Ok(report)
}

fn record_of(path: &Path) -> Option<Record> {
    record::read(&read_bounded(path, RECORD_LIMIT).ok()?).ok()
}

/// Bytes below `data/`, for the progress; nothing if it cannot be read.
pub(super) fn payload_len(dir: &Path) -> u64 {
    let files = tree::walk(&dir.join("data")).unwrap_or_default();
    let len = |(path, _): &Found| dir.join("data").join(path).symlink_metadata().map_or(0, |meta| meta.len());
    files.iter().filter(|(_, nature)| *nature == Nature::File).map(len).fold(0, u64::saturating_add)
}

/// Checks all of one exhibit.
pub(super) fn check(
    root: &Path,
    bag: &Bag,
    logged: Option<&Logged>,
    trust: &Trust,
    options: &Options,
    task: &dyn Task,
) -> Result<Checked, CaseError> {
    let dir = root.join(&bag.below);
    let mut findings = Vec::new();
    let found = tree::walk(&dir).map_err(CaseError::io("list the exhibit", &dir))?.into_iter().collect();
    let mut view = View { root, below: &bag.below, found, intact: Vec::new(), task, whole: options.whole };
    let event = logged.and_then(|logged| logged.sealed.get(&bag.name));
    check_tag_manifest(&view, bag, event.map(|event| event.digest.as_str()), &mut findings);
    let tags = check_tags(&mut view, &mut findings);
    let payload = check_completeness(&view, &tags, &mut findings);
    check_bagit(&view, &mut findings);
    let record = check_record(&view, bag, logged, &mut findings);
    findings.extend(payload::check_documents(&view, record.as_ref(), &payload));
    let (changed, bytes_hashed) = payload::check_content(&view, record.as_ref(), &payload);
    findings.extend(changed);
    let manifest_path = bag.below.join(TAG_MANIFEST);
    let mut signer = None;
    if dir.join(TAG_MANIFEST).is_file() {
        let logged = event.and_then(|event| event.signer.as_deref());
        let seen = signature::check(root, &manifest_path, trust, logged)?;
        findings.extend(seen.finding);
        signer = seen.by;
    }
    let intact = !findings.iter().any(Finding::is_failure);
    let outcome = record.as_ref().map(|record| record.outcome.clone());
    if let Some(outcome) = outcome.as_ref().filter(|outcome| !outcome.is_complete()) {
        let why = outcome.why().unwrap_or_default().to_owned();
        findings.push(Finding::NotComplete { exhibit: bag.name.clone(), outcome: outcome.name(), why });
    }
    let bytes = record.map_or(0, |record| record.stored.iter().fold(0, |sum: u64, file| sum.saturating_add(file.len)));
    let exhibit = ExhibitReport { name: bag.name.clone(), outcome, bytes, intact, signer };
    Ok(Checked { exhibit, findings, bytes_hashed })
}

/// Is the tag manifest the one that the log names?
fn check_tag_manifest(view: &View<'_>, bag: &Bag, logged: Option<&str>, findings: &mut Vec<Finding>) {
    let Some(expected) = logged else { return };
    // Absence is found where it is read.
    let bytes = read_bounded(&view.at(Path::new(TAG_MANIFEST)), MANIFEST_LIMIT);
    if bytes.is_ok_and(|bytes| digest::sha256(&bytes) != expected) {
        findings.push(Finding::ExhibitExchanged { exhibit: bag.name.clone() });
    }
}

/// Checks every tag file, and answers what the tag manifest lists.
fn check_tags(view: &mut View<'_>, findings: &mut Vec<Finding>) -> Entries {
    let listed = view.read_manifest(TAG_MANIFEST, 64, findings);
    let judged: Vec<_> = listed
        .par_iter()
        .map(|(path, expected)| {
            if let Some(finding) = view.missing(path) {
                return Err(finding);
            }
            match digest::file::<sha2::Sha256>(&view.at(path), view.task) {
                Ok((_, found)) if found == *expected => Ok(path.clone()),
                Ok(_) => Err(Finding::Changed { file: view.named(path), ranges: Vec::new() }),
                Err(error) => Err(unreadable(&view.named(path), &error)),
            }
        })
        .collect();
    for judged in judged {
        match judged {
            Ok(path) => view.intact.push(path),
            Err(finding) => findings.push(finding),
        }
    }
    listed
}

/// Everything in the bag is listed, and everything listed is there. Answers the payload of record.
fn check_completeness(view: &View<'_>, tags: &Entries, findings: &mut Vec<Finding>) -> Entries {
    let algorithm: &Algorithm = &ALGORITHMS[0];
    let payload = view.read_manifest(algorithm.manifest, algorithm.digits, findings);
    for path in payload.keys().filter(|path| !path.starts_with("data")) {
        let why = format!("it lists {} as payload, which is not below data/", names::Shown(path));
        findings.push(Finding::Disagrees { file: view.named(Path::new(algorithm.manifest)), why });
    }
    for (path, nature) in &view.found {
        let listed = if path.starts_with("data") { payload.contains_key(path) } else { tags.contains_key(path) };
        let expected = match nature {
            // What is listed as a file and is none is named where the file is looked for.
            _ if listed || tags::is_unlisted(path) && *nature == Nature::File => true,
            Nature::Folder => true,
            Nature::EmptyFolder => path == Path::new("data"),
            _ => false,
        };
        if !expected {
            findings.push(Finding::Added { file: view.named(path), nature: *nature });
        }
    }
    payload
}

fn check_bagit(view: &View<'_>, findings: &mut Vec<Finding>) {
    let path = Path::new("bagit.txt");
    let file = view.named(path);
    match read_bounded(&view.at(path), 4096) {
        Ok(bytes) if bytes == tags::BAGIT => {}
        Ok(bytes) => {
            let found = String::from_utf8_lossy(&bytes).lines().next().unwrap_or_default().to_owned();
            findings.push(Finding::UnknownSchema { file, found, known: "BagIt-Version: 1.0" });
        }
        Err(error) => findings.push(unreadable(&file, &error)),
    }
}

/// Reads `exhibit.json` and asks whether it is that of this exhibit and of this log.
fn check_record(view: &View<'_>, bag: &Bag, logged: Option<&Logged>, findings: &mut Vec<Finding>) -> Option<Record> {
    let path = Path::new("exhibit.json");
    let bytes = read_bounded(&view.at(path), RECORD_LIMIT).map_err(|error| unreadable(&view.named(path), &error));
    let record =
        bytes.and_then(|bytes| record::read(&bytes).map_err(|refused| refused_document(&view.named(path), refused)));
    let record = match record {
        Ok(record) => record,
        Err(finding) => {
            findings.push(finding);
            return None;
        }
    };
    if record.name != bag.name {
        let why = format!("it is that of exhibit {}: renamed or copied", record.name);
        findings.push(Finding::Disagrees { file: view.named(path), why });
    }
    if let (Some(logged), Some(head)) = (logged, &record.custody)
        && !logged.contains(head)
    {
        findings.push(Finding::LogRolledBack { exhibit: bag.name.clone(), count: head.count });
    }
    Some(record)
}
