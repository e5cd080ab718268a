//! The whole way in a project where all goes well: targets, show, plan, acquire, what is kept and what is removed.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::common::run::{Exhibit, holds, run};
use crate::gcp_kit::{Cloud, EMAIL, same_disk, second};
use crate::kit::disk;

/// Without a word about what is wanted: both disks, the screen, the serial ports, the firewall rules and what Compute Engine says.
#[test]
fn a_machine_is_taken_whole_and_its_disk_opens() {
    let folder = tempfile::tempdir().unwrap();
    let other = second(folder.path());
    let cloud = Cloud::start(&[disk(), other.clone()]);
    nothing_is_done_by_asking(&cloud);
    cloud.fault(&json!({ "pending": 2 }));
    let ran = cloud.acquire(&[]).expect(0).unwrap();
    for said in [
        "memory is not taken",
        "no common instant",
        "local-ssd-0: a local SSD",
        "virtual TPM",
        "of-the-bank",
        "temporary machine",
    ] {
        assert!(ran.stderr.contains(said), "{said}: {}", ran.stderr);
    }
    for (item, source) in [("web01", &disk()), ("web01-data-1", &other)] {
        let exhibit = cloud.exhibit(item);
        assert_eq!(exhibit.outcome(), "complete", "{item}: {ran:?}");
        assert!(same_disk(&exhibit.image(), source), "{item} differs");
        as_the_cloud_says(&exhibit);
    }
    let image = cloud.exhibit("web01").dir.display().to_string();
    let planted = run(&["disk", &format!("{image}:/etc/planted"), "cat"]).unwrap().expect(0).unwrap();
    assert_eq!(planted.stdout, "planted in the cloud\n");
    for (item, planted) in [
        ("console", "Linux version 6.1.0 (planted on the console)\n"),
        ("screenshot", "PNG what the screen shows"),
        ("serial", "\"4\": \"\""),
        ("firewalls", "planted-rule"),
        ("firewalls", "nic0"),
        ("config", "planted in the metadata"),
        ("config", "planted for the project"),
        ("config", "planted-in-a-label"),
        ("config", "web01-data-1"),
    ] {
        assert!(holds(&cloud.exhibit(item).image(), planted.as_bytes()).unwrap(), "{planted} in {item}");
    }
    cloud.run(&["verify", &cloud.case().display().to_string()]).expect(0).unwrap();
    kept_and_removed(&cloud, &ran.stderr);
    written_down(&cloud);
}

/// MD5 and CRC32C are those that Cloud Storage says, and MD5 is md5sum's.
fn as_the_cloud_says(exhibit: &Exhibit) {
    let witness = &exhibit.record["witnesses"][0];
    assert!(witness["by"].as_str().unwrap().starts_with("Cloud Storage, of gs://evidence-4711/impound-"), "{witness}");
    let md5sum = Command::new("md5sum").arg(exhibit.image()).output().unwrap();
    let md5 = witness["md5"].as_str().unwrap();
    assert!(String::from_utf8_lossy(&md5sum.stdout).starts_with(md5), "{witness}");
    assert_eq!((&exhibit.record["stored"][0]["md5"], witness["crc32c"].as_str().unwrap().len()), (&json!(md5), 8));
    assert_eq!(exhibit.record["item"]["file"]["wrapping"], "qcow2");
}

fn nothing_is_done_by_asking(cloud: &Cloud) {
    let targets = cloud.run(&["targets", &cloud.place()]).expect(0).unwrap().rows().unwrap();
    assert_eq!(targets.iter().map(|row| row["name"].as_str().unwrap()).collect::<Vec<_>>(), ["web01", "other"]);
    assert_eq!(targets[0]["state"], "running");
    let show = cloud.run(&["show", &cloud.target()]).expect(0).unwrap();
    for part in [
        "web01-data-1",
        "console",
        "screenshot",
        "firewalls",
        "memory is not taken",
        "local-ssd-0",
        "of-the-bank",
        "e2-small",
        "10.9.8.7",
        "192.0.2.7",
        "planted-tag",
        "planted-in-a-label",
        "planted in the metadata",
        "web@lab.example",
    ] {
        assert!(show.stdout.contains(part), "{part}: {}", show.stdout);
    }
    let plan = cloud.acquire(&["--plan"]).expect(0).unwrap();
    for part in [
        "createSnapshot",
        "it stays",
        "-format=qcow2",
        "removed in the end",
        "pinned to its generation",
        "memory is not taken",
    ] {
        assert!(plan.stdout.contains(part), "{part}: {}", plan.stdout);
    }
    let case = cloud.folder.path().join("refused").display().to_string();
    let bare = cloud.run(&["acquire", &cloud.target(), "--case", &case]);
    assert!(bare.code == Some(1) && bare.stderr.contains("--bucket NAME"), "{bare:?}");
    let none = cloud.run(&["acquire", &cloud.target(), "--case", &case, "--bucket", "gs://no-such-bucket"]);
    assert!(none.code == Some(1) && none.stderr.contains("no such bucket"), "{none:?}");
    for (wrong, word) in [
        (&["--memory"][..], "no memory"),
        (&["--require", "stopped"], "quasi-instantaneous"),
        (&["--disk", "local-ssd-0"], "no disk of that name"),
        (&["--lock", "governance:1"], "knows no --lock"),
    ] {
        let ran = cloud.acquire(wrong);
        assert!(ran.code != Some(0) && ran.stderr.contains(word), "{wrong:?}: {ran:?}");
    }
    let nobody = cloud.run(&["show", &format!("{}#web02", cloud.place())]);
    assert!(nobody.code == Some(1) && nobody.stderr.contains("HTTP 404"), "{nobody:?}");
    for act in ["createSnapshot", "POST /compute/v1/projects/lab-4711/global", "/builds", "/screenshot", "DELETE"] {
        assert_eq!(cloud.asked(act), 0, "{act}");
    }
}

/// Snapshots and files stay, each with the command that deletes it; the images are gone.
fn kept_and_removed(cloud: &Cloud, said: &str) {
    let state = cloud.state();
    let record = cloud.exhibit("web01").record;
    let run = record["run"].as_str().unwrap();
    let snapshots = state["snapshots"].as_array().unwrap();
    assert_eq!((snapshots.len(), &state["images"], &state["builds"]), (2, &json!([]), &json!(["SUCCESS", "SUCCESS"])));
    for snapshot in snapshots {
        let name = snapshot["name"].as_str().unwrap();
        assert!(name == format!("impound-{run}-{}", snapshot["sourceDiskId"].as_str().unwrap()), "{snapshot}");
        assert_eq!(snapshot["labels"]["impound-run"], run);
        for command in [
            format!("gcloud compute snapshots delete {name} --project lab-4711"),
            format!("gcloud storage rm gs://evidence-4711/{name}.qcow2"),
            format!("gcloud storage rm --recursive gs://evidence-4711/{name}.work/"),
        ] {
            assert!(said.contains(&command), "{command}: {said}");
        }
    }
    assert_eq!((record["left"].as_array().unwrap().len(), cloud.objects().len()), (6, 4));
    let instant = &record["instant"];
    assert!(
        instant["instant"].as_str().unwrap().starts_with("20") && instant["export"]["build"]["id"].is_string(),
        "{instant}"
    );
    let caller = &record["target"]["facts"]["details"]["caller"];
    assert_eq!(
        (&caller["name"], caller["credentials"].as_str().unwrap()),
        (&json!(EMAIL), "the key 0123456789abcdef of a service account")
    );
    assert_eq!(cloud.state()["tokens"], cloud.asked("POST /token"));
}

/// Every call is in the log, with its status and the service's own name for it; what lasts least came first.
fn written_down(cloud: &Cloud) {
    let log = fs::read_to_string(cloud.exhibit("web01").dir.join("wire.jsonl")).unwrap();
    let entries: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(entries.iter().all(|entry| entry["http"]["status"].is_u64() && entry["http"]["request_id"].is_string()));
    let said = |part: &str| entries.iter().position(|entry| entry["said"].as_str().unwrap().contains(part)).unwrap();
    let order = [
        "&assertion=[secret]",
        "/screenshot",
        "port=1",
        "port=4",
        "/getEffectiveFirewalls",
        "/createSnapshot",
        "/global/images",
        "/v1/projects/lab-4711/builds",
        "Range: bytes=0-",
        "prefix=impound-",
    ];
    let places: Vec<_> = order.iter().map(|part| said(part)).collect();
    assert!(places.is_sorted(), "{places:?}");
    // Nothing of an answer with a secret in it is kept, not even its digest.
    assert_eq!(entries[said("&assertion=[secret]")]["answer_digest"], "");
    assert!(entries[said("Range: bytes=0-")]["said"].as_str().unwrap().contains("alt=media&generation="));
}

#[test]
fn a_snapshot_that_is_there_already_is_a_target_and_its_export_is_removed_when_asked() {
    let cloud = Cloud::start(&[disk()]);
    cloud.acquire(&["--disk", "web01"]).expect(0).unwrap();
    let name = cloud.exhibit("web01").record["instant"]["snapshot"]["name"].as_str().unwrap().to_owned();
    let before = cloud.objects();
    let (target, case) = (format!("{}#snapshot:{name}", cloud.place()), cloud.case().display().to_string());
    let ran =
        cloud.run(&cloud.arguments(&target, &case, &["--remove-export", "--compress", "zstd"])).expect(0).unwrap();
    let exhibit = cloud.exhibit(&name);
    assert_eq!(exhibit.outcome(), "complete");
    assert!(
        exhibit.record["witnesses"][0]["crc32c"].is_string() && exhibit.record["left"] == json!([]),
        "{}",
        exhibit.record["left"]
    );
    let path = exhibit.dir.display().to_string();
    let planted = run(&["disk", &format!("{path}:/etc/planted"), "cat"]).unwrap().expect(0).unwrap();
    assert_eq!(planted.stdout, "planted in the cloud\n");
    // What this run exported is gone, what the run before and somebody else have there is not.
    assert_eq!(cloud.objects(), before, "{ran:?}");
    let state = cloud.state();
    assert!(state["objects"].as_array().unwrap().contains(&json!("of-somebody-else")));
    assert_eq!(
        (cloud.asked("/createSnapshot"), state["snapshots"].as_array().unwrap().len(), &state["images"]),
        (1, 1, &json!([]))
    );
    assert_eq!(cloud.asked("DELETE /evidence-4711/"), 2);
}
