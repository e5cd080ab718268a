//! What a killed run may have left, and what becomes of it. The journal is read as hostile: only what impound makes is touched.

use serde::{Deserialize, Serialize};

use super::api::Api;
use super::{isolate, snapshot};
use crate::{BackendError, Undo};

/// An act, as the journal keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "undo", rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum AwsUndo {
    /// Snapshots with the tag of this run. They are evidence: recovery finds and lists them, and deletes nothing.
    Snapshots {
        /// The run.
        run: String,
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
            Self::Groups { groups } => {
                (1..=16).contains(&groups.len()) && groups.iter().all(|id| isolate::is_group(id))
            }
        };
        if good { Ok(read) } else { Err(refuse(format!("{read:?}"))) }
    }
}

/// Undoes all, last first. Answers what was done, a line each.
pub(super) async fn all(api: &Api, instance: &str, undo: &[Undo]) -> Result<Vec<String>, BackendError> {
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
            AwsUndo::Groups { groups } => {
                isolate::set(api, instance, &groups).await?;
                did.push(format!("gave {instance} its security groups {} again", groups.join(" ")));
            }
        }
    }
    Ok(did)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_journal_brings_back_what_it_was_given_and_nothing_else() {
        for undo in [
            AwsUndo::Snapshots { run: "a1b2".to_owned() },
            AwsUndo::Groups { groups: vec!["sg-0123456789abcdef0".to_owned()] },
        ] {
            assert_eq!(AwsUndo::from_journal(&undo.for_journal()).unwrap(), undo);
        }
        for how in [
            json!({ "undo": "snapshots", "run": "*" }),
            json!({ "undo": "groups", "groups": [] }),
            json!({ "undo": "groups", "groups": ["sg-0123456789abcdef0", "i-1"] }),
            json!({ "undo": "delete", "id": "snap-0123456789abcdef0" }),
        ] {
            let forged = Undo { say: "x".to_owned(), holds_guest: false, how: how.clone() };
            assert!(AwsUndo::from_journal(&forged).is_err(), "{how}");
        }
    }
}
