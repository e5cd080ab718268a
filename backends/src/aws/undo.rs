//! What a killed run may have left, and what becomes of it. The journal is read as hostile: only what impound makes is touched.

use serde::{Deserialize, Serialize};

use super::api::Api;
use super::copy::{self, OF_TAG, Vault};
use super::ec2::is_id;
use super::{isolate, share, snapshot};
use crate::{Access, BackendError, Undo};

/// Most snapshots of one run: an instance has no more volumes, and a filter no more values.
const COPIES_MAX: usize = 128;

/// An act, as the journal keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "undo", rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum AwsUndo {
    /// Snapshots with the tag of this run. They are evidence: recovery finds and lists them, and deletes nothing.
    Snapshots {
        /// The run.
        run: String,
    },
    /// Copies of these snapshots in another account. They are evidence, too.
    Copies {
        /// The profile of the AWS tools that leads there.
        profile: String,
        /// Whose account that is.
        account: String,
        /// The region of the snapshots.
        from: String,
        /// The region of the copies.
        to: String,
        /// The snapshots.
        of: Vec<String>,
    },
    /// The instance had these security groups.
    Groups {
        /// Their ids.
        groups: Vec<String>,
    },
}

impl AwsUndo {
    pub(super) fn for_journal(&self) -> Undo {
        let say = match self {
            Self::Snapshots { run } => format!("look for the snapshots of run {run}, which are kept"),
            Self::Copies { account, of, .. } => {
                format!("look in account {account} for the copies of {}, which are kept", of.join(" "))
            }
            Self::Groups { groups } => format!("give the instance its security groups {} again", groups.join(" ")),
        };
        Undo { say, holds_guest: false, how: serde_json::to_value(self).unwrap_or_default() }
    }

    fn from_journal(undo: &Undo) -> Result<Self, BackendError> {
        let refuse = |why: String| BackendError::corrupt("undo", &undo.say, "the journal", "an act of impound's", why);
        let read: Self = serde_json::from_value(undo.how.clone()).map_err(|error| refuse(error.to_string()))?;
        let good = match &read {
            Self::Snapshots { run } => {
                (1..=12).contains(&run.len()) && run.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
            }
            Self::Copies { profile, account, from, to, of } => {
                copy::is_profile(profile)
                    && share::is_account(account)
                    && super::is_region(from)
                    && super::is_region(to)
                    && (1..=COPIES_MAX).contains(&of.len())
                    && of.iter().all(|id| is_id(id, "snap-"))
            }
            Self::Groups { groups } => {
                (1..=16).contains(&groups.len()) && groups.iter().all(|id| isolate::is_group(id))
            }
        };
        if good { Ok(read) } else { Err(refuse(format!("{read:?}"))) }
    }
}

/// Undoes all, last first. Answers what was done, a line each.
pub(super) async fn all(
    api: &Api,
    access: &Access,
    instance: &str,
    undo: &[Undo],
) -> Result<Vec<String>, BackendError> {
    let mut did = Vec::new();
    for undo in undo {
        match AwsUndo::from_journal(undo)? {
            AwsUndo::Snapshots { run } => {
                let found = api.snapshots_of_run(&run).await?;
                if found.is_empty() {
                    did.push(format!("found no snapshots of run {run}"));
                }
                did.extend(found.iter().map(|kept| format!("kept {}", snapshot::left(kept, &api.region))));
            }
            AwsUndo::Copies { profile, account, from, to, of } => {
                let vault = Vault::open(&profile, &from, &to, None, access).await?;
                if vault.account != account {
                    let why = format!("it leads to account {} now, and the copies are in {account}", vault.account);
                    return Err(BackendError::caller("look for the copies", format!("profile {profile}"), why));
                }
                did.extend(copies(&vault, &of).await?);
            }
            AwsUndo::Groups { groups } => {
                isolate::set(api, instance, &groups).await?;
                did.push(format!("gave {instance} its security groups {} again", groups.join(" ")));
            }
        }
    }
    Ok(did)
}

/// What became of the copies of these snapshots, a line each.
async fn copies(vault: &Vault, of: &[String]) -> Result<Vec<String>, BackendError> {
    let of: Vec<_> = of.iter().map(String::as_str).collect();
    let found = vault.copies(&of).await?;
    let mut did = Vec::new();
    for source in of {
        let copies = found.iter().filter(|copy| copy.tags().get(OF_TAG).is_some_and(|tag| tag == source));
        let lines: Vec<_> =
            copies.map(|copy| format!("kept (it is {}) {}", copy.state, vault.left(&copy.id, source))).collect();
        if lines.is_empty() {
            did.push(format!("found no copy of {source} in account {}", vault.account));
        }
        did.extend(lines);
    }
    Ok(did)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn copies(profile: &str, account: &str, of: &str) -> AwsUndo {
        let region = || "eu-west-1".to_owned();
        let (profile, account, of) = (profile.to_owned(), account.to_owned(), vec![of.to_owned()]);
        AwsUndo::Copies { profile, account, from: region(), to: region(), of }
    }

    #[test]
    fn a_journal_brings_back_what_it_was_given_and_nothing_else() {
        for undo in [
            AwsUndo::Snapshots { run: "a1b2".to_owned() },
            AwsUndo::Groups { groups: vec!["sg-0123456789abcdef0".to_owned()] },
            copies("evidence", "210987654321", "snap-0123456789abcdef0"),
        ] {
            assert_eq!(AwsUndo::from_journal(&undo.for_journal()).unwrap(), undo);
        }
        for how in [
            json!({ "undo": "snapshots", "run": "*" }),
            json!({ "undo": "groups", "groups": [] }),
            json!({ "undo": "groups", "groups": ["sg-0123456789abcdef0", "i-1"] }),
            serde_json::to_value(copies("--endpoint-url=x", "210987654321", "snap-0123456789abcdef0")).unwrap(),
            serde_json::to_value(copies("evidence", "210987654321;", "snap-0123456789abcdef0")).unwrap(),
            serde_json::to_value(copies("evidence", "210987654321", "*")).unwrap(),
            json!({ "undo": "delete", "id": "snap-0123456789abcdef0" }),
        ] {
            let forged = Undo { say: "x".to_owned(), holds_guest: false, how: how.clone() };
            assert!(AwsUndo::from_journal(&forged).is_err(), "{how}");
        }
    }
}
