//! Everything that goes wrong on the way: the image is whole and right, or the exhibit says what is missing, or nothing is sealed.

use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;

use crate::aws_kit::{Account, BLOCK, written};
use crate::common::guest::wait_until;
use crate::kit::{disk, same};

#[test]
fn with_each_fifth_answer_broken_and_tokens_that_run_out_the_image_is_whole() {
    let account = Account::start(&[disk()]);
    account.fault(
        &json!({ "every": 5, "token_life": 7, "page": 10, "page_life": 5, "empty_pages": true, "expired_keys": 0 }),
    );
    account.acquire(&["--disk", "sda1"]).expect(0).unwrap();
    assert!(same(&account.exhibit("sda1").image(), &disk()));
    let broken = std::fs::read_to_string(account.exhibit("sda1").dir.join("wire.jsonl")).unwrap();
    for part in ["SHA-256 is not the one", "HTTP status 500", "HTTP status 400"] {
        assert!(broken.contains(part), "nothing went wrong as `{part}`, so nothing was tested");
    }
}

#[test]
fn throttling_narrows_and_does_not_fail() {
    let account = Account::start(&[disk()]);
    account.fault(&json!({ "parallel": 2 }));
    account.acquire(&["--disk", "sda1"]).expect(0).unwrap();
    assert!(same(&account.exhibit("sda1").image(), &disk()));
    assert!(account.state()["most"].as_u64().unwrap() > 2, "never throttled");
}

#[test]
fn a_block_that_stays_corrupt_is_a_named_gap_and_never_bytes() {
    let account = Account::start(&[disk()]);
    let blocks = written(&disk());
    let bad = [blocks[3], *blocks.last().unwrap()];
    account.fault(&json!({ "corrupt": bad }));
    account.acquire(&["--disk", "sda1"]).expect(3).unwrap();
    let exhibit = account.exhibit("sda1");
    assert_eq!(exhibit.outcome(), "partial");
    let gaps = exhibit.record["gaps"]["listed"].as_array().unwrap();
    let unreadable: Vec<_> = gaps.iter().filter(|gap| gap["why"]["unreadable"].is_string()).collect();
    let places: Vec<_> =
        unreadable.iter().map(|gap| (gap["at"].as_u64().unwrap(), gap["len"].as_u64().unwrap())).collect();
    assert_eq!(places, bad.map(|n| (n * BLOCK, BLOCK)));
    assert!(unreadable[0]["why"]["unreadable"].as_str().unwrap().contains("SHA-256"), "{unreadable:?}");
    // All else is right: with the bad blocks put in by hand it is the source.
    let image = account.folder.path().join("mended");
    std::fs::copy(exhibit.image(), &image).unwrap();
    Command::new("chmod").arg("644").arg(&image).status().unwrap();
    assert!(!same(&image, &disk()));
    for n in bad {
        let place = [format!("bs={BLOCK}"), format!("skip={n}"), format!("seek={n}")];
        let (from, to) = (format!("if={}", disk().display()), format!("of={}", image.display()));
        let copied =
            Command::new("dd").args([&from, &to]).args(place).args(["count=1", "conv=notrunc", "status=none"]).status();
        assert!(copied.unwrap().success());
    }
    assert!(same(&image, &disk()));
}

#[test]
fn without_the_key_it_ends_at_once_and_goes_on_once_there_is_one() {
    let account = Account::start(&[disk()]);
    account.fault(&json!({ "kms_denied": true }));
    let ran = account.acquire(&["--disk", "sda1"]);
    assert!(ran.code == Some(1) && ran.stderr.contains("--resume"), "{ran:?}");
    assert!(ran.stdout.contains("kms:Decrypt"), "{ran:?}");
    let asked = account.state()["log"].to_string().matches("/blocks/").count();
    assert!(asked <= 64, "{asked} blocks were asked for in vain");
    account.fault(&json!({}));
    account.acquire(&["--disk", "sda1", "--resume"]).expect(0).unwrap();
    assert!(same(&account.exhibit("sda1").image(), &disk()));
    assert_eq!(account.state()["log"].to_string().matches("CreateSnapshots").count(), 1, "another instant");
}

/// Killed in the middle, by a signal that nothing can catch.
#[test]
fn a_killed_run_goes_on_with_the_same_snapshot() {
    let account = Account::start(&[disk()]);
    account.fault(&json!({ "hold_after": 12 }));
    let (target, case) = (account.target(), account.case().display().to_string());
    let mut command = account.command(&["acquire", &target, "--case", &case, "--disk", "sda1", "--block-size", "1M"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let held = || account.state()["held"].as_u64() > Some(0) && account.state()["gets"].as_u64() >= Some(12);
    wait_until(held, Duration::from_secs(120), "the middle of the copy").unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    account.control(&json!({ "fault": {}, "release": true }));
    let ran = account.acquire(&["--disk", "sda1", "--block-size", "1M", "--resume"]).expect(0).unwrap();
    assert!(ran.stderr.contains("never ended"), "{}", ran.stderr);
    let exhibit = account.exhibit("sda1");
    assert!(same(&exhibit.image(), &disk()));
    let resumed = exhibit.record["findings"]
        .as_array()
        .unwrap()
        .iter()
        .any(|note| note.as_str().unwrap().contains("resumed at byte"));
    assert!(resumed, "{}", exhibit.record["findings"]);
    let again = account.state()["gets"].as_u64().unwrap();
    assert!(again < written(&disk()).len() as u64, "all {again} blocks were fetched again");
    assert_eq!(account.state()["log"].to_string().matches("CreateSnapshots").count(), 1, "another instant");
    // What the killed run left is evidence: recovery lists it and takes nothing away. Until then the case is not in order.
    account.run(&["verify", &case]).expect(3).unwrap();
    account.run(&["case", "recover", &case]).expect(0).unwrap();
    account.run(&["verify", &case]).expect(0).unwrap();
    assert_eq!(account.state()["snapshots"].to_string().matches("impound:run").count(), 1);
}

#[test]
fn a_list_that_cannot_be_true_is_refused_and_no_zeros_are_made_of_it() {
    let account = Account::start(&[disk()]);
    for (fault, word) in [
        (json!({ "descending": true }), "ascend"),
        (json!({ "volume_size": 2 }), "VolumeSize"),
        (json!({ "block_size": 4096 }), "BlockSize"),
    ] {
        account.fault(&fault);
        let ran = account.acquire(&["--disk", "sda1"]);
        assert!(ran.code == Some(1) && ran.stdout.contains(word), "{fault}: {ran:?}");
    }
    assert!(crate::common::run::Exhibit::find(&account.case(), "sda1").is_err(), "something was sealed");
}
