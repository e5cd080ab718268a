//! Everything that goes wrong on the way: the file is whole and right, or the exhibit says what is wrong, or nothing is sealed; and in
//! no case is anything made twice, or anything left that is not evidence.

use std::fs;
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::common::guest::wait_until;
use crate::common::run::{Exhibit, Ran};
use crate::gcp_kit::{Cloud, SPAN, same_disk, second};
use crate::kit::disk;

fn said(ran: &Ran) -> String {
    format!("{}{}", ran.stdout, ran.stderr)
}

/// Snapshots, exports and images that there are.
fn made(cloud: &Cloud) -> (usize, Value, Value) {
    let state = cloud.state();
    (state["snapshots"].as_array().unwrap().len(), state["builds"].clone(), state["images"].clone())
}

/// Answers that break or are never heard, quotas, tokens that run out, and a file of which there is no MD5: all at once.
#[test]
fn with_broken_answers_and_tokens_that_run_out_the_file_is_whole_and_nothing_is_made_twice() {
    let cloud = Cloud::start(&[disk()]);
    let lost = ["/createSnapshot", "/global/images", "/builds"];
    cloud
        .fault(&json!({ "every": 4, "every_span": 2, "token_life": 9, "lost": lost, "composite": true, "pending": 2 }));
    cloud.acquire(&["--disk", "web01"]).expect(0).unwrap();
    let exhibit = cloud.exhibit("web01");
    assert!(same_disk(&exhibit.image(), &disk()));
    let witness = &exhibit.record["witnesses"][0];
    assert!(witness["crc32c"].is_string() && witness.get("md5").is_none(), "{witness}");
    let wire = fs::read_to_string(exhibit.dir.join("wire.jsonl")).unwrap();
    for status in [500, 503, 429, 403, 401, 502, 409] {
        let part = format!("HTTP status {status}");
        assert!(wire.contains(&part), "nothing went wrong as `{part}`, so nothing was tested");
    }
    assert!(wire.contains("\"answered\":null"), "no answer was cut");
    assert_eq!(made(&cloud), (1, json!(["SUCCESS"]), json!([])));
}

#[test]
fn throttling_narrows_and_does_not_fail() {
    let cloud = Cloud::start(&[disk()]);
    cloud.fault(&json!({ "parallel": 1 }));
    cloud.acquire(&["--disk", "web01"]).expect(0).unwrap();
    assert!(same_disk(&cloud.exhibit("web01").image(), &disk()));
    assert!(cloud.state()["most"].as_u64().unwrap() > 1, "never throttled");
}

/// Found by MD5 and CRC32C, or by CRC32C alone, whether the file is compressed or not; and what did not come whole is not taken away.
#[test]
fn a_byte_that_is_another_on_the_way_is_told_and_its_file_stays_in_the_bucket() {
    let cloud = Cloud::start(&[disk()]);
    for (composite, more) in [(false, &[][..]), (true, &[]), (true, &["--compress", "zstd"])] {
        cloud.fault(&json!({ "corrupt": SPAN + 4711, "composite": composite }));
        let ran = cloud.acquire(&[&["--disk", "web01", "--remove-export"], more].concat()).expect(3).unwrap();
        let exhibit = cloud.exhibit("web01");
        assert_eq!(exhibit.outcome(), "partial", "{ran:?}");
        let findings = exhibit.record["findings"].to_string();
        assert!(findings.contains("Cloud Storage, of gs://") && findings.contains("was captured"), "{findings}");
        assert!(findings.contains("was not removed"), "{findings}");
    }
    assert_eq!(cloud.asked("DELETE /evidence"), 0);
    assert_eq!(made(&cloud).0, 3);
}

/// Begins a run that is to be killed in the middle of something.
fn begun(cloud: &Cloud) -> Child {
    let (target, case) = (cloud.target(), cloud.case().display().to_string());
    let more = ["--disk", "web01", "--block-size", "1M"];
    cloud.command(&cloud.arguments(&target, &case, &more)).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn until(what: &str, mut found: impl FnMut() -> bool) {
    wait_until(&mut found, Duration::from_secs(60), what).unwrap();
}

fn killed(cloud: &Cloud, mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
    cloud.control(&json!({ "fault": {}, "release": true }));
}

/// Goes on, and finds that nothing was made again; then puts the case in order.
fn gone_on_with(cloud: &Cloud) {
    let ran = cloud.acquire(&["--disk", "web01", "--block-size", "1M", "--resume"]).expect(0).unwrap();
    assert!(ran.stderr.contains("never ended"), "{}", ran.stderr);
    let exhibit = cloud.exhibit("web01");
    assert!(exhibit.outcome() == "complete" && same_disk(&exhibit.image(), &disk()));
    assert!(exhibit.record["witnesses"][0]["md5"].is_string());
    assert_eq!(made(cloud), (1, json!(["SUCCESS"]), json!([])));
    let case = cloud.case().display().to_string();
    cloud.run(&["verify", &case]).expect(3).unwrap();
    let recovered = said(&cloud.run(&["case", "recover", &case]).expect(0).unwrap());
    assert!(
        recovered.contains("gcloud compute snapshots delete") && recovered.contains("gcloud storage rm gs://"),
        "{recovered}"
    );
    cloud.run(&["verify", &case]).expect(0).unwrap();
    assert_eq!(made(cloud), (1, json!(["SUCCESS"]), json!([])));
}

/// By a signal that nothing can catch, while bytes come.
#[test]
fn a_run_killed_in_the_middle_of_the_copy_goes_on_with_the_same_file() {
    let cloud = Cloud::start(&[disk()]);
    cloud.fault(&json!({ "hold_from": 2 * SPAN }));
    let child = begun(&cloud);
    until("the middle of the copy", || cloud.state()["held"].as_u64() > Some(0));
    // What came is written down block by block.
    let blocks = || walk(&cloud).iter().any(|text| text.lines().count() >= 3);
    until("blocks on the disk", blocks);
    killed(&cloud, child);
    gone_on_with(&cloud);
    let first = fs::read_to_string(cloud.exhibit("web01").dir.join("wire.jsonl")).unwrap();
    assert!(!first.contains("Range: bytes=0-"), "all was read again");
}

/// Maps of blocks of drafts.
fn walk(cloud: &Cloud) -> Vec<String> {
    let drafts = fs::read_dir(cloud.case().join("exhibits")).into_iter().flatten().flatten();
    drafts.filter_map(|draft| fs::read_to_string(draft.path().join("blocks.jsonl.part")).ok()).collect()
}

/// The same while Cloud Build works, before a single byte came.
#[test]
fn a_run_killed_in_the_middle_of_the_export_waits_for_the_same_export() {
    let cloud = Cloud::start(&[disk()]);
    cloud.fault(&json!({ "hold_build": true }));
    let child = begun(&cloud);
    until("the middle of the export", || cloud.state()["builds"] == json!(["WORKING"]));
    killed(&cloud, child);
    gone_on_with(&cloud);
}

/// And recovered instead of gone on with: the export ends, the image goes, the snapshot stays.
#[test]
fn recovery_ends_the_export_and_removes_the_image() {
    let cloud = Cloud::start(&[disk()]);
    cloud.fault(&json!({ "hold_build": true }));
    let mut child = begun(&cloud);
    until("the middle of the export", || cloud.state()["builds"] == json!(["WORKING"]));
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(cloud.state()["images"].as_array().unwrap().len(), 1, "nothing was open, so nothing is tested");
    let case = cloud.case().display().to_string();
    let recovered = said(&cloud.run(&["case", "recover", &case]).expect(0).unwrap());
    for word in ["gcloud compute snapshots delete", "ended the export", "removed the image"] {
        assert!(recovered.contains(word), "{word}: {recovered}");
    }
    assert_eq!(made(&cloud), (1, json!(["CANCELLED"]), json!([])));
    cloud.control(&json!({ "release": true }));
}

/// A signal that is heard: all is put in order at once, and the snapshot is gone on with.
#[test]
fn a_run_that_is_told_to_stop_ends_its_export_and_goes_on_with_the_same_snapshot() {
    let cloud = Cloud::start(&[disk()]);
    cloud.fault(&json!({ "hold_build": true }));
    let mut child = begun(&cloud);
    until("the middle of the export", || cloud.state()["builds"] == json!(["WORKING"]));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(made(&cloud), (1, json!(["CANCELLED"]), json!([])));
    cloud.control(&json!({ "fault": {}, "release": true }));
    cloud.acquire(&["--disk", "web01", "--block-size", "1M", "--resume"]).expect(0).unwrap();
    assert!(same_disk(&cloud.exhibit("web01").image(), &disk()));
    assert_eq!(made(&cloud), (1, json!(["CANCELLED", "SUCCESS"]), json!([])));
    cloud.run(&["verify", &cloud.case().display().to_string()]).expect(0).unwrap();
}

/// Another file of the same length under the same name: whether Cloud Storage refuses the old generation or gives the new one.
#[test]
fn a_file_that_is_replaced_while_it_is_read_is_an_error_and_nothing_is_sealed() {
    let cloud = Cloud::start(&[disk()]);
    for ignores in [true, false] {
        cloud.fault(&json!({ "replace_at": 2, "ignores_generation": ignores }));
        let ran = cloud.acquire(&["--disk", "web01"]);
        assert!(ran.code == Some(1) && said(&ran).contains("deleted or replaced while it was read"), "{ran:?}");
    }
    // Nor is what somebody has put there taken for what was exported.
    cloud.fault(&json!({}));
    let ran = cloud.acquire(&["--disk", "web01", "--resume"]);
    assert!(ran.code == Some(1) && said(&ran).contains("after its export had ended: somebody replaced it"), "{ran:?}");
    assert!(Exhibit::find(&cloud.case(), "web01").is_err(), "something was sealed");
}

/// A failure after the snapshot costs no instant: once it is mended, the same snapshot is gone on with.
#[test]
fn an_export_that_fails_says_why_and_goes_on_with_the_same_snapshot() {
    let cloud = Cloud::start(&[disk()]);
    cloud.fault(&json!({ "build_fails": "no room for the temporary machine" }));
    let ran = cloud.acquire(&["--disk", "web01"]);
    for word in ["no room for the temporary machine", "https://console.example/log", "gcloud compute snapshots delete"]
    {
        assert!(ran.code == Some(1) && said(&ran).contains(word), "{word}: {ran:?}");
    }
    assert_eq!(made(&cloud), (1, json!(["FAILURE"]), json!([])));
    cloud.fault(&json!({ "no_object": true }));
    let ran = cloud.acquire(&["--disk", "web01", "--resume"]);
    assert!(ran.code == Some(1) && said(&ran).contains("there is no such object"), "{ran:?}");
    cloud.fault(&json!({}));
    cloud.acquire(&["--disk", "web01", "--resume"]).expect(0).unwrap();
    assert!(same_disk(&cloud.exhibit("web01").image(), &disk()));
    assert_eq!(made(&cloud).0, 1);
}

/// Asks for the disk once with each fault; each time it is refused with these words.
fn refused(faults: &[(Value, &str)]) {
    let cloud = Cloud::start(&[disk()]);
    for (fault, word) in faults {
        cloud.fault(fault);
        let case = cloud.folder.path().join(format!("case-{}", word.len())).display().to_string();
        let target = cloud.target();
        let ran = cloud.run(&cloud.arguments(&target, &case, &["--disk", "web01"]));
        assert!(ran.code == Some(1) && said(&ran).contains(word), "{fault}: {ran:?}");
    }
}

fn damaged(part: &str, answer: &Value) -> Value {
    json!({ "damaged": { part: answer } })
}

#[test]
fn what_compute_engine_cannot_mean_is_refused_and_no_file_is_made_of_it() {
    let zone = "/compute/v1/projects/lab-4711/zones/europe-west1-b";
    refused(&[
        (json!({ "grown": 1 }), "and the label of this run"),
        (json!({ "fails": "QUOTA_EXCEEDED" }), "QUOTA_EXCEEDED"),
        (damaged("/createSnapshot", &json!([])), "an operation"),
        (damaged("/createSnapshot", &json!({ "name": "../x" })), "an operation"),
        (damaged("/operations/", &json!({ "status": "PERHAPS" })), "that of an operation"),
        (damaged("/global/snapshots/impound-", &json!({ "status": "READY" })), "its name and its number"),
        (damaged("/global/images/impound-", &json!({ "status": "READY" })), "did not make of this snapshot"),
        (damaged(&format!("{zone}/disks/web01"), &json!({ "name": "web01" })), "its number"),
        (damaged(&format!("{zone}/instances"), &json!({ "disks": [{ "source": "x" }] })), "the address of one"),
    ]);
}

#[test]
fn what_cloud_build_and_cloud_storage_cannot_mean_is_refused_and_no_file_is_made_of_it() {
    let object = |more: Value| {
        let mut object = json!({ "name": "a", "size": "5", "generation": "1", "timeCreated": "2020-01-01T00:00:00Z" });
        object.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        damaged("/o/impound-", &object)
    };
    refused(&[
        (damaged("/builds", &json!({ "builds": 5 })), "its id"),
        (object(json!({ "size": "0" })), "found nothing"),
        (object(json!({ "contentEncoding": "gzip" })), "encoded as gzip"),
        (object(json!({ "timeCreated": "2099-01-01T00:00:00Z" })), "somebody replaced it"),
        (damaged("/iam/testPermissions", &json!({ "permissions": "all" })), "storage.objects.get"),
    ]);
}

/// Parts that are others than were asked for are named gaps, and never bytes.
#[test]
fn a_part_that_is_another_than_was_asked_for_is_a_gap() {
    let cloud = Cloud::start(&[disk()]);
    cloud.fault(&json!({ "shift": 2 * SPAN }));
    cloud.acquire(&["--disk", "web01"]).expect(3).unwrap();
    let exhibit = cloud.exhibit("web01");
    let gaps = exhibit.record["gaps"]["listed"].clone();
    let [gap] = gaps.as_array().unwrap().as_slice() else { panic!("{gaps}") };
    assert_eq!((&gap["at"], &gap["len"]), (&json!(2 * SPAN), &json!(SPAN)));
    assert!(gap["why"]["unreadable"].as_str().unwrap().contains("in place of bytes="), "{gap}");
}

/// What has a key that only the customer has is refused with that reason, and does not stop the other.
#[test]
fn a_disk_under_a_customers_own_key_is_named_and_does_not_stop_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = Cloud::start(&[disk(), second(folder.path())]);
    let key = json!({ "name": "web01-data-1", "id": "7000000000000000002", "sizeGb": "1", "diskEncryptionKey": { "sha256": "x" } });
    cloud.fault(&json!({ "damaged": { "/disks/web01-data-1": key } }));
    let show = cloud.run(&["show", &cloud.target()]).expect(0).unwrap();
    assert!(show.stdout.contains("no: it is encrypted with a key that the customer keeps"), "{}", show.stdout);
    let ran = cloud.acquire(&["--disk", "web01-data-1"]);
    assert!(ran.code == Some(1) && ran.stderr.contains("(CSEK)"), "{ran:?}");
    assert_eq!(made(&cloud).0, 0);
    let ran = cloud.acquire(&["--disk", "all"]);
    assert!(ran.code != Some(0) && said(&ran).contains("(CSEK)"), "{ran:?}");
    assert!(same_disk(&cloud.exhibit("web01").image(), &disk()));
    assert_ne!(
        Exhibit::find(&cloud.case(), "web01-data-1").map_or("none".to_owned(), |one| one.outcome().to_owned()),
        "complete"
    );
}

#[test]
fn one_disk_of_which_no_snapshot_can_be_taken_does_not_stop_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let other = second(folder.path());
    let cloud = Cloud::start(&[disk(), other.clone()]);
    cloud.fault(&json!({ "no_snapshot": ["web01"] }));
    let ran = cloud.acquire(&["--disk", "all"]);
    assert!(ran.code != Some(0) && ran.stdout.contains("no snapshot of this disk"), "{ran:?}");
    assert!(same_disk(&cloud.exhibit("web01-data-1").image(), &other));
    assert!(Exhibit::find(&cloud.case(), "web01").is_err(), "something was sealed of a disk that was never read");
}
