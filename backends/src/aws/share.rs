//! `--share ACCOUNT`: after the capture, the snapshots may be copied by an account that keeps evidence (`ModifySnapshotAttribute`).
//!
//! The copy itself is for that account to make, under a key of its own: only then does nobody in the suspect account reach it. A
//! snapshot under the account's default key cannot be shared, as AWS documents; that is a problem and no reason to lose the capture.

use super::api::Api;
use super::ec2::{Snapshot, param};
use crate::{BackendError, How};

/// Its name among the options.
pub(super) const OPTION: &str = "share";

/// The account: twelve digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Share(String);

impl Share {
    /// What is asked for, if anything.
    pub(super) fn of(how: &How) -> Result<Option<Self>, BackendError> {
        let Some(account) = how.options.get(OPTION) else { return Ok(None) };
        if account.len() == 12 && account.bytes().all(|c| c.is_ascii_digit()) {
            return Ok(Some(Self(account.clone())));
        }
        Err(BackendError::caller("share the snapshots", account, "an account is called by twelve digits"))
    }

    /// The line of a plan.
    pub(super) fn command(&self) -> String {
        format!("after the capture: ec2 ModifySnapshotAttribute, each of them may be copied by account {}", self.0)
    }

    /// Shares all of them. Answers what to do there, and how to undo it here.
    pub(super) async fn all(&self, api: &Api, made: &[Snapshot], problems: &mut Vec<String>) -> Vec<String> {
        let mut left = Vec::new();
        for Snapshot { id, .. } in made {
            let params = [
                param("SnapshotId", id.as_str()),
                param("Attribute", "createVolumePermission"),
                param("OperationType", "add"),
                param("UserId.1", self.0.as_str()),
            ];
            match api.ec2("share the snapshot", "ModifySnapshotAttribute", &params, false).await {
                Ok(_) => left.push(self.left(id, &api.region)),
                Err(refused) => problems.push(format!("{id} is not shared with {}: {}", self.0, refused.error)),
            }
        }
        left
    }

    fn left(&self, id: &str, region: &str) -> String {
        let account = &self.0;
        format!(
            "{id} may be copied by {account}, there: aws ec2 copy-snapshot --source-region {region} --source-snapshot-id {id} --encrypted --kms-key-id KEY; to end it here: aws ec2 modify-snapshot-attribute --region {region} --snapshot-id {id} --attribute createVolumePermission --operation-type remove --user-ids {account}"
        )
    }
}
