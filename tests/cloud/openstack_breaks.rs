//! Everything that goes wrong on the way: the image is whole and right, or the exhibit says what is missing, or nothing is sealed.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::common::run::{Exhibit, run};
use crate::kit::same;
use crate::openstack_kit::{Cloud, Wanted, small};

fn wire(exhibit: &Exhibit) -> String {
    fs::read_to_string(exhibit.dir.join("wire.jsonl")).unwrap()
}

fn findings(exhibit: &Exhibit) -> String {
    exhibit.record["findings"].to_string()
}

/// Answers to `createImage` that nobody hears, each third part broken in one of three ways, no more than three at once, and the token
/// revoked by Keystone in the middle.
#[test]
fn with_broken_answers_throttling_and_a_revoked_token_the_image_is_whole() {
    let own = small();
    // Glance asks Keystone about the token of each request, so that it is refused as soon as it is revoked.
    let vars = [("TEST_TOKEN_CACHE", "-1")];
    let cloud = Cloud::start(&Wanted { own: Some((&own, "raw")), vars: &vars, ..Wanted::default() });
    cloud.fault(&json!({ "every": 3, "parallel": 3, "revoke_at": 7, "lost": 1 }));
    cloud.acquire(&["--disk", "vda"]).expect(0).unwrap();
    let exhibit = cloud.exhibit("vda");
    assert!(same(&exhibit.image(), &own));
    let wire = wire(&exhibit);
    for part in [
        "HTTP status 500",
        "HTTP status 503",
        "HTTP status 429",
        "HTTP status 401",
        "HTTP status 502",
        "\"answered\":null",
    ] {
        assert!(wire.contains(part), "nothing went wrong as `{part}`, so nothing was tested");
    }
    let log = cloud.log();
    assert!(log.iter().any(|line| line == "revoked 204"), "the token was not revoked");
    assert_eq!(cloud.state()["images"].as_array().unwrap().len(), 1, "it was made twice");
    changed_bytes_are_told(&cloud);
    what_is_refused_is_named(&cloud);
}

/// A byte that is another on the way is found by the digest that Glance keeps, whether the image is compressed or not.
fn changed_bytes_are_told(cloud: &Cloud) {
    cloud.fault(&json!({ "corrupt": 30_000_000 }));
    for more in [&[][..], &["--compress", "zstd"]] {
        let ran = cloud.acquire(&[&["--disk", "vda"], more].concat()).expect(3).unwrap();
        let exhibit = cloud.exhibit("vda");
        assert_eq!(exhibit.outcome(), "partial", "{ran:?}");
        assert!(findings(&exhibit).contains("Glance, of image"), "{}", findings(&exhibit));
    }
    cloud.fault(&json!({}));
    cloud.acquire(&["--disk", "vda", "--compress", "zstd"]).expect(0).unwrap();
    let image = cloud.exhibit("vda").dir.display().to_string();
    let planted = run(&["disk", &format!("{image}:/etc/planted"), "cat"]).unwrap().expect(0).unwrap();
    assert_eq!(planted.stdout, "planted in the image\n");
}

fn what_is_refused_is_named(cloud: &Cloud) {
    cloud.fault(&json!({ "deny": ["createImage"] }));
    let ran = cloud.acquire(&["--disk", "vda"]);
    assert!(ran.code == Some(1) && ran.stdout.contains("doctor") && ran.stdout.contains("createImage"), "{ran:?}");
}

/// A store that gives images only whole, as those of Ceph, Swift and S3 do: Glance refuses every Range. Streams that are cut begin again.
#[test]
fn a_store_that_gives_no_parts_is_read_as_one_stream() {
    let (own, folder) = (small(), tempfile::tempdir().unwrap());
    let qcow2 = folder.path().join("disk.qcow2");
    let made = Command::new("qemu-img").args(["convert", "-O", "qcow2"]).arg(&own).arg(&qcow2).output();
    assert!(made.expect("the tests need qemu-img: apt install qemu-utils").status.success());
    let vars = [("TEST_STORE", "whole")];
    let cloud = Cloud::start(&Wanted { own: Some((&qcow2, "qcow2")), vars: &vars, ..Wanted::default() });
    cloud.fault(&json!({ "cut_at": [3_000_000, 9_000_000] }));
    cloud.acquire(&["--disk", "vda"]).expect(0).unwrap();
    let exhibit = cloud.exhibit("vda");
    assert!(same(&exhibit.image(), &qcow2), "the file as it lies in Glance");
    let image = exhibit.dir.display().to_string();
    let planted = run(&["disk", &format!("{image}:/etc/planted"), "cat"]).unwrap().expect(0).unwrap();
    assert_eq!(planted.stdout, "planted in the image\n");
    assert_eq!(exhibit.record["item"]["file"]["wrapping"], "qcow2");
    let entries: Vec<Value> = wire(&exhibit).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let files: Vec<_> = entries
        .iter()
        .filter(|entry| {
            entry["said"].as_str().unwrap().ends_with("/file") || entry["said"].as_str().unwrap().contains("Range")
        })
        .collect();
    let status: Vec<_> = files.iter().map(|entry| entry["http"]["status"].as_u64()).collect();
    assert_eq!(status, [Some(400), Some(200), Some(200), Some(200)], "one Range is refused, and two streams are cut");
    assert!(files[1]["error"].is_string() && files[2]["error"].is_string() && files[3]["error"].is_null());
    // Cut again and again at the same place, it ends, and says so; nothing is sealed, and it can be gone on with.
    cloud.fault(&json!({ "cut_at": vec![3_000_000; 100] }));
    let ran = cloud.acquire(&["--disk", "vda", "--block-size", "1M"]);
    assert!(ran.code == Some(1) && ran.stderr.contains("--resume"), "{ran:?}");
    cloud.fault(&json!({}));
    let images = cloud.state()["images"].as_array().unwrap().len();
    cloud.acquire(&["--disk", "vda", "--block-size", "1M", "--resume"]).expect(0).unwrap();
    assert!(same(&cloud.exhibit("vda").image(), &qcow2));
    assert_eq!(cloud.state()["images"].as_array().unwrap().len(), images, "another instant");
    // One that answers all of it to a Range is no better.
    cloud.fault(&json!({ "ignore_range": true }));
    cloud.acquire(&["--disk", "vda"]).expect(0).unwrap();
    assert!(same(&cloud.exhibit("vda").image(), &qcow2));
}
