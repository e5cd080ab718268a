//! Snapshots that are shared with an account for evidence and copied there: all of it, what is refused before anything is done, and
//! what goes wrong while a copy is under way.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::aws_kit::{Account, EVIDENCE, KEYS};
use crate::common::guest::wait_until;
use crate::common::run::Ran;
use crate::kit::{disk, same};

const TO: [&str; 4] = ["--disk", "all", "--copy-to", "evidence"];

fn only_copy(account: &Account) -> (String, Value) {
    let state = account.state();
    let copies = state["copies"].as_object().unwrap();
    assert_eq!(copies.len(), 1, "{copies:?}");
    copies.iter().map(|(id, copy)| (id.clone(), copy.clone())).next().unwrap()
}

/// Another region, another key, one of the disks encrypted, and the copies take a while.
#[test]
fn all_snapshots_are_copied_and_the_record_says_where_they_are() {
    let account = Account::with_evidence(&[disk(), disk()]);
    account.encrypt("/dev/sdb", 0);
    account.fault(&json!({ "copying": 4, "pending": 2 }));
    let where_to = ["--copy-region", "eu-central-1", "--copy-key", KEYS[1], "--isolate", &account.group];
    let ran = account.acquire(&[&TO[..], &where_to].concat()).expect(0).unwrap();
    assert!(ran.stderr.contains(&format!("waiting for 2 copies to account {EVIDENCE}")), "{}", ran.stderr);
    let state = account.state();
    let copies = state["copies"].as_object().unwrap();
    assert_eq!(copies.len(), 2, "{copies:?}");
    for item in ["sda1", "sdb"] {
        let exhibit = account.exhibit(item);
        assert!(exhibit.outcome() == "complete" && same(&exhibit.image(), &disk()), "{item}");
        let source = exhibit.record["instant"]["snapshot"].as_str().unwrap();
        let (id, copy) = copies.iter().find(|(_, copy)| copy["of"] == source).unwrap();
        assert_eq!((&copy["account"], &copy["region"]), (&json!(EVIDENCE), &json!("eu-central-1")));
        assert_eq!((&copy["encrypted"], &copy["key"]), (&json!(true), &json!(KEYS[1])));
        assert_eq!(copy["status"], "completed");
        assert_eq!(copy["description"], state["descriptions"][source]);
        let mut tags = state["snapshots"][source].clone();
        assert_eq!(tags["impound:run"], exhibit.record["run"]);
        tags["impound:copy-of"] = json!(source);
        assert_eq!(copy["tags"], tags);
        assert_eq!(state["shared"][source], json!([EVIDENCE]));
        let left = format!(
            "snapshot {id} in account {EVIDENCE}, region eu-central-1, a copy of {source}; to delete it: aws ec2 delete-snapshot --profile evidence --region eu-central-1 --snapshot-id {id}"
        );
        assert!(exhibit.record["left"].as_array().unwrap().contains(&json!(left)), "{}", exhibit.record["left"]);
        assert!(ran.stderr.contains(&left), "{}", ran.stderr);
    }
    let wire = fs::read_to_string(account.exhibit("sda1").dir.join("wire.jsonl")).unwrap();
    let said = |part: &str| wire.lines().filter(|line| line.contains(part)).count();
    assert!(said("Action=CopySnapshot&") > 2, "it was not asked beforehand whether it may");
    assert_eq!(said("PresignedUrl=[secret]&"), 2);
    let log = account.log();
    let last = |part: &str| log.iter().rposition(|line| line.contains(part)).unwrap();
    let first = log.iter().position(|line| line == "CopySnapshot").unwrap();
    assert!(last("/blocks/") < first, "copied before all was captured");
    assert!(last("ModifyInstanceAttribute") < first, "it was not isolated before the copies were waited for");
    let case = account.case().display().to_string();
    account.run(&["verify", &case]).expect(0).unwrap();
    account.run(&["case", "recover", &case]).expect(0).unwrap();
}

#[test]
fn a_plan_names_the_account_and_does_nothing() {
    let account = Account::with_evidence(&[disk()]);
    account.encrypt("/dev/sda1", 0);
    let plan = account.acquire(&[&TO[..], &["--plan", "--share", "345678901234"]].concat()).expect(0).unwrap();
    for part in [
        "may be copied by account 345678901234".to_owned(),
        format!("may be copied by account {EVIDENCE}"),
        format!("ec2 CopySnapshot by account {EVIDENCE} (profile evidence) to eu-west-1"),
    ] {
        assert!(plan.stdout.contains(&part), "{part}: {}", plan.stdout);
    }
    assert_eq!(account.copies_asked() + account.asked("CreateSnapshots") + account.asked("ModifySnapshot"), 0);
    // Both accounts are let copy, one does.
    account.acquire(&[&TO[..], &["--share", "345678901234"]].concat()).expect(0).unwrap();
    let (_, copy) = only_copy(&account);
    assert_eq!(account.state()["shared"][copy["of"].as_str().unwrap()], json!([EVIDENCE, "345678901234"]));
    assert_eq!(copy["encrypted"], true, "what was encrypted stays so without a key of its own");
}

/// Nothing was made in either account when it was refused.
#[test]
fn what_cannot_be_copied_is_refused_before_anything_is_done() {
    let account = Account::with_evidence(&[disk()]);
    let refused = |options: &[&str], word: &str| {
        for plan in [&["--plan"][..], &[]] {
            let ran = account.acquire(&[options, plan].concat());
            assert!(ran.code == Some(1) && ran.stderr.contains(word), "{options:?}: {word}: {ran:?}");
        }
    };
    let key = |key| [&TO[..], &["--copy-key", key]].concat();
    refused(&["--copy-to", "own"], "a copy is no safer");
    refused(&["--copy-to", "nobodys"], "has a profile of that name");
    refused(&["--copy-to", "a b"], "no profile that can be named");
    refused(&key("alias/evidence"), "ARN of a key");
    refused(&key(KEYS[1]), "another region");
    refused(&key("arn:aws:kms:eu-west-1:210987654321:key/none"), "may not use it");
    account.key(0, "CUSTOMER", &[EVIDENCE], "PendingDeletion");
    refused(&key(KEYS[0]), "the key is PendingDeletion");
    account.fault(&json!({ "deny": ["CopySnapshot"] }));
    refused(&TO, "ec2:CopySnapshot");
    account.fault(&json!({ "deny": ["DescribeSnapshots"] }));
    refused(&TO, "UnauthorizedOperation");
    account.fault(&json!({}));
    // The key of the volume: AWS's own, one that the other account may not use, one that nobody may look at.
    account.encrypt("/dev/sda1", 2);
    refused(&TO, "can be shared with nobody");
    refused(&["--share", EVIDENCE], "can be shared with nobody");
    account.encrypt("/dev/sda1", 0);
    account.key(0, "CUSTOMER", &["123456789012"], "Enabled");
    refused(&TO, "the account for evidence may not use it");
    assert_eq!(account.asked("CreateSnapshots") + account.copies_asked(), 0);
    assert!(account.acquire(&["--copy-region", "eu-west-1"]).stderr.contains("--copy-to"));
    // Whether it can be shared is not known: it is said, and tried.
    account.key(0, "CUSTOMER", &[EVIDENCE], "Enabled");
    let ran = account.acquire(&["--disk", "all", "--share", EVIDENCE]).expect(0).unwrap();
    assert!(ran.stderr.contains("is not known before it is tried"), "{}", ran.stderr);
}

#[test]
fn doctor_says_which_key_lets_nothing_be_shared() {
    let account = Account::with_evidence(&[disk()]);
    account.encrypt("/dev/sda1", 2);
    let row = |key: &str| {
        let rows = account.run(&["doctor", &account.target()]).rows().unwrap();
        rows.into_iter().find(|row| row["what"] == format!("key {key}")).unwrap()["found"].as_str().unwrap().to_owned()
    };
    assert!(row(KEYS[2]).contains("can be shared with nobody"));
    account.encrypt("/dev/sda1", 0);
    assert!(row(KEYS[0]).contains("the account's own, Enabled: snapshots can be shared"));
    account.key(0, "CUSTOMER", &[EVIDENCE], "Enabled");
    assert!(row(KEYS[0]).contains("not known"));
}

#[test]
fn a_copy_that_is_throttled_or_whose_answer_is_lost_is_made_once() {
    for (fault, asked) in [(json!({ "throttled": 2 }), 3), (json!({ "limited": 2 }), 3), (json!({ "lost": 1 }), 1)] {
        let account = Account::with_evidence(&[disk()]);
        account.fault(&fault);
        account.acquire(&TO).expect(0).unwrap();
        let (id, _) = only_copy(&account);
        assert_eq!(account.copies_asked(), asked, "{fault}");
        assert!(account.exhibit("sda1").record["left"].to_string().contains(&id), "{fault}");
    }
}

/// EC2 says yes to a copy under a key that it may not use, and says no later. The capture is whole all the same.
#[test]
fn a_copy_that_fails_is_told_and_costs_nothing_else() {
    let account = Account::with_evidence(&[disk()]);
    for (fault, word) in [
        (
            json!({ "copying": 1, "copy_error": "Given key ID is not accessible" }),
            "it is error: Given key ID is not accessible",
        ),
        (json!({ "plain": true }), "it is not encrypted"),
        (json!({ "deny": ["ModifySnapshotAttribute"] }), "is not shared with 210987654321"),
    ] {
        account.encrypt("/dev/sda1", 0);
        account.fault(&fault);
        let ran = account.acquire(&TO);
        assert!(ran.code == Some(1) && ran.stderr.contains(word), "{word}: {ran:?}");
        let record = account.exhibit("sda1").record;
        assert!(account.exhibit("sda1").outcome() == "complete" && record["findings"].to_string().contains(word));
        for (id, copy) in account.state()["copies"].as_object().unwrap() {
            let ours = copy["tags"]["impound:run"] == record["run"];
            assert_eq!(record["left"].to_string().contains(id), ours, "what was made is told, and how to delete it");
        }
    }
    assert_eq!(account.copies_asked(), 2, "what is not shared was asked for");
    account.run(&["verify", &account.case().display().to_string()]).expect(0).unwrap();
}

#[test]
fn what_was_not_captured_whole_is_not_handed_on() {
    let account = Account::with_evidence(&[disk()]);
    account.fault(&json!({ "kms_denied": true }));
    let ran = account.acquire(&TO).expect(1).unwrap();
    assert!(ran.stderr.contains("nothing was shared, copied or isolated"), "{}", ran.stderr);
    assert_eq!(account.copies_asked() + account.asked("ModifySnapshotAttribute"), 0);
}

/// A run with a copy that does not end; it is waited until the copy is under way.
fn pending(account: &Account) -> std::process::Child {
    account.fault(&json!({ "copying": 1_000_000 }));
    let (target, case) = (account.target(), account.case().display().to_string());
    let mut command = account.command(&[&["acquire", &target, "--case", &case], &TO[..]].concat());
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let under_way = || account.state()["copies"].as_object().is_some_and(|copies| !copies.is_empty());
    wait_until(under_way, Duration::from_secs(120), "a copy under way").unwrap();
    child
}

/// A run that is killed while a copy is under way.
fn killed(account: &Account) {
    let mut child = pending(account);
    child.kill().unwrap();
    child.wait().unwrap();
}

/// What a killed run left is said as long as somebody can be asked who knows.
#[test]
fn after_a_kill_recovery_says_which_copies_there_are() {
    let account = Account::with_evidence(&[disk()]);
    killed(&account);
    let (id, copy) = only_copy(&account);
    let (case, source) = (account.case().display().to_string(), copy["of"].as_str().unwrap().to_owned());
    account.run(&["verify", &case]).expect(3).unwrap();
    let config = account.folder.path().join(".aws/config");
    let good = fs::read_to_string(&config).unwrap();
    let elsewhere = good.replace(EVIDENCE, "123456789012");
    for (bad, word) in [("", "has a profile"), (&elsewhere, "leads to account 123456789012")] {
        fs::write(&config, bad).unwrap();
        let ran = account.run(&["case", "recover", "--keep-drafts", &case]);
        assert!(ran.code == Some(4) && ran.stderr.contains(word), "{word}: {ran:?}");
    }
    fs::write(&config, good).unwrap();
    let ran = account.run(&["case", "recover", &case]).expect(0).unwrap();
    let kept = format!(
        "kept (it is pending) snapshot {id} in account {EVIDENCE}, region eu-west-1, a copy of {source}; to delete it: aws ec2"
    );
    assert!(ran.stderr.contains(&kept) && ran.stderr.contains(&format!("kept snapshot {source} of vol-")), "{ran:?}");
    // What was not sealed by its own run is not complete, and all is in order.
    let ran = account.run(&["verify", &case]).expect(3).unwrap();
    assert!(ran.stderr.contains("INTACT, BUT NOT COMPLETE: 1 exhibits"), "{ran:?}");
}

#[test]
fn after_a_kill_the_run_that_goes_on_takes_up_the_copy_that_is_there() {
    let account = Account::with_evidence(&[disk()]);
    killed(&account);
    account.fault(&json!({ "all_end": true }));
    account.acquire(&[&TO[..], &["--resume"]].concat()).expect(0).unwrap();
    let (id, copy) = only_copy(&account);
    assert!(account.copies_asked() == 1 && account.asked("CreateSnapshots") == 1);
    let exhibit = account.exhibit("sda1");
    assert!(same(&exhibit.image(), &disk()) && exhibit.record["left"].to_string().contains(&id));
    assert_eq!(exhibit.record["instant"]["snapshot"], copy["of"]);
    let case = account.case().display().to_string();
    let ran = account.run(&["case", "recover", &case]).expect(0).unwrap();
    assert!(ran.stderr.contains(&format!("kept (it is completed) snapshot {id}")), "{ran:?}");
}

/// Asked to stop, it waits no longer: what was captured is sealed, and the record says what was not complete.
#[test]
fn a_run_that_is_to_stop_leaves_the_copy_to_itself() {
    let account = Account::with_evidence(&[disk()]);
    let child = pending(&account);
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let ran = Ran::of(&child.wait_with_output().unwrap());
    let (id, _) = only_copy(&account);
    let word = "was not complete yet, and was not waited for";
    assert!(ran.code == Some(130) && ran.stderr.contains(word), "{ran:?}");
    let exhibit = account.exhibit("sda1");
    assert!(exhibit.outcome() == "complete" && same(&exhibit.image(), &disk()));
    assert!(exhibit.record["left"].to_string().contains(&id) && exhibit.record["findings"].to_string().contains(word));
    let case = account.case().display().to_string();
    account.run(&["verify", &case]).expect(0).unwrap();
}
