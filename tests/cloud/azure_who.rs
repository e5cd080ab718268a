//! Who asks: each way to a token, what is said if there is none, and what the caller may do.

use std::fs;
use std::process::Command;

use serde_json::json;

use crate::azure_kit::{CLIENT, Cloud, SECRET};
use crate::kit::{disk, found};

/// The Azure CLI as it prints a token, which it gets from the server in the way of an application.
fn az(cloud: &Cloud) -> std::path::PathBuf {
    let folder = cloud.folder.path().join("bin");
    fs::create_dir(&folder).unwrap();
    let form = format!(
        "grant_type=client_credentials&client_id={CLIENT}&client_secret={SECRET}&scope={}/.default",
        cloud.address()
    );
    let script = format!(
        r#"#!/bin/sh
[ "$*" = "account get-access-token --output json --resource {0} --subscription {1}" ] || exit 9
exec python3 -c '
import json, time, urllib.request
answer = json.load(urllib.request.urlopen("{0}/{2}/oauth2/v2.0/token", b"{form}"))
print(json.dumps({{"accessToken": answer["access_token"], "expires_on": int(time.time()) + 3600}}))'
"#,
        cloud.address(),
        cloud.subscription,
        cloud.tenant
    );
    fs::write(folder.join("az"), script).unwrap();
    Command::new("chmod").arg("755").arg(folder.join("az")).status().unwrap();
    folder
}

#[test]
fn each_way_to_a_token_leads_to_the_machine_and_is_seen_nowhere() {
    let cloud = Cloud::start(&[disk()]);
    let doctor = ["doctor", &cloud.target()];
    let by = |command: &mut Command, from: &str| {
        let rows = cloud.end(command).rows().unwrap();
        let found = |what: &str| found(&rows, what);
        assert!(found("credentials for Azure").contains(from), "{from}: {rows:?}");
        assert!(found("virtual machine").contains("web01 is running"), "{rows:?}");
    };
    by(&mut cloud.command(&doctor), "the secret of application");
    let token = cloud.folder.path().join("token");
    fs::write(&token, "sekrit-web-identity\n").unwrap();
    let mut command = cloud.command(&doctor);
    command.env_remove("AZURE_CLIENT_SECRET").env("AZURE_FEDERATED_TOKEN_FILE", &token);
    by(&mut command, "the federated token of application");
    let mut command = cloud.anonymous(&doctor);
    let endpoint = format!("{}/msi/token", cloud.address());
    by(
        command.env("IDENTITY_ENDPOINT", endpoint).env("IDENTITY_HEADER", SECRET),
        "the managed identity of this App Service",
    );
    // A machine that has no identity, and somebody who logged in.
    let path = format!("{}:{}", az(&cloud).display(), std::env::var("PATH").unwrap());
    by(cloud.anonymous(&doctor).env("PATH", &path), "the Azure CLI");
    cloud.fault(&json!({ "imds": true }));
    by(cloud.anonymous(&doctor).env("PATH", &path), "the managed identity of this machine");
}

#[test]
fn whoever_is_nobody_is_told_what_to_do_and_no_secret_is_repeated() {
    let cloud = Cloud::start(&[disk()]);
    let show = ["show", &cloud.target()];
    let fails = |command: &mut Command, words: &[&str]| {
        let ran = cloud.end(command);
        assert!(ran.code == Some(1) && words.iter().all(|word| ran.stderr.contains(word)), "{words:?}: {ran:?}");
    };
    // Entra repeats what it was sent, and the error does not.
    let wrong = format!("{SECRET}2");
    fails(cloud.command(&show).env("AZURE_CLIENT_SECRET", &wrong), &["AADSTS7000215", "[secret]"]);
    let empty = cloud.folder.path().join("empty");
    fs::create_dir(&empty).unwrap();
    fails(cloud.anonymous(&show).env("PATH", &empty), &["az login", "AZURE_CLIENT_SECRET", "Identity not found"]);
    fails(cloud.command(&show).env("AZURE_RESOURCE_MANAGER_ENDPOINT", "http://arm.example"), &["HTTPS"]);
    fails(cloud.command(&show).env("AZURE_AUTHORITY_HOST", "http://entra.example"), &["HTTPS"]);
    fails(
        cloud.anonymous(&show).env("IDENTITY_ENDPOINT", "http://near.example/x").env("IDENTITY_HEADER", SECRET),
        &["neither near nor HTTPS"],
    );
    assert_eq!(cloud.asked("/virtualMachines/"), 0);
}

#[test]
fn doctor_says_which_permission_is_missing() {
    let cloud = Cloud::start(&[disk()]);
    let rows = cloud.run(&["doctor", &cloud.target()]).rows().unwrap();
    let ours = |row: &&serde_json::Value| !row["what"].as_str().unwrap().starts_with("space");
    assert!(rows.iter().filter(ours).all(|row| row["good"] == true), "{rows:?}");
    let who = rows.iter().find(|row| row["what"] == "credentials for Azure").unwrap();
    assert!(who["found"].as_str().unwrap().contains(CLIENT), "{who}");
    let missing = "Microsoft.Compute/snapshots/write";
    cloud.fault(&json!({ "deny": [missing] }));
    let rows = cloud.run(&["doctor", &cloud.target()]).expect(1).unwrap().rows().unwrap();
    let bad: Vec<_> = rows.iter().filter(ours).filter(|row| row["good"] == false).collect();
    assert!(bad.len() == 1 && bad[0]["what"] == missing, "{bad:?}");
    assert!(bad[0]["fix"].as_str().unwrap().contains(missing));
    // Refused by what must be there, it fails before anything is captured, and says why.
    let ran = cloud.acquire(&["--disk", "os"]);
    assert!(ran.code == Some(1) && ran.stderr.contains("AuthorizationFailed"), "{ran:?}");
    assert!(ran.stderr.contains("impound doctor"), "{ran:?}");
    assert_eq!((cloud.state()["snapshots"].clone(), cloud.asked("beginGetAccess")), (json!({}), 0));
}
