//! What a killed run may have left, and what becomes of it. The journal is read as hostile: only what impound makes is touched.

use serde::{Deserialize, Serialize};

use super::address::check_id;
use super::api::Api;
use super::{sas, snapshot};
use crate::{BackendError, Undo};

/// Most snapshots of one act.
const MOST: usize = 128;

/// An act, as the journal keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "undo", rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum AzureUndo {
    /// Snapshots that were to be made. They are evidence: recovery looks for them and lists them, and deletes nothing.
    Snapshots {
        /// Their ids.
        ids: Vec<String>,
    },
    /// Addresses that let whoever has them read these snapshots.
    Access {
        /// Ids of the snapshots.
        ids: Vec<String>,
    },
}

impl AzureUndo {
    pub(super) fn for_journal(&self) -> Undo {
        let say = match self {
            Self::Snapshots { ids } => format!("look for {}, which are kept", ids.join(" ")),
            Self::Access { ids } => format!("end the access to {}", ids.join(" ")),
        };
        Undo { say, holds_guest: false, how: serde_json::to_value(self).unwrap_or_default() }
    }

    /// Reads one. What it names must be a snapshot of this group.
    fn from_journal(undo: &Undo, group: &str) -> Result<Self, BackendError> {
        let refuse = |why: String| BackendError::corrupt("undo", &undo.say, "the journal", "an act of impound's", why);
        let read: Self = serde_json::from_value(undo.how.clone()).map_err(|error| refuse(error.to_string()))?;
        let (Self::Snapshots { ids } | Self::Access { ids }) = &read;
        let folder = format!("{group}/providers/Microsoft.Compute/snapshots/");
        let is_snapshot = |id: &String| {
            let name = id.strip_prefix(&folder).filter(|name| !name.contains('/'));
            let made = name.is_some_and(|name| name.starts_with("impound-") || matches!(read, Self::Access { .. }));
            made && check_id(id).is_ok()
        };
        if (1..=MOST).contains(&ids.len()) && ids.iter().all(is_snapshot) {
            return Ok(read);
        }
        Err(refuse(format!("{read:?}")))
    }
}

/// Undoes all, last first. Answers what was done, a line each.
pub(super) async fn all(api: &Api, group: &str, undo: &[Undo]) -> Result<Vec<String>, BackendError> {
    let mut did = Vec::new();
    for undo in undo {
        match AzureUndo::from_journal(undo, group)? {
            AzureUndo::Snapshots { ids } => {
                for id in ids {
                    did.push(match snapshot::get(api, &id).await {
                        Ok(kept) => format!("kept {}", kept.left()),
                        Err(error) => format!("found no snapshot {id}: {}", error.why),
                    });
                }
            }
            AzureUndo::Access { ids } => {
                for id in ids {
                    sas::end(api, &id).await?;
                    did.push(format!("ended the access to {id}"));
                }
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
        let group = "/subscriptions/s/resourceGroups/g";
        let in_group = |name: &str| format!("{group}/providers/Microsoft.Compute/snapshots/{name}");
        for undo in [
            AzureUndo::Snapshots { ids: vec![in_group("impound-a1-os"), in_group("impound-a1-lun0")] },
            AzureUndo::Access { ids: vec![in_group("of-somebody")] },
        ] {
            assert_eq!(AzureUndo::from_journal(&undo.for_journal(), group).unwrap(), undo);
        }
        for how in [
            json!({ "undo": "snapshots", "ids": [in_group("of-somebody")] }),
            json!({ "undo": "access", "ids": [] }),
            json!({ "undo": "access", "ids": [in_group("a/../../b")] }),
            json!({ "undo": "access", "ids": [in_group("a"), "/subscriptions/s/resourceGroups/h/providers/Microsoft.Compute/snapshots/a"] }),
            json!({ "undo": "access", "ids": [in_group("a?b=c")] }),
            json!({ "undo": "delete", "ids": [in_group("impound-a1-os")] }),
        ] {
            let forged = Undo { say: "x".to_owned(), holds_guest: false, how: how.clone() };
            assert!(AzureUndo::from_journal(&forged, group).is_err(), "{how}");
        }
    }
}
