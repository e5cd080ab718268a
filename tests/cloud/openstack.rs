//! The whole way on a cloud where all goes well: targets, show, doctor, plan, acquire, what is kept and what is not.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::common::guest::wait_until;
use crate::common::run::{holds, run};
use crate::kit::{disk, same};
use crate::openstack_kit::{Cloud, SECRET, Wanted, small};

/// A second volume: 1 GiB with a few bytes in the middle.
fn second(folder: &Path) -> PathBuf {
    let path = folder.join("second.img");
    let file = fs::File::create(&path).unwrap();
    file.set_len(1 << 30).unwrap();
    file.write_all_at(b"in the middle", (700 << 20) + 77).unwrap();
    path
}

fn count(log: &[String], part: &str) -> usize {
    log.iter().filter(|line| line.contains(part)).count()
}

/// A server that boots from an image, with a volume beside: first what is only said, then all of it.
#[test]
fn a_server_is_taken_whole_and_its_disks_open() {
    let (own, volume) = (small(), disk());
    let cloud =
        Cloud::start(&Wanted { own: Some((&own, "raw")), volumes: &[("/dev/vdb", &volume)], ..Wanted::default() });
    nothing_is_done_by_asking(&cloud);
    let ran = cloud.acquire(&[]).expect(0).unwrap();
    assert!(ran.stderr.contains("memory is not taken") && ran.stderr.contains("not of one instant"), "{}", ran.stderr);
    for (item, source) in [("vda", &own), ("vdb", &volume)] {
        let exhibit = cloud.exhibit(item);
        assert_eq!(exhibit.outcome(), "complete", "{item}");
        assert!(same(&exhibit.image(), source), "{item} differs");
        let glance = exhibit.record["witnesses"][0]["sha512"].as_str().unwrap().to_owned();
        let ours = Command::new("sha512sum").arg(source).output().unwrap();
        assert!(String::from_utf8_lossy(&ours.stdout).starts_with(&glance), "{item}: Glance's own digest is kept");
        assert_eq!(exhibit.record["stored"][0]["sha512"], glance.as_str());
    }
    for (item, text) in [("vda", "planted in the image\n"), ("vdb", "planted in the cloud\n")] {
        let image = cloud.exhibit(item).image().display().to_string();
        let planted = run(&["disk", &format!("{image}:/etc/planted"), "cat"]).unwrap().expect(0).unwrap();
        assert_eq!(planted.stdout, text);
    }
    for (item, text) in [
        ("console", "planted on the console"),
        ("config", "planted-actor"),
        ("config", "planted-role"),
        ("volumes", "data /dev/vdb"),
    ] {
        assert!(holds(&cloud.exhibit(item).image(), text.as_bytes()).unwrap(), "{item}: {text}");
    }
    cloud.run(&["verify", &cloud.case().display().to_string()]).expect(0).unwrap();
    kept_and_removed(&cloud, &ran.stderr);
    written_down(&cloud);
}

fn nothing_is_done_by_asking(cloud: &Cloud) {
    let targets = cloud.run(&["targets", "openstack://lab"]).expect(0).unwrap().rows().unwrap();
    assert_eq!(targets.iter().map(|row| row["name"].as_str().unwrap()).collect::<Vec<_>>(), ["web01", "other"]);
    let show = cloud.run(&["show", &format!("openstack://lab#{}", cloud.server)]).expect(0).unwrap();
    for part in ["vda", "vdb", "console", "memory is not taken", "m1.small", "10.0.0.7", "planted-role"] {
        assert!(show.stdout.contains(part), "{part}: {}", show.stdout);
    }
    let plan = cloud.acquire(&["--plan"]).expect(0).unwrap();
    for part in ["createImage", "os-volume_upload_image", "memory is not taken"] {
        assert!(plan.stdout.contains(part), "{part}: {}", plan.stdout);
    }
    for (wrong, word) in [(&["--memory"][..], "no memory"), (&["--require", "stopped"], "quasi-instantaneous")] {
        let ran = cloud.acquire(wrong);
        assert!(ran.code != Some(0) && ran.stderr.contains(word), "{wrong:?}: {ran:?}");
    }
    let doctor = cloud.run(&["doctor", "openstack://lab#web01"]);
    let rows = doctor.rows().unwrap();
    let bad: Vec<_> =
        rows.iter().filter(|row| row["good"] != true && !row["what"].as_str().unwrap().starts_with("space")).collect();
    assert!(bad.is_empty() && doctor.stdout.contains("responder in project lab as "), "{doctor:?}");
    let roles = rows.iter().find(|row| row["what"] == "roles").unwrap()["found"].as_str().unwrap();
    assert!(roles.contains("member") && roles.contains("known when one is taken"), "{roles}");
    // Who may only read is told so, and is refused before anything is there.
    let reader = cloud.run(&["doctor", "openstack://reader"]).expect(1).unwrap();
    assert!(reader.stdout.contains("no more than reader"), "{}", reader.stdout);
    let case = cloud.folder.path().join("refused").display().to_string();
    let ran = cloud.run(&["acquire", "openstack://reader#web01", "--case", &case, "--disk", "all"]);
    assert!(ran.code == Some(1) && ran.stdout.contains("HTTP 403"), "{ran:?}");
    let state = cloud.state();
    for what in ["snapshots", "images"] {
        assert_eq!(state[what], json!([]), "{what} were made");
    }
}

/// Snapshots and images stay, each with the command that deletes it; the temporary volume is gone.
fn kept_and_removed(cloud: &Cloud, said: &str) {
    let state = cloud.state();
    let run = cloud.exhibit("vdb").record["run"].as_str().unwrap().to_owned();
    let images = state["images"].as_array().unwrap();
    assert_eq!((images.len(), state["snapshots"].as_array().unwrap().len()), (2, 1));
    assert!(images.iter().all(|image| image["name"].as_str().unwrap().starts_with(&format!("impound-{run}-"))));
    let ids = images.iter().map(|image| format!("image delete {}", image["id"].as_str().unwrap()));
    let snapshot = format!("volume snapshot delete {}", state["snapshots"][0]["id"].as_str().unwrap());
    for command in ids.chain([snapshot]) {
        assert!(said.contains(&format!("openstack --os-cloud lab {command}")), "{command}: {said}");
    }
    assert_eq!(state["snapshots"][0]["metadata"]["impound_run"], run.as_str());
    let volumes: Vec<_> =
        state["volumes"].as_array().unwrap().iter().map(|one| one["status"].as_str().unwrap()).collect();
    assert_eq!(volumes, ["in-use"], "the temporary volume is still there");
    assert_eq!(count(&cloud.log(), "os-volume_upload_image"), 1);
}

/// Every call is in the log, with its status and the service's own name for it; what lasts least came first.
fn written_down(cloud: &Cloud) {
    let log = fs::read_to_string(cloud.exhibit("vdb").dir.join("wire.jsonl")).unwrap();
    let entries: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for entry in &entries {
        let http = &entry["http"];
        assert!(
            http["status"].is_u64() && http["request_id"].as_str().is_some_and(|id| id.starts_with("req-")),
            "{entry}"
        );
    }
    let said = |part: &str| entries.iter().position(|entry| entry["said"].as_str().unwrap().contains(part)).unwrap();
    let order = ["auth/tokens", "os-getConsoleOutput", "createImage", "\"volume\":", "os-volume_upload_image"];
    let places: Vec<_> = order.iter().map(|part| said(part)).collect();
    assert!(places.is_sorted(), "{places:?}");
    assert!(
        entries[places[0]]["said"].as_str().unwrap().ends_with("/v3/auth/tokens [secret]"),
        "{}",
        entries[places[0]]
    );
    // The file of 1 GiB in spans of 4 MiB, the server's own of 48 MiB, and one question each whether parts are given.
    assert_eq!(entries.iter().filter(|entry| entry["said"].as_str().unwrap().contains("Range:")).count(), 256 + 12 + 2);
}

/// A server that boots from a volume; the volumes are of a group. Killed in the middle, by a signal that nothing can catch.
#[test]
fn volumes_of_a_group_are_one_snapshot_and_a_killed_run_goes_on_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let (root, other) = (disk(), second(folder.path()));
    let volumes: &[(&str, &Path)] = &[("/dev/vda", &root), ("/dev/vdb", &other)];
    let cloud = Cloud::start(&Wanted { volumes, group: true, ..Wanted::default() });
    cloud.fault(&json!({ "hold_after": 20 }));
    let case = cloud.case().display().to_string();
    let arguments = ["acquire", "openstack://lab#web01", "--case", &case, "--disk", "all", "--block-size", "1M"];
    let mut child = cloud.command(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_until(|| cloud.state()["held"].as_u64() > Some(0), Duration::from_secs(300), "the middle of the copy")
        .unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    cloud.control(&json!({ "fault": {}, "release": true }));
    let images = cloud.state()["images"].as_array().unwrap().len();
    let ran = cloud.run(&[&arguments[..], &["--resume"]].concat()).expect(0).unwrap();
    assert!(ran.stderr.contains("never ended"), "{}", ran.stderr);
    assert!(ran.stderr.contains("promises one instant"), "{}", ran.stderr);
    for (item, source) in [("vda", &root), ("vdb", &other)] {
        assert!(same(&cloud.exhibit(item).image(), source), "{item} differs");
        assert!(cloud.exhibit(item).record["witnesses"][0]["sha512"].is_string(), "{item} was not compared");
    }
    let (log, state) = (cloud.log(), cloud.state());
    assert_eq!((count(&log, "POST /volume/v3/") > 0, count(&log, "\"group_snapshot\"")), (true, 1), "another instant");
    assert!(images <= 2 && state["images"].as_array().unwrap().len() == 2, "another image");
    assert_eq!(state["snapshots"].as_array().unwrap().len(), 2);
    // What the killed run left open is put in order: the temporary volumes are gone, what is evidence is listed.
    cloud.run(&["verify", &case]).expect(3).unwrap();
    let recovered = cloud.run(&["case", "recover", &case]).expect(0).unwrap();
    assert!(
        recovered.stderr.contains("volume snapshot delete") || recovered.stdout.contains("volume snapshot delete"),
        "{recovered:?}"
    );
    cloud.run(&["verify", &case]).expect(0).unwrap();
    let left: Vec<_> = cloud.state()["volumes"].as_array().unwrap().iter().map(|one| one["status"].clone()).collect();
    assert_eq!(left, ["in-use", "in-use"]);
    let found = cloud.exhibit("vda").record["instant"]["snapshot"].clone();
    assert!(found.is_null() || found["group_snapshot_id"].is_string(), "{found}");
}

/// Every way to log in, and those that are refused.
#[test]
fn credentials_are_found_as_openstacksdk_finds_them() {
    let cloud = Cloud::start(&Wanted { own: Some((&small(), "raw")), ..Wanted::default() });
    let url = format!("http://127.0.0.1:{}/identity/v3", cloud.port);
    let env = |vars: &[(&str, &str)]| {
        let mut command = cloud.command(&["targets", "openstack://envvars"]);
        command.env("OS_AUTH_URL", &url).envs(vars.iter().copied());
        cloud.end(&mut command)
    };
    let user = [
        ("OS_USERNAME", "responder"),
        ("OS_USER_DOMAIN_ID", "default"),
        ("OS_PROJECT_NAME", "lab"),
        ("OS_PROJECT_DOMAIN_NAME", "Default"),
    ];
    let with = |more: &[(&'static str, &'static str)]| env(&[&user[..], more].concat());
    with(&[("OS_PASSWORD", SECRET), ("OS_IDENTITY_API_VERSION", "3")]).expect(0).unwrap();
    let credential = cloud.control(&json!({ "credential": true }));
    let text = |name: &str| credential["credential"][name].as_str().unwrap();
    for vars in [
        vec![
            ("OS_AUTH_TYPE", "v3applicationcredential"),
            ("OS_APPLICATION_CREDENTIAL_ID", text("id")),
            ("OS_APPLICATION_CREDENTIAL_SECRET", text("secret")),
        ],
        vec![("OS_AUTH_TYPE", "v3token"), ("OS_TOKEN", text("token")), ("OS_PROJECT_ID", text("project"))],
    ] {
        let ran = env(&vars).expect(0).unwrap();
        assert!(!ran.stderr.contains(text("secret")) && !ran.stdout.contains(text("token")));
    }
    for (more, word) in [
        (&[("OS_PASSWORD", "hunter2-wrong")][..], "HTTP 401"),
        (&[("OS_PASSWORD", SECRET), ("OS_INSECURE", "true")], "cacert"),
        (&[("OS_PASSWORD", SECRET), ("OS_REGION_NAME", "Elsewhere")], "Elsewhere"),
        (&[("OS_PASSWORD", SECRET), ("OS_CACERT", "/nonexistent/ca.pem")], "/nonexistent/ca.pem"),
        (&[], "there is no password"),
    ] {
        let ran = with(more);
        assert!(ran.code != Some(0) && ran.stderr.contains(word) && !ran.stderr.contains("hunter2"), "{word}: {ran:?}");
    }
    let nobody = cloud.run(&["targets", "openstack://nobody"]);
    assert!(nobody.code != Some(0) && nobody.stderr.contains("no cloud of that name"), "{nobody:?}");
    let several = cloud.run(&["show", "openstack://lab#none"]);
    assert!(several.code != Some(0) && several.stderr.contains("Nova lists none"), "{several:?}");
}
