//! Which permission is missing, asked without doing anything: ARM says what the caller may do in a group.
//!
//! "Permissions - List For Resource Group": actions that roles give, with wildcards, and those that they take out. Deny assignments,
//! locks and policies are not in it, and disks in other groups have their own; that is said.

use std::sync::Arc;

use serde_json::Value;

use super::Place;
use super::api::{AUTHORIZATION, Api};
use super::settings::Settings;
use super::vm::Machine;
use crate::{Access, BackendError, Finding, Uri};

/// All that a capture asks for, and what for.
const WANTED: &[(&str, &str)] = &[
    ("Microsoft.Compute/virtualMachines/read", "to list and describe machines"),
    ("Microsoft.Compute/virtualMachines/instanceView/read", "for their state"),
    ("Microsoft.Compute/virtualMachines/retrieveBootDiagnosticsData/action", "for console and screenshot"),
    ("Microsoft.Network/networkInterfaces/read", "to describe network interfaces"),
    ("Microsoft.Compute/disks/read", "to describe disks"),
    ("Microsoft.Compute/disks/beginGetAccess/action", "to take snapshots of disks"),
    ("Microsoft.Compute/snapshots/read", "to follow snapshots"),
    ("Microsoft.Compute/snapshots/write", "to take snapshots"),
    ("Microsoft.Compute/snapshots/beginGetAccess/action", "to read snapshots"),
    ("Microsoft.Compute/snapshots/endGetAccess/action", "to end the access to them"),
];

/// All that a capture needs in this group, and of this machine if one is named.
pub(super) async fn checkup(uri: &Uri, access: &Access) -> Vec<Finding> {
    let (place, api) = match open(uri, access) {
        Ok(opened) => opened,
        Err(error) => return vec![bad("settings for Azure", &error)],
    };
    let caller = match api.bearer.caller().await {
        Ok(caller) => caller,
        Err(error) => return vec![bad("credentials for Azure", &error)],
    };
    let found = format!("{} ({}) of tenant {}, by {}", caller.name, caller.object, caller.tenant, caller.credentials);
    let mut findings = vec![good("credentials for Azure", found)];
    let path = format!("{}/providers/Microsoft.Authorization/permissions", place.group);
    match api.list("ask for permissions", &path, AUTHORIZATION).await {
        Ok(roles) => findings.extend(WANTED.iter().map(|(action, why)| permission(&roles, action, why, &place.group))),
        Err(refused) => findings.push(bad("permissions in the group", &refused.error)),
    }
    if let Some(vm) = uri.vm.as_deref().filter(|vm| !vm.starts_with(super::SNAPSHOT)) {
        findings.push(match machine(&api, &place, vm).await {
            Ok(machine) => good("virtual machine", format!("{vm} is {}", machine.state())),
            Err(error) => bad("virtual machine", &error),
        });
    }
    findings
}

async fn machine(api: &Arc<Api>, place: &Place, vm: &str) -> Result<Machine, BackendError> {
    Machine::open(api, &place.machine(vm)?).await
}

fn open(uri: &Uri, access: &Access) -> Result<(Place, Arc<Api>), BackendError> {
    let place = Place::of(uri)?;
    let api = Arc::new(Api::new(&place.subscription, &Settings::load(), access)?);
    Ok((place, api))
}

fn good(what: &str, found: String) -> Finding {
    Finding { what: what.to_owned(), good: true, found, fix: None }
}

fn bad(what: &str, error: &BackendError) -> Finding {
    Finding { what: what.to_owned(), good: false, found: error.why.clone(), fix: error.advice.clone() }
}

fn permission(roles: &[Value], action: &str, why: &str, group: &str) -> Finding {
    if roles.iter().any(|role| gives(role, action)) {
        return good(action, "given by a role; deny assignments, locks and policies are not asked for".to_owned());
    }
    let fix = format!("give the caller a role with {action} on {group}");
    Finding {
        what: action.to_owned(),
        good: false,
        found: format!("no role gives it; it is needed {why}"),
        fix: Some(fix),
    }
}

/// Does a role give it, and not take it out again?
fn gives(role: &Value, action: &str) -> bool {
    let has = |list: &str| {
        let listed = role.get(list).and_then(Value::as_array).into_iter().flatten();
        listed.filter_map(Value::as_str).any(|pattern| fits(pattern, action))
    };
    has("actions") && !has("notActions")
}

/// `Microsoft.Compute/*/read`, in any case; a `*` stands for anything.
fn fits(pattern: &str, action: &str) -> bool {
    let (pattern, action) = (pattern.to_ascii_lowercase(), action.to_ascii_lowercase());
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| action.strip_prefix(first)) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = rest.get(at + part.len()..).unwrap_or_default();
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn wildcards_give_and_take_as_in_azure() {
        let action = "Microsoft.Compute/snapshots/beginGetAccess/action";
        for pattern in
            ["*", "microsoft.compute/*", "Microsoft.Compute/snapshots/*/action", "*/action", action, "M*c*on"]
        {
            assert!(fits(pattern, action), "{pattern}");
        }
        for pattern in
            ["", "*/read", "Microsoft.Compute", "Microsoft.Compute/snapshots/*/actions", "Microsoft.Compute/*x*"]
        {
            assert!(!fits(pattern, action), "{pattern}");
        }
        assert!(gives(&json!({ "actions": ["*"], "notActions": ["*/write"] }), action));
        assert!(!gives(&json!({ "actions": ["*"], "notActions": ["*/action"] }), action));
        assert!(!gives(&json!({ "actions": [] }), action) && !gives(&json!(null), action));
    }
}
