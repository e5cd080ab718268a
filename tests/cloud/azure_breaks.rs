//! Everything that goes wrong on the way: the image is whole and right, or the exhibit says what is missing, or nothing is sealed; and
//! in no case may anybody read a snapshot afterwards.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;

use crate::azure_kit::{Cloud, SPAN};
use crate::common::guest::wait_until;
use crate::common::run::Exhibit;
use crate::kit::{disk, same};

/// Answers that break, and tokens and addresses that run out in the middle, all at once.
#[test]
fn with_each_fifth_answer_broken_and_addresses_that_run_out_the_image_is_whole() {
    let cloud = Cloud::start(&[disk()]);
    cloud.fault(&json!({ "every": 5, "sas_life": 10, "token_life": 4, "page": 1, "pending": 1 }));
    cloud.acquire(&["--disk", "os"]).expect(0).unwrap();
    assert!(same(&cloud.exhibit("os").image(), &disk()));
    let log = fs::read_to_string(cloud.exhibit("os").dir.join("wire.jsonl")).unwrap();
    for part in ["MD5 is not the one", "HTTP status 500", "HTTP status 403", "HTTP status 401"] {
        assert!(log.contains(part), "nothing went wrong as `{part}`, so nothing was tested");
    }
    assert!(cloud.asked("beginGetAccess") > 1 && cloud.state()["tokens"].as_u64() > Some(1));
    assert_eq!(cloud.state()["open"], json!([]));
}

#[test]
fn throttling_narrows_and_does_not_fail() {
    let cloud = Cloud::start(&[disk()]);
    cloud.fault(&json!({ "parallel": 2 }));
    cloud.acquire(&["--disk", "os"]).expect(0).unwrap();
    assert!(same(&cloud.exhibit("os").image(), &disk()));
    assert!(cloud.state()["most"].as_u64().unwrap() > 2, "never throttled");
}

#[test]
fn a_span_that_stays_corrupt_is_a_named_gap_and_never_bytes() {
    let cloud = Cloud::start(&[disk()]);
    // Within the noise that the disk holds.
    let bad = (0..disk().metadata().unwrap().len() / SPAN).find(|n| holds_data(*n)).unwrap();
    cloud.fault(&json!({ "corrupt": [bad] }));
    cloud.acquire(&["--disk", "os"]).expect(3).unwrap();
    let exhibit = cloud.exhibit("os");
    assert_eq!(exhibit.outcome(), "partial");
    let gaps = exhibit.record["gaps"]["listed"].as_array().unwrap().clone();
    let unreadable: Vec<_> = gaps.iter().filter(|gap| gap["why"]["unreadable"].is_string()).collect();
    assert!(!unreadable.is_empty());
    let image = cloud.folder.path().join("mended");
    fs::copy(exhibit.image(), &image).unwrap();
    Command::new("chmod").arg("644").arg(&image).status().unwrap();
    assert!(!same(&image, &disk()));
    for gap in unreadable {
        let (at, len) = (gap["at"].as_u64().unwrap(), gap["len"].as_u64().unwrap());
        assert!(at / SPAN == bad && (at + len - 1) / SPAN == bad, "{gap}");
        assert!(gap["why"]["unreadable"].as_str().unwrap().contains("MD5"), "{gap}");
        // All else is right: with what is missing put in by hand it is the source.
        let place = [format!("skip={at}"), format!("seek={at}"), format!("count={len}")];
        let (from, to) = (format!("if={}", disk().display()), format!("of={}", image.display()));
        let how = ["conv=notrunc", "status=none", "iflag=skip_bytes,count_bytes", "oflag=seek_bytes", "bs=1M"];
        assert!(Command::new("dd").args([&from, &to]).args(place).args(how).status().unwrap().success());
    }
    assert!(same(&image, &disk()));
    assert_eq!(cloud.state()["open"], json!([]));
}

/// Is there anything in the whole of this span?
fn holds_data(n: u64) -> bool {
    use std::os::unix::fs::FileExt;
    let mut block = vec![0; usize::try_from(SPAN).unwrap()];
    fs::File::open(disk()).unwrap().read_exact_at(&mut block, n * SPAN).unwrap();
    block.chunks(4096).all(|part| part.iter().any(|byte| *byte != 0))
}

/// Killed in the middle, by a signal that nothing can catch.
#[test]
fn a_killed_run_leaves_no_access_once_recovered_and_goes_on_with_the_same_snapshot() {
    let cloud = Cloud::start(&[disk()]);
    cloud.fault(&json!({ "hold_after": 3 }));
    let (target, case) = (cloud.target(), cloud.case().display().to_string());
    let mut command = cloud.command(&["acquire", &target, "--case", &case, "--disk", "os", "--block-size", "1M"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let held = || cloud.state()["held"].as_u64() > Some(0) && cloud.state()["gets"].as_u64() >= Some(3);
    wait_until(held, Duration::from_secs(120), "the middle of the copy").unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    cloud.control(&json!({ "fault": {}, "release": true }));
    assert_ne!(cloud.state()["open"], json!([]), "nothing was open, so nothing is tested");
    let ran = cloud.acquire(&["--disk", "os", "--block-size", "1M", "--resume"]).expect(0).unwrap();
    assert!(ran.stderr.contains("never ended"), "{}", ran.stderr);
    let exhibit = cloud.exhibit("os");
    assert!(same(&exhibit.image(), &disk()));
    assert_eq!(cloud.asked("PUT "), 1, "another instant");
    // What the killed run left is evidence: recovery lists it and takes nothing away, but for the right to read it.
    cloud.run(&["verify", &case]).expect(3).unwrap();
    let ran = cloud.run(&["case", "recover", &case]).expect(0).unwrap();
    let said = format!("{}{}", ran.stdout, ran.stderr);
    assert!(said.contains("ended the access to") && said.contains("az snapshot delete"), "{said}");
    cloud.run(&["verify", &case]).expect(0).unwrap();
    let state = cloud.state();
    assert_eq!((&state["open"], state["snapshots"].as_object().unwrap().len()), (&json!([]), 1));
}

/// The same, and recovered at once: only that ends the access.
#[test]
fn recovery_alone_ends_the_access() {
    let cloud = Cloud::start(&[disk()]);
    cloud.fault(&json!({ "hold_after": 1 }));
    let (target, case) = (cloud.target(), cloud.case().display().to_string());
    let mut command = cloud.command(&["acquire", &target, "--case", &case, "--disk", "os"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let held = || cloud.state()["held"].as_u64() > Some(0);
    wait_until(held, Duration::from_secs(120), "the middle of the copy").unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    cloud.control(&json!({ "fault": {}, "release": true }));
    assert_eq!((cloud.state()["open"].as_array().unwrap().len(), cloud.asked("endGetAccess")), (1, 0));
    cloud.run(&["case", "recover", &case]).expect(0).unwrap();
    assert_eq!((cloud.state()["open"].clone(), cloud.asked("endGetAccess")), (json!([]), 1));
}

#[test]
fn what_cannot_be_true_is_refused_and_no_zeros_are_made_of_it() {
    let cloud = Cloud::start(&[disk()]);
    for (fault, word) in [
        (json!({ "descending": true }), "ascend"),
        (json!({ "beyond": true }), "a range from 9007199254740992"),
        (json!({ "endless": true, "page": 0 }), "more than 256 pages"),
        (json!({ "footer": true }), "checksum"),
        (json!({ "grown": 4096 }), "bytes and the tag of this run"),
        (json!({ "far": true }), "by HTTPS"),
        (json!({ "elsewhere": true }), "ARM's own"),
        (json!({ "fails": "DiskInTheWay" }), "DiskInTheWay"),
    ] {
        cloud.fault(&fault);
        let ran = cloud.acquire(&["--disk", "os"]);
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert!(ran.code == Some(1) && said.contains(word), "{fault}: {ran:?}");
    }
    assert!(Exhibit::find(&cloud.case(), "os").is_err(), "something was sealed");
}

#[test]
fn one_disk_of_which_no_snapshot_can_be_taken_does_not_stop_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("other.img");
    fs::write(&other, vec![7; 1 << 20]).unwrap();
    let cloud = Cloud::start(&[disk(), other.clone()]);
    cloud.fault(&json!({ "no_snapshot": ["web01_OsDisk_1"] }));
    let ran = cloud.acquire(&["--disk", "all"]);
    assert!(ran.code != Some(0) && ran.stdout.contains("OperationNotAllowed"), "{ran:?}");
    assert!(same(&cloud.exhibit("lun0").image(), &other));
    assert!(Exhibit::find(&cloud.case(), "os").is_err(), "something was sealed of a disk that was never read");
    assert_eq!(cloud.state()["open"], json!([]));
}
