//! Which permission is missing, asked without doing anything: EC2 by `DryRun`, EBS direct by a snapshot that does not exist, since
//! AWS looks at permissions before it looks for things.

use std::sync::Arc;

use super::api::{Api, Refused};
use super::ec2::{is_id, param};
use super::kms;
use super::settings::Settings;
use crate::{Access, BackendError, Finding, Uri};

/// A snapshot that nobody has.
const NOBODYS: &str = "snap-00000000000000000";
/// An instance that nobody has, where none is named: permission is asked for all of them.
const NO_INSTANCE: &str = "i-00000000000000000";

/// All that a capture needs in this region, of this instance if one is named.
pub(super) async fn checkup(uri: &Uri, access: &Access) -> Vec<Finding> {
    let api = match open(uri, access) {
        Ok(api) => api,
        Err(error) => return vec![bad("settings for AWS", &error)],
    };
    let caller = match super::caller(&api).await {
        Ok(caller) => caller,
        Err(error) => return vec![bad("credentials for AWS", &error)],
    };
    let found = format!("{} by {}", caller.arn, caller.credentials);
    let mut findings = vec![Finding { what: "credentials for AWS".to_owned(), good: true, found, fix: None }];
    let instance = uri.vm.as_deref().filter(|vm| is_id(vm, "i-")).unwrap_or(NO_INSTANCE);
    for (action, params) in [
        ("DescribeInstances", vec![]),
        ("DescribeVolumes", vec![]),
        ("DescribeSnapshots", vec![]),
        ("DescribeSecurityGroups", vec![]),
        ("GetConsoleOutput", vec![param("InstanceId", instance)]),
        ("GetConsoleScreenshot", vec![param("InstanceId", instance)]),
        ("CreateSnapshots", vec![param("InstanceSpecification.InstanceId", instance)]),
    ] {
        findings.push(dry_run(&api, action, params).await);
    }
    findings.push(blocks(&api).await);
    if instance != NO_INSTANCE {
        findings.extend(keys(&api, instance).await);
    }
    findings
}

fn open(uri: &Uri, access: &Access) -> Result<Arc<Api>, BackendError> {
    Ok(Arc::new(Api::new(super::region(uri)?, &Settings::load()?, access)?))
}

fn bad(what: &str, error: &BackendError) -> Finding {
    Finding { what: what.to_owned(), good: false, found: error.why.clone(), fix: error.advice.clone() }
}

/// What a refusal says of a permission: there, not there, or nothing.
fn verdict(what: &str, permission: &str, refused: Option<&Refused>) -> Finding {
    let finding = |good, found: String, fix| Finding { what: what.to_owned(), good, found, fix };
    let Some(refused) = refused else { return finding(true, "allowed".to_owned(), None) };
    match refused.code.as_str() {
        "DryRunOperation" => finding(true, "allowed".to_owned(), None),
        "UnauthorizedOperation" | "AccessDenied" | "AccessDeniedException" => {
            let fix = format!("give the caller the permission {permission}");
            finding(false, "not allowed".to_owned(), Some(fix))
        }
        // It was let in, and then what it asked for was not there.
        "ResourceNotFoundException" | "ValidationException" => finding(true, "not forbidden".to_owned(), None),
        code if code.starts_with("InvalidInstanceID") || code.starts_with("InvalidSnapshot") => {
            finding(true, "not forbidden; no instance was named to ask about".to_owned(), None)
        }
        _ => finding(false, refused.error.why.clone(), refused.error.advice.clone()),
    }
}

async fn dry_run(api: &Api, action: &str, mut params: Vec<(String, String)>) -> Finding {
    params.push(param("DryRun", "true"));
    let permission = format!("ec2:{action}");
    let refused = api.ec2("ask for a permission", action, &params, false).await.err();
    verdict(&permission, &permission, refused.as_ref())
}

/// Which key the volumes are encrypted with: with one of them no snapshot can be handed on.
async fn keys(api: &Api, instance: &str) -> Vec<Finding> {
    let about = api.instances(Some(instance)).await.ok().and_then(|mut found| found.pop());
    let Some(about) = about else { return Vec::new() };
    // What is forbidden was found above.
    let volumes = api.volumes(&about).await.unwrap_or_default();
    let mut findings = Vec::new();
    for key in kms::keys_of(volumes.iter()) {
        let found = match api.key(&key).await {
            Ok(found) if found.of_aws => {
                "AWS keeps it: snapshots can be shared with nobody, so neither --share nor --copy-to is possible"
                    .to_owned()
            }
            Ok(found) => format!("the account's own, {}: snapshots can be shared", found.state),
            Err(refused) => format!("not known, nor whether snapshots can be shared: {}", refused.error.why),
        };
        findings.push(Finding { what: format!("key {key}"), good: true, found, fix: None });
    }
    findings
}

async fn blocks(api: &Api) -> Finding {
    let refused = api.list_blocks(NOBODYS, super::ebs::List::Written, 0, None, super::ebs::PAGE.1).await.err();
    let both = "ebs:ListSnapshotBlocks and ebs:GetSnapshotBlock";
    verdict("ebs:ListSnapshotBlocks", both, refused.as_ref())
}
