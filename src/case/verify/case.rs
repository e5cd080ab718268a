//! A whole case: the log, the files it keeps, the exhibits it sealed, and that nothing else is there.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::bag::{self, Bag};
use super::log::{self, Logged, unreadable};
use super::signature::Trust;
use super::{ExhibitReport, Finding, Options, Report};
use crate::case::disk::{is_temporary, read_bounded};
use crate::case::exhibit::PARTIAL;
use crate::case::tree::{self, Found, Nature};
use crate::case::{CaseError, CaseInfo, digest, journal, names, schema};
use crate::progress::{Progress, Task};

/// Longest `case.json`, in bytes.
const CASE_LIMIT: u64 = 1 << 20;

/// Verifies the case at `dir`.
pub(super) fn verify(dir: &Path, options: &Options, progress: &dyn Progress) -> Result<Report, CaseError> {
    let trust = Trust::of(options, Some(dir));
    let mut report = Report::default();
    let logged = log::check(dir, options, &trust, &mut report.findings)?;
    check_info(dir, &mut report.findings);
    check_runs(&logged, &mut report.findings);
    let root = list(dir, Path::new(""), &mut report.findings);
    for (path, nature) in &root {
        check_root(path, *nature, &logged, &mut report.findings);
    }
    let journals = list(dir, Path::new("journal"), &mut report.findings);
    for (path, nature) in &journals {
        check_journal(path, *nature, &logged, &mut report.findings);
    }
    let bags = exhibits(dir, &logged, &mut report.findings);
    let total = bags.iter().map(|bag| bag::payload_len(&dir.join(&bag.below))).fold(0u64, u64::saturating_add);
    let task = progress.begin("verifying", Some(total));
    check_kept(dir, &logged, task.as_ref(), &mut report.findings);
    let checked: Vec<_> =
        bags.par_iter().map(|bag| bag::check(dir, bag, Some(&logged), &trust, options, task.as_ref())).collect();
    for checked in checked {
        let checked = checked?;
        report.findings.extend(checked.findings);
        report.bytes = report.bytes.saturating_add(checked.bytes_hashed);
        report.exhibits.push(checked.exhibit);
    }
    say_trust(&trust, &logged, &mut report);
    report.head = logged.head;
    Ok(report)
}

fn check_info(dir: &Path, findings: &mut Vec<Finding>) {
    let file = Path::new("case.json");
    match read_bounded(&dir.join(file), CASE_LIMIT) {
        Err(error) => findings.push(unreadable(file, &error)),
        Ok(bytes) => {
            if let Err(refused) = schema::read::<CaseInfo>(&bytes, schema::CASE) {
                findings.push(log::refused_document(file, refused));
            }
        }
    }
}

fn check_runs(logged: &Logged, findings: &mut Vec<Finding>) {
    let open = journal::unended(&logged.log).into_iter().filter_map(|event| event.subject.clone());
    findings.extend(open.map(|run| Finding::OpenRun { run }));
}

/// The names in a folder of the case, sorted, with their path in the case.
fn list(dir: &Path, below: &Path, findings: &mut Vec<Finding>) -> Vec<Found> {
    match tree::children(&dir.join(below)) {
        Ok(found) => {
            let mut found: Vec<_> = found.into_iter().map(|(name, nature)| (below.join(name), nature)).collect();
            found.sort();
            found
        }
        Err(error) => {
            findings.push(unreadable(below, &error));
            Vec::new()
        }
    }
}

fn check_root(path: &Path, nature: Nature, logged: &Logged, findings: &mut Vec<Finding>) {
    let is = |names: &[&str]| names.iter().any(|name| path == Path::new(name));
    let file =
        is(&["case.json", "custody.jsonl", "custody.head", "custody.head.sig"]) || logged.kept.contains_key(path);
    let folder = is(&["exhibits", "journal"]);
    let owned = path.to_owned();
    match nature {
        Nature::File if file => {}
        Nature::Folder if folder => {}
        Nature::File if is_temporary(path) => findings.push(Finding::Leftover { file: owned }),
        _ if file => findings.push(Finding::Replaced { file: owned, nature }),
        _ => findings.push(Finding::Added { file: owned, nature }),
    }
}

/// A file of the journals is kept, or belongs to a run that began and did not end.
fn check_journal(path: &Path, nature: Nature, logged: &Logged, findings: &mut Vec<Finding>) {
    let open = |run: &str| journal::unended(&logged.log).iter().any(|event| event.subject.as_deref() == Some(run));
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let run = name.strip_suffix(".wire.jsonl").or_else(|| name.strip_suffix(".jsonl"));
    let known = logged.kept.contains_key(path) || run.is_some_and(open);
    match nature {
        Nature::File if known => {}
        _ if known => findings.push(Finding::Replaced { file: path.to_owned(), nature }),
        _ => findings.push(Finding::Added { file: path.to_owned(), nature }),
    }
}

fn check_kept(dir: &Path, logged: &Logged, task: &dyn Task, findings: &mut Vec<Finding>) {
    for (path, expected) in &logged.kept {
        // The log is not yet known to be good here: a path in it must not lead out of the case.
        if !crate::case::manifest::stays_inside(path) {
            let why = format!("it keeps {}, which leads out of the case", path.display());
            findings.push(Finding::Malformed { file: PathBuf::from("custody.jsonl"), why });
            continue;
        }
        match digest::file::<sha2::Sha256>(&dir.join(path), task) {
            Ok((_, found)) if found == *expected => {}
            Ok(_) => findings.push(Finding::Changed { file: path.clone(), ranges: Vec::new() }),
            Err(error) => findings.push(unreadable(path, &error)),
        }
    }
}

/// Sorts the folders under `exhibits/` into bags to check and findings.
fn exhibits(dir: &Path, logged: &Logged, findings: &mut Vec<Finding>) -> Vec<Bag> {
    let found = list(dir, Path::new("exhibits"), findings);
    let name = |path: &Path| path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    let there = |exhibit: &str| found.iter().any(|(path, nature)| name(path) == exhibit && *nature == Nature::Folder);
    let mut bags = Vec::new();
    for (path, nature) in &found {
        let name = name(path);
        let draft = name.strip_suffix(PARTIAL).filter(|draft| names::is_safe(draft) && !there(draft));
        match (nature, draft) {
            (Nature::Folder, _) if logged.sealed.contains_key(&name) => {
                bags.push(Bag { below: path.clone(), name });
            }
            (Nature::Folder, Some(draft)) => {
                let logged = logged.sealed.contains_key(draft);
                findings.push(Finding::Unsealed { exhibit: draft.to_owned(), logged });
                if logged {
                    bags.push(Bag { below: path.clone(), name: draft.to_owned() });
                }
            }
            (Nature::Folder, None) => findings.push(Finding::ExhibitUnlogged { exhibit: path.clone() }),
            _ => findings.push(Finding::Added { file: path.clone(), nature: *nature }),
        }
    }
    let missing = logged.sealed.keys().filter(|name| !there(name) && !there(&format!("{name}{PARTIAL}")));
    findings.extend(missing.map(|name| Finding::ExhibitMissing { exhibit: name.clone() }));
    bags
}

fn say_trust(trust: &Trust, logged: &Logged, report: &mut Report) {
    let by = report.exhibits.iter().filter_map(|exhibit: &ExhibitReport| exhibit.signer.clone());
    let mut signers: Vec<_> = by.chain(logged.signer.clone()).collect();
    signers.sort();
    signers.dedup();
    match trust {
        _ if signers.is_empty() && !report.findings.iter().any(is_of_signature) => {
            report.findings.push(Finding::Unsigned);
        }
        Trust::Own(_) | Trust::Nobody => report.findings.push(Finding::SelfAsserted),
        Trust::Given(_) => {}
    }
    report.signers = signers;
}

fn is_of_signature(finding: &Finding) -> bool {
    matches!(finding, Finding::SignatureMissing { .. } | Finding::BadSignature { .. } | Finding::WrongSigner { .. })
}
