//! The whole way on an account where all goes well: targets, show, doctor, plan, acquire, what is kept, locked and isolated.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::aws_kit::{Account, BLOCK, SECRET, written};
use crate::common::run::{holds, run};
use crate::kit::{disk, same};

/// A second disk: 1 GiB with a few bytes in the middle of a block.
fn second(folder: &std::path::Path) -> PathBuf {
    let path = folder.join("second.img");
    let file = fs::File::create(&path).unwrap();
    file.set_len(1 << 30).unwrap();
    file.write_all_at(b"in the middle", (700 << 20) + 77).unwrap();
    path
}

/// Said with `--lock` and without a word about the rest: both disks, the screen, the console and what EC2 says.
#[test]
fn an_instance_is_taken_whole_and_its_disk_opens() {
    let folder = tempfile::tempdir().unwrap();
    let other = second(folder.path());
    let account = Account::start(&[disk(), other.clone()]);
    account.fault(&serde_json::json!({ "pending": 3, "empty_pages": true, "page": 100 }));
    let ran = account.acquire(&["--lock", "governance:30"]).expect(0).unwrap();
    assert!(ran.stderr.contains("memory is not taken"), "{}", ran.stderr);
    for (item, source) in [("sda1", &disk()), ("sdb", &other)] {
        let exhibit = account.exhibit(item);
        assert_eq!(exhibit.outcome(), "complete", "{item}");
        assert!(same(&exhibit.image(), source), "{item} differs");
    }
    let state = account.state();
    let blocks = written(&disk()).len() + written(&other).len();
    assert_eq!(state["gets"], blocks, "each written block is fetched once, and no other");
    let image = account.exhibit("sda1").image().display().to_string();
    let planted = run(&["disk", &format!("{image}:/etc/planted"), "cat"]).unwrap().expect(0).unwrap();
    assert_eq!(planted.stdout, "planted in the cloud\n");
    assert!(holds(&account.exhibit("console").image(), b"planted on the console").unwrap());
    assert!(holds(&account.exhibit("screenshot").image(), b"\xff\xd8\xff\xe0 what the screen shows").unwrap());
    assert!(holds(&account.exhibit("config").image(), account.instance.as_bytes()).unwrap());
    account.run(&["verify", &account.case().display().to_string()]).expect(0).unwrap();
    kept_tagged_and_locked(&account, &state, &ran.stderr);
    written_down(&account, blocks);
}

fn kept_tagged_and_locked(account: &Account, state: &Value, said: &str) {
    let snapshots = state["snapshots"].as_object().unwrap();
    let record = account.exhibit("sda1").record;
    for item in ["sda1", "sdb"] {
        let id = account.exhibit(item).record["instant"]["snapshot"].as_str().unwrap().to_owned();
        assert_eq!(snapshots[&id]["impound:run"], record["run"], "{snapshots:?}");
        assert_eq!(state["locks"][&id], serde_json::json!(["governance", 30]));
        assert!(said.contains(&format!("aws ec2 delete-snapshot --region eu-west-1 --snapshot-id {id}")), "{said}");
    }
    assert_eq!(record["left"].as_array().unwrap().len(), 2);
    assert_eq!(record["target"]["facts"]["details"]["caller"]["account"], "123456789012");
}

/// Every call is in the log, with its status and the provider's own name for it; what lasts least came first.
fn written_down(account: &Account, blocks: usize) {
    let log = fs::read_to_string(account.exhibit("sda1").dir.join("wire.jsonl")).unwrap();
    let entries: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(entries.iter().all(|entry| entry["http"]["status"].is_u64()), "{log}");
    let said = |part: &str| entries.iter().position(|entry| entry["said"].as_str().unwrap().contains(part)).unwrap();
    let order = ["GetConsoleScreenshot", "GetConsoleOutput", "CreateSnapshots", "LockSnapshot", "/blocks?", "/blocks/"];
    let places: Vec<_> = order.iter().map(|part| said(part)).collect();
    assert!(places.is_sorted(), "{places:?}");
    let fetched: Vec<_> = entries.iter().filter(|entry| entry["said"].as_str().unwrap().contains("/blocks/")).collect();
    assert_eq!(fetched.len(), blocks);
    assert!(fetched.iter().all(|entry| entry["http"]["request_id"].as_str().unwrap().starts_with("ours-")));
    assert!(fetched[0]["said"].as_str().unwrap().ends_with("blockToken=[secret]"), "{}", fetched[0]);
}

#[test]
fn what_there_is_and_what_would_be_done_is_said_and_nothing_is_done() {
    let account = Account::start(&[disk()]);
    let targets = account.run(&["targets", "aws://eu-west-1"]).expect(0).unwrap();
    assert_eq!(targets.rows().unwrap()[0]["name"], account.instance.as_str());
    let show = account.run(&["show", &account.target()]).expect(0).unwrap();
    for part in ["sda1", "console", "screenshot", "memory is not taken", "web01"] {
        assert!(show.stdout.contains(part), "{part}: {}", show.stdout);
    }
    let plan = account.acquire(&["--plan", "--lock", "compliance:1", "--isolate", &account.group]).expect(0).unwrap();
    for part in [
        "CreateSnapshots",
        "LockSnapshot, each of them, compliance mode, 1 days",
        "ModifyInstanceAttribute",
        "memory is not taken",
    ] {
        assert!(plan.stdout.contains(part), "{part}: {}", plan.stdout);
    }
    let log = account.state()["log"].to_string();
    for act in ["CreateSnapshots", "LockSnapshot", "ModifyInstanceAttribute", "GetConsole"] {
        assert!(!log.contains(act), "{act}: {log}");
    }
    for (wrong, word) in [
        (&["--memory"][..], "no memory"),
        (&["--lock", "for-ever:1"], "governance:30"),
        (&["--isolate", "everything"], "security group"),
        (&["--require", "stopped"], "quasi-instantaneous"),
    ] {
        let ran = account.acquire(wrong);
        assert!(ran.code != Some(0) && ran.stderr.contains(word), "{wrong:?}: {ran:?}");
    }
    assert!(!account.state()["log"].to_string().contains("CreateSnapshots"));
}

#[test]
fn an_option_of_another_backend_is_refused() {
    let ran = run(&["acquire", "fake:web01?memory=1M", "--plan", "--isolate", "sg-0123456789abcdef0"]).unwrap();
    assert!(ran.code != Some(0) && ran.stderr.contains("knows no --isolate"), "{ran:?}");
}

#[test]
fn doctor_says_which_permission_is_missing() {
    let account = Account::start(&[disk()]);
    let ran = account.run(&["doctor", &account.target()]);
    assert!(
        ran.rows().unwrap().iter().all(|row| row["good"] == true || row["what"].as_str().unwrap().starts_with("space")),
        "{ran:?}"
    );
    account.fault(&serde_json::json!({ "deny": ["CreateSnapshots"] }));
    let rows = account.run(&["doctor", &account.target()]).expect(1).unwrap().rows().unwrap();
    let row = rows.iter().find(|row| row["what"] == "ec2:CreateSnapshots").unwrap();
    assert_eq!((row["good"].as_bool(), row["found"].as_str()), (Some(false), Some("not allowed")));
    assert!(row["fix"].as_str().unwrap().contains("ec2:CreateSnapshots"));
    // Refused by what must be there, it fails before anything is captured, and says why.
    let ran = account.acquire(&[]);
    assert!(ran.code == Some(1) && ran.stderr.contains("UnauthorizedOperation"), "{ran:?}");
    assert_eq!(account.state()["snapshots"].to_string().matches("impound:run").count(), 0);
}

#[test]
fn it_is_isolated_after_the_capture_and_only_by_a_group_that_lets_nothing_through() {
    let account = Account::start(&[disk()]);
    let before = account.state()["groups"].clone();
    let open = before[0].as_str().unwrap();
    let ran = account.acquire(&["--isolate", open]);
    assert!(ran.code == Some(1) && ran.stderr.contains("let something in or out"), "{ran:?}");
    assert!(!account.state()["log"].to_string().contains("CreateSnapshots"), "refused before anything is done");
    let ran = account.acquire(&["--disk", "all", "--isolate", &account.group]).expect(0).unwrap();
    let state = account.state();
    assert_eq!(state["groups"], serde_json::json!([account.group]));
    let undo =
        format!("modify-instance-attribute --region eu-west-1 --instance-id {} --groups {open}", account.instance);
    assert!(ran.stderr.contains(&undo), "{}", ran.stderr);
    let log: Vec<_> = state["log"].as_array().unwrap().iter().map(|entry| entry.as_str().unwrap()).collect();
    let last = |part: &str| log.iter().rposition(|entry| entry.contains(part)).unwrap();
    assert!(last("ModifyInstanceAttribute") > last("/blocks/"), "isolated before all was captured");
}

/// The guest writes, and forgets, and what was neither comes from the first copy.
#[test]
fn a_second_capture_fetches_only_what_changed() {
    let account = Account::start(&[disk()]);
    account.acquire(&["--disk", "sda1"]).expect(0).unwrap();
    let first = account.exhibit("sda1");
    let later = account.folder.path().join("later.img");
    fs::copy(disk(), &later).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&later).unwrap();
    let gone = written(&disk())[5];
    file.write_all_at(&vec![0; usize::try_from(BLOCK).unwrap()], gone * BLOCK).unwrap();
    file.write_all_at(b"written later", (900 << 20) + 4097).unwrap();
    file.write_all_at(b"and here", 3).unwrap();
    account
        .control(&serde_json::json!({ "volume": account.volumes["/dev/sda1"], "path": later, "fault": { "page": 1 } }));
    let since = first.dir.display().to_string();
    account.acquire(&["--disk", "sda1", "--since", &since, "--share", "210987654321"]).expect(0).unwrap();
    let second = account.exhibit("sda1");
    assert!(second.dir != first.dir && same(&second.image(), &later));
    let state = account.state();
    assert_eq!(state["gets"], 2, "only what was written since is fetched");
    let (before, after) = (&first.record["instant"]["snapshot"], &second.record["instant"]["snapshot"]);
    assert_eq!(second.record["instant"]["since"]["snapshot"], *before);
    assert_eq!(state["shared"][after.as_str().unwrap()], serde_json::json!(["210987654321"]));
    let left = second.record["left"].to_string();
    assert!(left.contains("copy-snapshot") && left.contains("--operation-type remove"), "{left}");
    // An earlier copy that is not as it was sealed is no ground to stand on.
    Command::new("chmod").arg("644").arg(first.image()).status().unwrap();
    fs::OpenOptions::new().write(true).open(first.image()).unwrap().write_all_at(b"x", 600 << 20).unwrap();
    let ran = account.acquire(&["--disk", "sda1", "--since", &since]);
    assert!(ran.code == Some(1) && ran.stderr.contains("damaged"), "{ran:?}");
}

#[test]
fn a_snapshot_that_is_there_already_is_a_target() {
    let account = Account::start(&[disk()]);
    account.acquire(&["--disk", "sda1"]).expect(0).unwrap();
    let id = account.exhibit("sda1").record["instant"]["snapshot"].as_str().unwrap().to_owned();
    let case = account.folder.path().join("case").display().to_string();
    account.run(&["acquire", &format!("aws://eu-west-1#{id}"), "--case", &case]).expect(0).unwrap();
    assert!(same(&account.exhibit(&id).image(), &disk()));
    assert_eq!(account.state()["log"].to_string().matches("CreateSnapshots").count(), 1);
}

/// Keys of a role, by way of STS and a profile, with its own files and a program that gives the first keys.
#[test]
fn a_role_is_taken_on_and_its_keys_are_seen_nowhere() {
    let account = Account::start(&[disk()]);
    let aws = account.folder.path().join(".aws");
    fs::create_dir(&aws).unwrap();
    let program = account.folder.path().join("give keys");
    let keys = format!(
        "#!/bin/sh\necho '{{\"Version\":1,\"AccessKeyId\":\"AKIDIMPOUNDTEST\",\"SecretAccessKey\":\"{SECRET}\"}}'\n"
    );
    fs::write(&program, keys).unwrap();
    Command::new("chmod").arg("755").arg(&program).status().unwrap();
    let role = "arn:aws:iam::123456789012:role/responder";
    let config = format!(
        "[profile base]\ncredential_process = \"{}\"\n[profile ir]\nrole_arn = {role}\nsource_profile = base\nexternal_id = sekrit-external\nendpoint_url = {}\n",
        program.display(),
        account.address()
    );
    fs::write(aws.join("config"), config).unwrap();
    let without = |arguments: &[&str]| {
        let mut command = account.command(arguments);
        command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY").env_remove("AWS_ENDPOINT_URL");
        command
    };
    let case = account.case().display().to_string();
    let acquire = ["acquire", &account.target(), "--case", &case, "--disk", "sda1"];
    account.end(without(&acquire).env("AWS_PROFILE", "ir")).expect(0).unwrap();
    let caller = account.exhibit("sda1").record["target"]["facts"]["details"]["caller"].clone();
    assert!(caller["arn"].as_str().unwrap().contains("responder"), "{caller}");
    assert!(caller["credentials"].as_str().unwrap().contains("by the program"), "{caller}");
    assert!(same(&account.exhibit("sda1").image(), &disk()));
    // A token in a file, as a cluster gives it.
    let token = account.folder.path().join("token");
    fs::write(&token, "sekrit-web-identity\n").unwrap();
    let mut command = without(&["show", &account.target()]);
    let command = command.env("AWS_ENDPOINT_URL", account.address()).env("AWS_WEB_IDENTITY_TOKEN_FILE", &token);
    account.end(command.env("AWS_ROLE_ARN", role)).expect(0).unwrap();
    // Nobody says who asks.
    let ran = account.end(&mut without(&["show", &account.target()]));
    assert!(ran.code == Some(1) && ran.stderr.contains("AWS_PROFILE"), "{ran:?}");
}
