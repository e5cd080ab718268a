//! Custody from end to end, through the library alone and through `verify.sh`: what a case says of itself when nothing was
//! done to it, when something was left unfinished, and when it is looked at with keys or a head from elsewhere.

use std::fs;
use std::path::Path;
use std::process::Command;

use impound::case::custody::EventKind;
use impound::case::verify::{Options, verify};
use impound::case::{Case, Drafts, Outcome, RunInfo, Signer, close_run, open_runs, recover};
use impound::progress::Silent;
use impound_backends::{Journal, Undo};
use serde_json::Value;

use crate::kit::{self, Shell, build, findings, info, key, record, seal, verify_sh};

const ADA: &str = "Ada Lovelace";

fn names(case: &Path, options: &Options) -> (u8, Vec<String>) {
    let (exit, found) = findings(case, options);
    (exit, found.into_iter().map(|(name, _)| name).collect())
}

fn script_exit(case: &Path, args: &[&str]) -> (Option<i32>, String) {
    let out = verify_sh(Shell::Dash, &case.join("verify.sh"), args, case);
    (out.status.code(), String::from_utf8_lossy(&out.stdout).into_owned())
}

#[test]
fn an_unsigned_case_is_allowed_and_said() {
    let dir = tempfile::tempdir().unwrap();
    let case = dir.path().join("case");
    build(&case, None);
    assert_eq!(names(&case, &Options::default()), (0, vec!["unsigned".to_owned()]));
    let (exit, text) = script_exit(&case, &[]);
    assert_eq!(exit, Some(0), "{text}");
    assert!(text.contains("nothing is signed"), "{text}");
}

#[test]
fn given_keys_are_the_only_ones_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let (good, evil) = (key(dir.path(), "good"), key(dir.path(), "evil"));
    let (case, unsigned) = (dir.path().join("case"), dir.path().join("unsigned"));
    build(&case, Some(&good));
    build(&unsigned, None);
    let trust = |key: &Path| {
        let file = key.with_extension("signers");
        fs::write(&file, Signer::new(key).unwrap().allowed_line("ada@cert.example")).unwrap();
        file
    };
    let (trusted, other) = (trust(&good), trust(&evil));
    let with = |signers: &Path| Options { signers: Some(signers.to_owned()), ..Options::default() };
    let report = verify(&case, &with(&trusted), &Silent).unwrap();
    assert_eq!((report.exit_code(), &report.findings[..]), (0, &[][..]));
    assert_eq!(report.signers, ["ada_cert.example"]);
    assert_eq!(script_exit(&case, &["-s", trusted.to_str().unwrap()]).0, Some(0));
    let (exit, found) = names(&case, &with(&other));
    assert_eq!((exit, found), (5, vec!["wrong-signer".to_owned(); 3]));
    assert_eq!(script_exit(&case, &["-s", other.to_str().unwrap()]).0, Some(5));
    let (exit, found) = names(&unsigned, &with(&trusted));
    assert_eq!((exit, found), (5, vec!["signature-missing".to_owned(); 3]));
    assert_eq!(script_exit(&unsigned, &["-s", trusted.to_str().unwrap()]).0, Some(5));
    assert!(verify(&case, &with(Path::new("no-such-file")), &Silent).is_err());
}

#[test]
fn a_head_noted_outside_sees_what_no_case_can_see_of_itself() {
    let dir = tempfile::tempdir().unwrap();
    let good = key(dir.path(), "good");
    let (path, earlier) = (dir.path().join("case"), dir.path().join("earlier"));
    let case = build(&path, Some(&good));
    kit::copy(&path, &earlier);
    let head = case.transfer("Grace Hopper", "second opinion", ADA, &Silent).unwrap();
    let expecting = Options { head: Some(head.clone()), ..Options::default() };
    assert_eq!(names(&path, &expecting).0, 0);
    assert_eq!(names(&earlier, &Options::default()).0, 0, "rolled back as a whole, it says nothing of itself");
    assert_eq!(names(&earlier, &expecting), (5, vec!["head-unexpected".to_owned(), "self-asserted".to_owned()]));
    let argument = format!("{}:{}", head.count, head.hash);
    assert_eq!(script_exit(&path, &["-h", &argument]).0, Some(0));
    assert_eq!(script_exit(&earlier, &["-h", &argument]).0, Some(5));
    let log = case.custody().read().unwrap();
    let event = log.events().last().unwrap();
    assert_eq!((&event.event, event.details["to"].as_str()), (&EventKind::Transferred, Some("Grace Hopper")));
    assert_eq!(event.digest.as_ref(), Some(&event.prev), "it names the log as it was handed over");
}

#[test]
fn a_damaged_case_is_not_handed_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("case");
    let case = build(&path, None);
    fs::write(path.join("exhibits/x"), b"").unwrap();
    let error = case.transfer("Grace Hopper", "court", ADA, &Silent).unwrap_err();
    assert!(error.to_string().contains("exhibits/x: added"), "{error}");
}

#[test]
fn a_signed_case_stays_signed() {
    let dir = tempfile::tempdir().unwrap();
    let (good, second) = (key(dir.path(), "good"), key(dir.path(), "second"));
    let path = dir.path().join("case");
    build(&path, Some(&good));
    let unsigned = Case::open(&path).unwrap();
    assert!(unsigned.note("hello", ADA).unwrap_err().to_string().contains("give the key"));
    let grace = unsigned.signed_by(Signer::new(&second).unwrap(), "Grace Hopper").unwrap();
    grace.note("took over", "Grace Hopper").unwrap();
    let report = verify(&path, &Options::default(), &Silent).unwrap();
    assert_eq!(report.exit_code(), 0, "{:?}", report.findings);
    assert_eq!(report.signers, ["Ada_Lovelace", "Grace_Hopper"]);
    assert_eq!(script_exit(&path, &[]).0, Some(0));
}

#[test]
fn a_wrong_passphrase_leaves_the_log_as_it_was() {
    // In a session of its own there is no terminal to ask, whoever runs the tests.
    let mut command = Command::new("setsid");
    command.arg("--wait").arg(std::env::current_exe().unwrap());
    let out = command.args(["--exact", "custody::wrong_passphrase_without_terminal", "--ignored"]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
    assert!(String::from_utf8_lossy(&out.stdout).contains("1 passed"));
}

#[test]
#[ignore = "the test above runs it without a terminal"]
fn wrong_passphrase_without_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let locked = dir.path().join("locked");
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "secret", "-f"]).arg(&locked).status();
    assert!(made.unwrap().success());
    let path = dir.path().join("case");
    let signer = Signer::new(&locked).unwrap();
    let error = Case::create(&path, &info(), Some(signer)).unwrap_err().to_string();
    assert!(error.contains("passphrase") && !error.contains("secret"), "{error}");
    assert!(!path.join("custody.jsonl").exists() || fs::read(path.join("custody.jsonl")).unwrap().is_empty());
    assert!(!path.join("case.json").exists(), "without it there is no case");
}

#[test]
fn keys_that_are_none_are_refused_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let garbage = dir.path().join("garbage");
    fs::write(&garbage, b"not a key").unwrap();
    assert!(Signer::new(&garbage).is_err());
    assert!(Signer::new(dir.path().join("none")).is_err());
    // A public key whose private half is nowhere.
    let orphan = key(dir.path(), "orphan");
    fs::remove_file(&orphan).unwrap();
    let signer = Signer::new(dir.path().join("orphan.pub")).unwrap();
    let error = Case::create(dir.path().join("case"), &info(), Some(signer)).unwrap_err().to_string();
    assert!(error.contains("ssh-add"), "{error}");
}

#[test]
fn what_is_intact_and_not_complete_is_exit_3() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("case");
    let case = build(&path, None);
    let partial = Outcome::Partial { why: "read errors".to_owned(), missing: 4096 };
    seal(&case, "vdc", b"half a disk", false, partial, &path.join("journal/r1.wire.jsonl"));
    let report = verify(&path, &Options::default(), &Silent).unwrap();
    assert_eq!(report.exit_code(), 3);
    assert!(report.exhibits.iter().all(|exhibit| exhibit.intact));
    assert!(report.findings[0].to_string().contains("partial: read errors"), "{:?}", report.findings);
    let (exit, text) = script_exit(&path, &[]);
    assert_eq!(exit, Some(3), "{text}");
}

#[test]
fn a_draft_is_named_and_can_be_sealed_as_interrupted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("case");
    let case = build(&path, None);
    let draft = case.draft("web01", "vdd", "2026-11-24T10:30:00Z".parse().unwrap()).unwrap();
    draft.intend(&record(&case, "vdd", 100, Outcome::Complete)).unwrap();
    fs::write(draft.dir().join("data/vdd.raw"), b"the first bytes").unwrap();
    assert_eq!(names(&path, &Options::default()).0, 3);
    assert_eq!(script_exit(&path, &[]).0, Some(3));
    assert_eq!(recover(&case, ADA, Drafts::Seal, &Silent).unwrap(), [""; 0], "a live run still holds it");
    drop(draft);
    assert_eq!(recover(&case, ADA, Drafts::Keep, &Silent).unwrap(), [""; 0], "it may be resumed");
    assert_eq!(recover(&case, ADA, Drafts::Seal, &Silent).unwrap().len(), 1);
    let report = verify(&path, &Options::default(), &Silent).unwrap();
    assert_eq!(report.exit_code(), 3);
    let outcome = report.exhibits.iter().find(|exhibit| exhibit.name.contains("vdd")).unwrap().outcome.clone();
    assert!(matches!(outcome, Some(Outcome::Interrupted { .. })));
    assert_eq!(script_exit(&path, &[]).0, Some(3));
}

#[test]
fn a_killed_run_is_named_until_it_is_undone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("case");
    let case = build(&path, None);
    let run = RunInfo { run: "r2".to_owned(), target: "fake:#web01".to_owned(), who: ADA.to_owned() };
    let mut journal = case.journal(&run).unwrap();
    let undo = |say: &str| Undo { say: say.to_owned(), holds_guest: false, how: Value::Null };
    journal.about_to("stop", undo("resume")).unwrap();
    let job = journal.about_to("start a job", undo("cancel the job")).unwrap();
    journal.about_to("export", undo("stop the export")).unwrap();
    journal.done(job).unwrap();
    let runs = open_runs(&case).unwrap();
    assert!(runs[0].alive);
    drop(journal);
    let runs = open_runs(&case).unwrap();
    assert!(!runs[0].alive);
    let says: Vec<_> = runs[0].undo.iter().map(|undo| undo.say.as_str()).collect();
    assert_eq!((runs.len(), says), (1, vec!["stop the export", "resume"]));
    assert_eq!(names(&path, &Options::default()), (3, vec!["open-run".to_owned(), "unsigned".to_owned()]));
    assert_eq!(script_exit(&path, &[]).0, Some(3));
    close_run(&case, "r2", ADA, &["resumed the guest".to_owned()]).unwrap();
    assert_eq!(open_runs(&case).unwrap(), []);
    assert_eq!(names(&path, &Options::default()).0, 0);
    assert!(case.journal(&run).is_err(), "an id is used once");
}

#[test]
fn an_exhibit_alone_is_verified_as_far_as_it_can_be() {
    let dir = tempfile::tempdir().unwrap();
    let good = key(dir.path(), "good");
    let path = dir.path().join("case");
    build(&path, Some(&good));
    let bag = path.join("exhibits/web01-memory-20261124T103000Z");
    assert_eq!(names(&bag, &Options::default()), (0, vec!["without-case".to_owned(), "self-asserted".to_owned()]));
    kit::edit(&bag.join("data/memory.raw"), |bytes| bytes[0] ^= 1);
    let (exit, found) = findings(&bag, &Options::default());
    assert_eq!((exit, found[0].1.as_str()), (5, "data/memory.raw: changed in bytes 0..1048576"));
    assert!(verify(dir.path(), &Options::default(), &Silent).is_err(), "neither case nor exhibit");
}

#[test]
fn stock_tools_check_a_bag_without_our_script() {
    let dir = tempfile::tempdir().unwrap();
    let good = key(dir.path(), "good");
    let path = dir.path().join("case");
    build(&path, Some(&good));
    let bag = path.join("exhibits/web01-memory-20261124T103000Z");
    for manifest in ["tagmanifest-sha256.txt", "manifest-sha256.txt"] {
        let out = Command::new("sha256sum").args(["-c", "--strict", manifest]).current_dir(&bag).output().unwrap();
        assert!(out.status.success(), "{out:?}");
    }
    let out = Command::new("ssh-keygen")
        .args([
            "-Y",
            "verify",
            "-n",
            "impound",
            "-I",
            "Ada_Lovelace",
            "-s",
            "custody.head.sig",
            "-f",
            "allowed_signers",
        ])
        .stdin(fs::File::open(path.join("custody.head")).unwrap())
        .current_dir(&path)
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}");
}

#[test]
fn a_case_begins_in_a_new_folder_and_names_never_clash() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("case");
    let case = build(&path, None);
    assert!(Case::create(&path, &info(), None).unwrap_err().to_string().contains("not empty"));
    let wire = path.join("journal/r1.wire.jsonl");
    let again = seal(&case, "vda", b"again", false, Outcome::Complete, &wire);
    assert!(again.ends_with("web01-vda-20261124T103000Z-2"), "{}", again.display());
    // The name of an exhibit that is gone is not given again.
    fs::remove_dir_all(&again).unwrap();
    assert!(seal(&case, "vda", b"x", false, Outcome::Complete, &wire).ends_with("web01-vda-20261124T103000Z-3"));
    let hostile = case.draft("../../etc\n\u{1b}[2J", "vda", "2026-11-24T10:30:00Z".parse().unwrap()).unwrap();
    assert_eq!(hostile.name(), "_.._etc___2J-vda-20261124T103000Z");
}

#[test]
fn what_claims_to_be_complete_has_no_unreadable_gaps() {
    let dir = tempfile::tempdir().unwrap();
    let case = build(&dir.path().join("case"), None);
    let draft = case.draft("web01", "vde", "2026-11-24T10:30:00Z".parse().unwrap()).unwrap();
    let mut record = record(&case, "vde", 0, Outcome::Complete);
    record.gaps.unreadable = 1;
    assert!(draft.seal(record, Vec::new(), None).unwrap_err().to_string().contains("unreadable gaps"));
    let missing = kit::record(&case, "vde", 0, Outcome::Missing { why: "no such disk".to_owned() });
    fs::write(draft.dir().join("data/stray"), b"").unwrap();
    assert!(draft.seal(missing.clone(), Vec::new(), None).unwrap_err().to_string().contains("nobody stored it"));
    fs::remove_file(draft.dir().join("data/stray")).unwrap();
    draft.seal(missing, Vec::new(), None).unwrap();
    let report = verify(case.dir(), &Options::default(), &Silent).unwrap();
    assert_eq!(report.exit_code(), 3, "{:?}", report.findings);
    assert_eq!(script_exit(case.dir(), &[]).0, Some(3));
}
