//! What KMS says of a key (`DescribeKey`, "AWS Key Management Service API Reference"), and which snapshots it lets be shared.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::api::{Api, Refused};
use super::ec2::Volume;
use crate::BackendError;

/// What an account needs to be allowed with the key of a snapshot that is shared with it, as "Share the KMS key used to encrypt a shared
/// Amazon EBS snapshot" lists it.
const NEEDED: &str =
    "kms:DescribeKey, kms:CreateGrant, kms:GenerateDataKeyWithoutPlaintext, kms:ReEncrypt* and kms:Decrypt";

/// A key.
pub(super) struct Key {
    /// AWS made it for the account, for EBS: its policy cannot be changed, and so nobody else can be let use it.
    pub(super) of_aws: bool,
    /// `Enabled`, `Disabled`, `PendingDeletion`, ….
    pub(super) state: String,
}

impl Api {
    /// A key by its id, alias or ARN; one of another account by its ARN.
    pub(super) async fn key(&self, id: &str) -> Result<Key, Refused> {
        let answer = self.kms("look at a key", "DescribeKey", &json!({ "KeyId": id })).await?;
        let text = |name: &str| answer.pointer(name).and_then(Value::as_str);
        let (Some(manager), Some(state)) = (text("/KeyMetadata/KeyManager"), text("/KeyMetadata/KeyState")) else {
            return Err(
                BackendError::corrupt("look at a key", id, "the answer", "KeyManager and KeyState", "none").into()
            );
        };
        Ok(Key { of_aws: manager == "AWS", state: state.to_owned() })
    }
}

/// The keys of these volumes, and so of their snapshots, as EC2 names them.
pub(super) fn keys_of<'a>(volumes: impl Iterator<Item = &'a Volume>) -> BTreeSet<String> {
    let encrypted = volumes.filter(|volume| volume.encrypted);
    encrypted.filter_map(|volume| volume.about.get("kmsKeyId")).map(ToOwned::to_owned).collect()
}

/// Can snapshots under these keys be shared? What is known is refused; answers what is not known.
pub(super) async fn shareable(api: &Api, keys: &BTreeSet<String>) -> Result<Vec<String>, BackendError> {
    let mut unknown = Vec::new();
    for key in keys {
        match api.key(key).await {
            Ok(Key { of_aws: true, .. }) => {
                let why = "it is the key that AWS itself keeps for EBS in this account, and what is encrypted with it can be shared with nobody";
                return Err(BackendError::unsupported("share the snapshots", key, why).advise(
                    "take it without --share and --copy-to; then copy the snapshots inside the account under a key of your own, and share those copies",
                ));
            }
            Ok(_) => {}
            Err(refused) => unknown.push(format!(
                "whether snapshots under {key} can be shared is not known before it is tried: {}",
                refused.error.why
            )),
        }
    }
    Ok(unknown)
}

/// May the account for evidence read what is under these keys? EC2 would find out only long after it said yes.
pub(super) async fn usable(there: &Api, account: &str, keys: &BTreeSet<String>) -> Result<(), BackendError> {
    for key in keys {
        let on = format!("{key}, from account {account}");
        match there.key(key).await {
            Ok(found) => enabled(&on, &found)?,
            Err(refused) => {
                let why = format!("the account for evidence may not use it: {}", refused.error.why);
                return Err(BackendError::unsupported("copy what is under the key", on, why)
                    .advise(format!("let account {account} in the key's policy, and its user in IAM, have {NEEDED}")));
            }
        }
    }
    Ok(())
}

/// Refuses a key that encrypts nothing now.
pub(super) fn enabled(on: &str, key: &Key) -> Result<(), BackendError> {
    if key.state == "Enabled" {
        return Ok(());
    }
    let why = format!("the key is {}", key.state);
    Err(BackendError::unsupported("copy what is under the key", on, why))
}
