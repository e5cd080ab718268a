//! Who asks: each way to a token, what is said if there is none, and what the caller may do.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::gcp_kit::{Cloud, EMAIL, SECRET};
use crate::kit::{disk, found};

/// Rows of `doctor` that are of the cloud.
fn ours(rows: Vec<Value>) -> Vec<Value> {
    rows.into_iter().filter(|row| !row["what"].as_str().unwrap().starts_with("space")).collect()
}

fn user(secret: &str) -> Value {
    json!({
        "type": "authorized_user", "client_id": "gcloud", "client_secret": secret, "refresh_token": format!("1//{secret}"),
        "quota_project_id": "lab-4711",
    })
}

fn external(cloud: &Cloud, source: &Value, account: bool) -> Value {
    let mut file = json!({
        "type": "external_account", "audience": "//iam.googleapis.com/pool", "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": format!("{}/token", cloud.address()), "credential_source": source,
    });
    if account {
        let path = format!("v1/projects/-/serviceAccounts/{EMAIL}:generateAccessToken");
        file["service_account_impersonation_url"] = json!(format!("{}/{path}", cloud.address()));
    }
    file
}

#[test]
fn each_way_to_a_token_leads_to_the_machine_and_is_seen_nowhere() {
    let cloud = Cloud::start(&[disk()]);
    let doctor = ["doctor", &cloud.target()];
    let by = |command: &mut Command, from: &str| {
        let rows = cloud.end(command).rows().unwrap();
        let found = |what: &str| found(&rows, what);
        assert!(found("credentials for Google's cloud").contains(from), "{from}: {rows:?}");
        assert!(found("target").contains("web01 is running"), "{rows:?}");
    };
    let file = |name: &str, content: &Value| {
        let path = cloud.credentials(name, content);
        let mut command = cloud.anonymous(&doctor);
        command.env("GOOGLE_APPLICATION_CREDENTIALS", path);
        command
    };
    by(&mut cloud.command(&doctor), &format!("{EMAIL}, by the key 0123456789abcdef"));
    // As gcloud leaves it, in its own folder.
    let gcloud = cloud.folder.path().join(".config/gcloud");
    fs::create_dir_all(&gcloud).unwrap();
    fs::write(gcloud.join("application_default_credentials.json"), user(SECRET).to_string()).unwrap();
    by(&mut cloud.anonymous(&doctor), "examiner@lab.example, by gcloud's application default credentials");
    fs::remove_dir_all(&gcloud).unwrap();
    let token = cloud.folder.path().join("token");
    fs::write(&token, "sekrit-web-identity\n").unwrap();
    by(
        &mut file("file.json", &external(&cloud, &json!({ "file": token }), false)),
        "//iam.googleapis.com/pool, by a token of another",
    );
    let url = json!({
        "url": format!("{}/subject", cloud.address()), "headers": { "Metadata": "true" },
        "format": { "type": "json", "subject_token_field_name": "token" },
    });
    by(&mut file("url.json", &external(&cloud, &url, true)), &format!("{EMAIL}, by a token of another"));
    cloud.fault(&json!({ "metadata": true }));
    by(&mut cloud.anonymous(&doctor), "machine@lab.example, by the service account of this machine");
}

#[test]
fn whoever_is_nobody_is_told_what_to_do_and_no_secret_is_repeated() {
    let cloud = Cloud::start(&[disk()]);
    let show = ["show", &cloud.target()];
    let fails = |command: &mut Command, words: &[&str]| {
        let ran = cloud.end(command);
        assert!(ran.code == Some(1) && words.iter().all(|word| ran.stderr.contains(word)), "{words:?}: {ran:?}");
    };
    let file = |name: &str, content: &Value| {
        let path = cloud.credentials(name, content);
        let mut command = cloud.command(&show);
        command.env("GOOGLE_APPLICATION_CREDENTIALS", path);
        command
    };
    // Google repeats what it was sent, and the error does not.
    fails(&mut file("other.json", &cloud.account("other.pem")), &["Invalid JWT Signature: [secret]"]);
    fails(&mut file("user.json", &user(&format!("{SECRET}2"))), &["invalid_grant", "[secret]"]);
    let mut damaged = cloud.account("key.pem");
    damaged["private_key"] = json!(format!("-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----\n"));
    fails(&mut file("damaged.json", &damaged), &["Base64"]);
    fails(
        &mut file("none.json", &json!({ "type": "gdch_service_account" })),
        &["not spoken", "gcloud auth application-default login"],
    );
    let mut far = cloud.account("key.pem");
    far["token_uri"] = json!("http://oauth.example/token");
    fails(&mut file("far.json", &far), &["HTTPS"]);
    fails(&mut cloud.anonymous(&show), &["no service account", "gcloud auth application-default login"]);
    let missing = cloud.folder.path().join("missing.json");
    fails(cloud.anonymous(&show).env("GOOGLE_APPLICATION_CREDENTIALS", missing), &["it is not there"]);
    for name in ["CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE", "STORAGE_EMULATOR_HOST"] {
        fails(cloud.command(&show).env(name, "http://compute.example"), &["HTTPS"]);
    }
    fails(cloud.anonymous(&show).env("GCE_METADATA_HOST", "metadata.example"), &["not near"]);
    assert_eq!(cloud.asked("/instances"), 0);
}

#[test]
fn doctor_says_which_permission_is_missing() {
    let cloud = Cloud::start(&[disk()]);
    let rows = ours(cloud.run(&["doctor", &cloud.target()]).rows().unwrap());
    assert!(rows.iter().all(|row| row["good"] == true), "{rows:?}");
    let missing = "compute.disks.createSnapshot";
    cloud.fault(&json!({ "deny": [missing] }));
    let rows = ours(cloud.run(&["doctor", &cloud.target()]).expect(1).unwrap().rows().unwrap());
    let bad: Vec<_> = rows.iter().filter(|row| row["good"] == false).collect();
    assert!(
        bad.len() == 1 && bad[0]["what"] == missing && bad[0]["fix"].as_str().unwrap().contains(missing),
        "{bad:?}"
    );
    // Refused by what must be there, it fails before anything is captured, says why, and leaves nothing.
    let ran = cloud.acquire(&["--disk", "web01"]);
    assert!(ran.code == Some(1) && ran.stderr.contains(missing) && ran.stderr.contains("impound doctor"), "{ran:?}");
    cloud.fault(&json!({ "deny": ["storage.objects.get"] }));
    for more in [&["--plan"][..], &["--disk", "web01"]] {
        let ran = cloud.acquire(more);
        assert!(ran.code == Some(1) && ran.stderr.contains("these are missing: storage.objects.get"), "{ran:?}");
    }
    cloud.fault(&json!({ "deny": ["storage.objects.delete"] }));
    let ran = cloud.acquire(&["--disk", "web01", "--remove-export"]);
    assert!(ran.code == Some(1) && ran.stderr.contains("these are missing: storage.objects.delete"), "{ran:?}");
    assert_eq!((cloud.state()["snapshots"].clone(), cloud.objects().len()), (json!([]), 0));
    // All that a whole run needed is what doctor asks about.
    cloud.fault(&json!({}));
    cloud.acquire(&[]).expect(0).unwrap();
    for asked in cloud.state()["asked"].as_array().unwrap() {
        let known = rows.iter().any(|row| row["what"] == *asked) || asked.as_str().unwrap().starts_with("storage.");
        assert!(known, "doctor does not ask about {asked}");
    }
}

/// An exhibit that may not be had is no reason to take nothing.
#[test]
fn what_may_not_be_seen_is_said_and_the_disk_is_taken() {
    let cloud = Cloud::start(&[disk()]);
    let denied = ["compute.instances.getScreenshot", "compute.instances.getEffectiveFirewalls", "compute.projects.get"];
    cloud.fault(&json!({ "deny": denied }));
    let ran = cloud.acquire(&[]);
    assert!(ran.code != Some(0) && ran.stdout.contains("compute.instances.getScreenshot"), "{ran:?}");
    assert_eq!(cloud.exhibit("web01").outcome(), "complete");
    let config = fs::read_to_string(cloud.exhibit("config").image()).unwrap();
    assert!(config.contains("\"absent\"") && config.contains("compute.projects.get"), "{config}");
}
