//! `--share ACCOUNT`: after the capture, the snapshots may be copied by an account that keeps evidence (`ModifySnapshotAttribute`).
//!
//! Only a copy under a key of that account's is beyond the reach of everybody in the suspect one; `--copy-to` makes it. A snapshot under
//! the key that AWS keeps for EBS cannot be shared ("Share an Amazon EBS snapshot", Amazon EBS User Guide), which is refused where it can be
//! known beforehand; what fails later is a problem and no reason to lose the capture.

use super::api::Api;
use super::ec2::{Snapshot, param};
use crate::{BackendError, How};

/// Its name among the options.
pub(super) const OPTION: &str = "share";

/// The account: twelve digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Share(pub(super) String);

/// Twelve digits.
pub(super) fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|c| c.is_ascii_digit())
}

impl Share {
    /// What is asked for, if anything.
    pub(super) fn of(how: &How) -> Result<Option<Self>, BackendError> {
        let Some(account) = how.options.get(OPTION) else { return Ok(None) };
        if is_account(account) {
            return Ok(Some(Self(account.clone())));
        }
        Err(BackendError::caller("share the snapshots", account, "an account is called by twelve digits"))
    }

    /// The line of a plan.
    pub(super) fn command(&self) -> String {
        format!("after the capture: ec2 ModifySnapshotAttribute, each of them may be copied by account {}", self.0)
    }

    /// Shares all of them. Answers those that are; what is said of them goes into `left`, and `by_hand` also how to copy them.
    pub(super) async fn all(
        &self,
        api: &Api,
        made: &[Snapshot],
        by_hand: bool,
        left: &mut Vec<String>,
        problems: &mut Vec<String>,
    ) -> Vec<Snapshot> {
        let mut shared = Vec::new();
        for snapshot in made {
            let id = &snapshot.id;
            let params = [
                param("SnapshotId", id.as_str()),
                param("Attribute", "createVolumePermission"),
                param("OperationType", "add"),
                param("UserId.1", self.0.as_str()),
            ];
            match api.ec2("share the snapshot", "ModifySnapshotAttribute", &params, false).await {
                Ok(_) => {
                    left.push(self.left(id, &api.region, by_hand));
                    shared.push(snapshot.clone());
                }
                Err(refused) => problems.push(format!("{id} is not shared with {}: {}", self.0, refused.error)),
            }
        }
        shared
    }

    fn left(&self, id: &str, region: &str, by_hand: bool) -> String {
        let account = &self.0;
        let command = format!(
            ", there: aws ec2 copy-snapshot --source-region {region} --source-snapshot-id {id} --encrypted --kms-key-id KEY"
        );
        let command = if by_hand { command.as_str() } else { "" };
        format!(
            "{id} may be copied by {account}{command}; to end it here: aws ec2 modify-snapshot-attribute --region {region} --snapshot-id {id} --attribute createVolumePermission --operation-type remove --user-ids {account}"
        )
    }
}
