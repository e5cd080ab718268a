//! Cuts the power after every single step of making a case, sealing an exhibit and adding to the log, and looks at what
//! lies there then: it is either whole, or `verify` names what is unfinished and `recover` mends it. Nothing unsealed ever
//! verifies as complete.
//!
//! The cut is at the level of [`Disk`]: what the kernel was told before the cut is there (a write in progress half), what
//! was not told is not. That renames do not overtake the writes they publish is checked apart, on the order of the steps.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::Disk;
use super::disk::tests::Fuse;
use super::record::tests::sample;
use super::record::{Digests, Stored};
use super::verify::{Finding, Options, Report, verify};
use super::{Case, CaseError, CaseInfo, Drafts, RunInfo, Signer, digest, open_runs, recover};
use crate::progress::Silent;

/// A disk that stops after `limit` steps, or never.
fn disk(limit: Option<usize>) -> (Disk, Arc<Fuse>) {
    let fuse = Arc::new(Fuse { limit, ..Fuse::default() });
    (Disk { fuse: Some(Arc::clone(&fuse)) }, fuse)
}

fn key(dir: &Path) -> Signer {
    let path = dir.join("key");
    let made =
        std::process::Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&path).status();
    assert!(made.unwrap().success(), "this test needs ssh-keygen: apt install openssh-client");
    Signer::new(path).unwrap()
}

/// One whole run on a case that is there: journal, draft, seal, end, note.
fn run(disk: Disk, dir: &Path, signer: &Signer) -> Result<(), CaseError> {
    let case = Case::open_on(disk, dir)?.signed_by(signer.clone(), "Ada")?;
    let run = RunInfo { run: "r1".to_owned(), target: "fake:#web01".to_owned(), who: "Ada".to_owned() };
    let journal = case.journal(&run)?;
    let draft = case.draft("web01", "memory", "2026-11-24T10:30:00Z".parse().unwrap())?;
    draft.intend(&sample())?;
    fs::write(draft.dir().join("data/memory.raw"), b"some memory").unwrap();
    let digests = Digests { sha256: digest::sha256(b"some memory"), ..Digests::default() };
    let stored = Stored { path: "data/memory.raw".into(), len: 11, blocks: None, digests };
    draft.seal(sample(), vec![stored], Some(&dir.join("journal/r1.jsonl")))?;
    journal.end()?;
    case.note("done", "Ada").map(drop)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()));
        } else {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

fn look(dir: &Path) -> Report {
    verify(dir, &Options::default(), &Silent).unwrap()
}

fn sealed(dir: &Path) -> Vec<PathBuf> {
    let names = fs::read_dir(dir.join("exhibits")).unwrap().map(|entry| entry.unwrap().path());
    names.filter(|path| !path.to_string_lossy().ends_with(".partial")).collect()
}

#[test]
fn a_cut_anywhere_in_a_run_is_named_and_mended() {
    let base = tempfile::tempdir().unwrap();
    let signer = key(base.path());
    let empty = base.path().join("empty");
    Case::create(&empty, &CaseInfo::new("17", "Ada", "warrant"), Some(signer.clone())).unwrap();
    for limit in 0.. {
        assert!(limit < 500, "a run has fewer steps");
        let dir = base.path().join(format!("cut-{limit}"));
        copy(&empty, &dir);
        let (disk, fuse) = disk(Some(limit));
        let finished = run(disk, &dir, &signer).is_ok();
        let step = format!("{limit}: after {:?}", fuse.done.lock().unwrap().last());
        let report = look(&dir);
        if finished {
            assert_eq!((report.exit_code(), report.exhibits.len()), (0, 1), "{:?}", report.findings);
            return;
        }
        check_cut(&dir, &report, &step);
        let whole = fuse.done.lock().unwrap().iter().any(|(act, on)| *act == "rename" && on.ends_with("exhibit.json"));
        mend(&dir, &signer, whole, &step);
    }
}

/// What lies there right after the cut.
fn check_cut(dir: &Path, report: &Report, step: &str) {
    let complete = report.exit_code() == 0;
    let untouched = report.head.as_ref().is_some_and(|head| head.count == 4);
    let ended = report.exhibits.len() == 1;
    assert!(!complete || untouched || ended, "{step}: half a run verifies as complete");
    // What bears a final name is whole and logged, whatever else is unfinished.
    for path in sealed(dir) {
        let exhibit = report.exhibits.iter().find(|exhibit| path.ends_with(&exhibit.name));
        assert!(exhibit.is_some_and(|exhibit| exhibit.intact), "{step}: {}: {:?}", path.display(), report.findings);
    }
    // A crash is never taken for a changed, removed or added file of an exhibit.
    let harmless = |finding: &&Finding| match finding {
        Finding::Log(super::custody::Break::Torn { .. }) | Finding::LogAhead { .. } => true,
        Finding::BadSignature { file, .. } => file == Path::new("custody.head"),
        other => !other.is_failure(),
    };
    let other: Vec<_> = report.findings.iter().filter(|finding| !harmless(finding)).collect();
    assert!(other.is_empty(), "{step}: {other:?}");
}

/// After recovery everything is in order, and the case can be worked on.
fn mend(dir: &Path, signer: &Signer, whole: bool, step: &str) {
    let mut case = Case::open(dir).unwrap();
    case.signer = Some(signer.clone());
    recover(&case, "Ada", Drafts::Seal, &Silent).unwrap_or_else(|error| panic!("{step}: {error}"));
    for run in open_runs(&case).unwrap_or_else(|error| panic!("{step}: {error}")) {
        super::close_run(&case, &run.run, "Ada", &[]).unwrap_or_else(|error| panic!("{step}: {error}"));
    }
    let report = look(dir);
    let unfinished = report.findings.iter().all(|finding| {
        // At most an exhibit that is sealed as interrupted.
        matches!(finding, Finding::NotComplete { .. } | Finding::SelfAsserted)
    });
    assert!(unfinished, "{step}: {:?}", report.findings);
    // What was whole before the cut is not called interrupted after it.
    let partial = report.findings.iter().any(|finding| matches!(finding, Finding::NotComplete { .. }));
    assert!(!(whole && partial), "{step}: {:?}", report.findings);
    assert!(report.exhibits.iter().all(|exhibit| exhibit.intact), "{step}");
    case.note("after the crash", "Ada").unwrap_or_else(|error| panic!("{step}: {error}"));
}

#[test]
fn a_cut_while_a_case_is_made_leaves_no_case_or_a_whole_one() {
    let base = tempfile::tempdir().unwrap();
    for limit in 0..200 {
        let dir = base.path().join(format!("cut-{limit}"));
        let (disk, fuse) = disk(Some(limit));
        let info = CaseInfo::new("17", "Ada", "warrant");
        if Case::create_on(disk, &dir, &info, None).is_ok() {
            assert_eq!(look(&dir).exit_code(), 0);
            return;
        }
        match Case::open(&dir) {
            Ok(_) => assert_eq!(look(&dir).exit_code(), 0, "{limit}: {:?}", fuse.done.lock().unwrap().last()),
            Err(_) => {
                assert!(verify(&dir, &Options::default(), &Silent).map_or(true, |report| report.exit_code() == 5));
            }
        }
    }
    panic!("making a case has fewer steps");
}

#[test]
fn nothing_gets_its_name_before_it_is_durable() {
    let base = tempfile::tempdir().unwrap();
    let signer = key(base.path());
    let dir = base.path().join("case");
    Case::create(&dir, &CaseInfo::new("17", "Ada", "warrant"), Some(signer.clone())).unwrap();
    let (disk, fuse) = disk(None);
    run(disk, &dir, &signer).unwrap();
    let steps = fuse.done.lock().unwrap().clone();
    let at = |act: &str, on: &Path| steps.iter().position(|(a, o)| *a == act && o == on);
    let mut last = None;
    for (n, (act, on)) in steps.iter().enumerate().filter(|(_, (act, _))| *act == "rename") {
        let parent = on.parent().unwrap();
        assert_eq!(steps.get(n + 1), Some(&("fsync", parent.to_owned())), "{act} {}", on.display());
        let temporary = super::disk::temporary_name(on);
        if on.parent() != Some(&dir.join("exhibits")) {
            let before = steps[..n].iter().rposition(|(a, o)| *a == "fsync" && *o == temporary);
            assert!(before.is_some(), "{} was named before it was durable", on.display());
        }
        last = last.max(Some(n));
    }
    // The exhibit: its files, then the log, then its name.
    let partial = dir.join("exhibits/web01-memory-20261124T103000Z.partial");
    let named = at("rename", &partial.with_extension("")).unwrap();
    let closed = steps[..named].iter().rposition(|(a, o)| *a == "fsync" && *o == partial).unwrap();
    let logged = steps[..named].iter().rposition(|(a, o)| *a == "fsync" && o.ends_with("custody.jsonl")).unwrap();
    let data = steps.iter().position(|(a, o)| *a == "fsync" && o.ends_with("data/memory.raw")).unwrap();
    assert!(data < closed && closed < logged && logged < named, "{data} {closed} {logged} {named}");
}
