//! The whole way on a subscription where all goes well: targets, show, plan, acquire, what is kept and what is ended.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::azure_kit::Cloud;
use crate::common::run::{holds, run};
use crate::kit::{disk, same};

/// A second disk of 64 MiB, of which little is written: some pages that begin and end in the middle of a grain, and the last one.
fn second(folder: &Path) -> PathBuf {
    let path = folder.join("second.img");
    let file = fs::File::create(&path).unwrap();
    file.set_len(64 << 20).unwrap();
    for (at, text) in [((9 << 20) + 513, "in the middle"), ((9 << 20) + 9000, "near it"), ((64 << 20) - 5, "ends.")] {
        file.write_all_at(text.as_bytes(), at).unwrap();
    }
    path
}

/// Without a word about what is wanted: both disks, the screen, the console and what ARM says.
#[test]
fn a_machine_is_taken_whole_and_its_disk_opens() {
    let folder = tempfile::tempdir().unwrap();
    let other = second(folder.path());
    let cloud = Cloud::start(&[disk(), other.clone()]);
    cloud.fault(&json!({ "pending": 2, "page": 3, "copied": 30 }));
    let ran = cloud.acquire(&[]).expect(0).unwrap();
    for said in ["memory is not taken", "no common instant", "lun9: an unmanaged disk", "TrustedLaunch", "of-the-bank"]
    {
        assert!(ran.stderr.contains(said), "{said}: {}", ran.stderr);
    }
    for (item, source) in [("os", &disk()), ("lun0", &other)] {
        let exhibit = cloud.exhibit(item);
        assert_eq!(exhibit.outcome(), "complete", "{item}");
        assert!(same(&exhibit.image(), source), "{item} differs");
    }
    let image = cloud.exhibit("os").image().display().to_string();
    let planted = run(&["disk", &format!("{image}:/etc/planted"), "cat"]).unwrap().expect(0).unwrap();
    assert_eq!(planted.stdout, "planted in the cloud\n");
    for (item, planted) in [
        ("console", "planted on the console"),
        ("screenshot", "BM what the screen shows"),
        ("config", "planted in a tag"),
        ("config", "10.9.8.7"),
        ("config", "PowerState/running"),
        ("config", "web01_Data_1"),
    ] {
        assert!(holds(&cloud.exhibit(item).image(), planted.as_bytes()).unwrap(), "{planted} in {item}");
    }
    cloud.run(&["verify", &cloud.case().display().to_string()]).expect(0).unwrap();
    let state = cloud.state();
    assert_eq!(state["open"], json!([]), "an address is left that anybody could use");
    kept_and_tagged(&cloud, &state, &ran.stderr);
    written_down(&cloud);
    // Of the second disk, its two written places are read, in whole grains, and nothing else.
    let gaps = cloud.exhibit("lun0").record["gaps"]["listed"].clone();
    let sparse: u64 = gaps.as_array().unwrap().iter().map(|gap| gap["len"].as_u64().unwrap()).sum();
    assert_eq!(sparse, (64 << 20) - 4 * 4096, "{gaps}");
}

fn kept_and_tagged(cloud: &Cloud, state: &Value, said: &str) {
    let record = cloud.exhibit("os").record;
    for item in ["os", "lun0"] {
        let instant = &cloud.exhibit(item).record["instant"];
        let id = instant["snapshot"].as_str().unwrap();
        assert!(id.ends_with(&format!("/snapshots/impound-{}-{item}", record["run"].as_str().unwrap())), "{id}");
        assert_eq!(state["snapshots"][id]["impound:run"], record["run"], "{state}");
        assert!(said.contains(&format!("az snapshot delete --ids {id}")), "{said}");
        assert!(instant["instant"].as_str().unwrap().starts_with("20"), "{instant}");
        assert_eq!(instant["export"]["footer"]["in_image"], false);
    }
    assert_eq!(record["left"].as_array().unwrap().len(), 2);
    let caller = &record["target"]["facts"]["details"]["caller"];
    assert_eq!(caller["tenant"], cloud.tenant.as_str());
    let details = record["target"]["facts"]["details"]["documents"].to_string();
    assert!(details.contains("planted in a tag") && details.contains("10.9.8.7"), "{details}");
    assert!(caller["credentials"].as_str().unwrap().starts_with("the secret of application"), "{caller}");
}

/// Every call is in the log, with its status and the provider's own name for it; what lasts least came first.
fn written_down(cloud: &Cloud) {
    let log = fs::read_to_string(cloud.exhibit("os").dir.join("wire.jsonl")).unwrap();
    let entries: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(entries.iter().all(|entry| entry["http"]["status"].is_u64() && entry["http"]["request_id"].is_string()));
    let said = |part: &str| entries.iter().position(|entry| entry["said"].as_str().unwrap().contains(part)).unwrap();
    let order =
        ["screen.bmp", "console.log", "PUT ", "beginGetAccess", "comp=pagelist", "Range: bytes=0-", "endGetAccess"];
    let places: Vec<_> = order.iter().map(|part| said(part)).collect();
    assert!(places.is_sorted(), "{places:?}");
    let span = &entries[said("Range: bytes=0-")]["said"];
    assert!(span.as_str().unwrap().contains("sig=[secret]"), "{span}");
    // Nothing of an answer with a secret in it is kept, not even its digest.
    let poll = entries.iter().filter(|entry| entry["said"].as_str().unwrap().contains("DiskOperations"));
    assert!(poll.filter(|entry| entry["answer_digest"] == "").count() >= 2, "{log}");
}

#[test]
fn what_there_is_and_what_would_be_done_is_said_and_nothing_is_done() {
    let cloud = Cloud::start(&[disk()]);
    let targets = cloud.run(&["targets", &cloud.place()]).expect(0).unwrap().rows().unwrap();
    assert_eq!((&targets[0]["name"], &targets[0]["state"]), (&json!("web01"), &json!("running")));
    let show = cloud.run(&["show", &cloud.target()]).expect(0).unwrap();
    for part in ["os", "console", "screenshot", "memory is not taken", "TrustedLaunch", "of-the-bank"] {
        assert!(show.stdout.contains(part), "{part}: {}", show.stdout);
    }
    let plan = cloud.acquire(&["--plan"]).expect(0).unwrap();
    for part in ["PUT /subscriptions/", "it stays", "beginGetAccess", "endGetAccess", "memory is not taken"] {
        assert!(plan.stdout.contains(part), "{part}: {}", plan.stdout);
    }
    assert!(!plan.stdout.contains("no common instant"), "there is only one disk: {}", plan.stdout);
    for (wrong, word) in [
        (&["--memory"][..], "no memory"),
        (&["--require", "stopped"], "quasi-instantaneous"),
        (&["--disk", "lun9"], "no disk of that name"),
        (&["--lock", "governance:1"], "knows no --lock"),
    ] {
        let ran = cloud.acquire(wrong);
        assert!(ran.code != Some(0) && ran.stderr.contains(word), "{wrong:?}: {ran:?}");
    }
    for act in ["PUT", "GetAccess", "retrieveBootDiagnosticsData"] {
        assert_eq!(cloud.asked(act), 0, "{act}");
    }
}

#[test]
fn a_snapshot_that_is_there_already_is_a_target() {
    let cloud = Cloud::start(&[disk()]);
    cloud.fault(&json!({ "location_only": true }));
    cloud.acquire(&["--disk", "os"]).expect(0).unwrap();
    let id = cloud.exhibit("os").record["instant"]["snapshot"].as_str().unwrap().to_owned();
    let name = id.rsplit('/').next().unwrap();
    let (target, case) = (format!("{}#snapshot:{name}", cloud.place()), cloud.case().display().to_string());
    cloud.fault(&json!({ "no_output": true }));
    cloud.run(&["acquire", &target, "--case", &case]).expect(0).unwrap();
    assert!(same(&cloud.exhibit(name).image(), &disk()));
    assert_eq!((cloud.asked("PUT "), cloud.state()["open"].clone()), (1, json!([])));
}
