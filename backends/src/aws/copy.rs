//! `--copy-to PROFILE`: after the capture, the snapshots are shared with the account of this profile and copied there (`CopySnapshot`,
//! "Amazon EC2 API Reference").
//!
//! It comes after the capture, since EC2 copies only what is complete, and of a capture that broke off nothing is handed on; and it
//! is begun after `--isolate`, which must not wait for it. A copy goes on in AWS by itself: it is waited for, and a run that is ended
//! meanwhile says what was not complete. Each copy has a tag with the snapshot it is of. By that it is found if no answer came,
//! and by a run that goes on with the same snapshots, so that nothing is copied twice.

use std::collections::BTreeSet;

use super::api::Api;
use super::ec2::{RUN_TAG, Snapshot, is_id, param, tag_params};
use super::settings::Settings;
use super::{Caller, kms, share};
use crate::{Access, BackendError, How};

/// The names among the options: whose account, where in it, and under which key.
pub(super) const OPTION: &str = "copy-to";
pub(super) const REGION: &str = "copy-region";
pub(super) const KEY: &str = "copy-key";
/// The tag with the snapshot that a copy is of.
pub(super) const OF_TAG: &str = "impound:copy-of";
/// A snapshot that nobody has, to ask for permission.
const NOBODYS: &str = "snap-00000000000000000";

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) profile: String,
    region: Option<String>,
    key: Option<String>,
}

/// A name that stands for itself in a command.
pub(super) fn is_profile(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && !name.starts_with('-')
        && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"_.@:/+=,-".contains(&c))
}

impl Wish {
    /// What is asked for, if anything.
    pub(super) fn of(how: &How) -> Result<Option<Self>, BackendError> {
        let option = |name| how.options.get(name).cloned();
        let (profile, region, key) = (option(OPTION), option(REGION), option(KEY));
        let wrong = |on: &str, why: &str| Err(BackendError::caller("copy the snapshots", on, why.to_owned()));
        let Some(profile) = profile else {
            return match region.or(key) {
                Some(without) => wrong(&without, "no profile is named to copy with")
                    .map_err(|error| error.advise("name a profile of the account for evidence: --copy-to PROFILE")),
                None => Ok(None),
            };
        };
        if !is_profile(&profile) {
            return wrong(&profile, "this is no profile that can be named in a command");
        }
        if region.as_deref().is_some_and(|region| !super::is_region(region)) {
            return wrong(&region.unwrap_or_default(), "this is no region");
        }
        let is_key = |key: &str| key.starts_with("arn:aws") && key.contains(":kms:") && is_profile(key);
        if key.as_deref().is_some_and(|key| !is_key(key)) {
            return wrong(&key.unwrap_or_default(), "this is no ARN of a key")
                .map_err(|error| error.advise("write --copy-key arn:aws:kms:REGION:ACCOUNT:key/ID"));
        }
        Ok(Some(Self { profile, region, key }))
    }

    /// The account, and whether all of it would work, as far as that can be known before anything is done: `caller` takes the
    /// snapshots, which are under these keys.
    pub(super) async fn ready(
        &self,
        api: &Api,
        caller: &Caller,
        access: &Access,
        keys: &BTreeSet<String>,
    ) -> Result<Vault, BackendError> {
        let region = self.region.as_deref().unwrap_or(&api.region);
        let vault = Vault::open(&self.profile, &api.region, region, self.key.clone(), access).await?;
        if vault.account == caller.account {
            let why = format!("its keys are those of account {} itself, where a copy is no safer", caller.account);
            return Err(BackendError::caller("copy the snapshots", format!("profile {}", self.profile), why));
        }
        kms::usable(&vault.near, &vault.account, keys).await?;
        vault.check_key().await?;
        vault.check_permission().await?;
        Ok(vault)
    }
}

/// The account for evidence, with the eyes of the profile.
pub(super) struct Vault {
    pub(super) account: String,
    profile: String,
    key: Option<String>,
    /// In the region that the copies go to.
    api: Api,
    /// In the region that they come from.
    near: Api,
}

impl Vault {
    /// `from` and `to` are regions.
    pub(super) async fn open(
        profile: &str,
        from: &str,
        to: &str,
        key: Option<String>,
        access: &Access,
    ) -> Result<Self, BackendError> {
        let settings = Settings::of_named(profile)?;
        let api = Api::new(to, &settings, access)?;
        let near = api.in_region(from, &settings);
        let account = super::caller(&api).await?.account;
        if !share::is_account(&account) {
            return Err(BackendError::corrupt(
                "ask who the keys belong to",
                profile,
                "Account",
                "twelve digits",
                account,
            ));
        }
        Ok(Self { account, profile: profile.to_owned(), key, api, near })
    }

    /// What lets it copy.
    pub(super) fn share(&self) -> share::Share {
        share::Share(self.account.clone())
    }

    pub(super) fn profile(&self) -> &str {
        &self.profile
    }

    pub(super) fn region(&self) -> &str {
        &self.api.region
    }

    /// The line of a plan.
    pub(super) fn command(&self) -> String {
        let (account, profile, region) = (&self.account, &self.profile, self.region());
        let key = self.key.as_ref().map(|key| format!(", under {key}")).unwrap_or_default();
        format!(
            "after that: ec2 CopySnapshot by account {account} (profile {profile}) to {region}, each of them{key}; the copies stay"
        )
    }

    /// EC2 looks at a key only long after it said yes.
    async fn check_key(&self) -> Result<(), BackendError> {
        let Some(key) = &self.key else { return Ok(()) };
        if key.split(':').nth(3) != Some(self.region()) {
            let why = format!("it is of another region than the copies, which go to {}", self.region());
            return Err(BackendError::caller("copy under the key", key, why)
                .advise("name a key of that region, or --copy-region"));
        }
        let found = self.api.key(key).await.map_err(|refused| {
            let why = format!("account {} may not use it: {}", self.account, refused.error.why);
            BackendError::unsupported("copy under the key", key, why)
        })?;
        kms::enabled(key, &found)
    }

    /// To copy, to tag what is made, and to look at it.
    async fn check_permission(&self) -> Result<(), BackendError> {
        self.copies(&[NOBODYS]).await?;
        let mut params = vec![
            param("SourceRegion", &*self.near.region),
            param("SourceSnapshotId", NOBODYS),
            param("DryRun", "true"),
        ];
        params.extend(tag_params(&[(OF_TAG, NOBODYS.to_owned())]));
        let refused = self.api.ec2("try whether snapshots can be copied", "CopySnapshot", &params, false).await.err();
        match refused {
            Some(refused) if matches!(refused.code.as_str(), "UnauthorizedOperation" | "AccessDenied") => {
                let profile = &self.profile;
                Err(refused
                    .error
                    .advise(format!("let the user of profile {profile} have ec2:CopySnapshot and ec2:CreateTags")))
            }
            _ => Ok(()),
        }
    }

    /// Copies of these snapshots, by their tags.
    pub(super) async fn copies(&self, of: &[&str]) -> Result<Vec<Snapshot>, BackendError> {
        let found = self.api.snapshots_with(OF_TAG, of).await?;
        let is_one = |copy: &Snapshot| copy.tags().get(OF_TAG).is_some_and(|tag| of.contains(&tag.as_str()));
        Ok(found.into_iter().filter(is_one).collect())
    }

    /// One as it is now, by its id.
    pub(super) async fn copy(&self, id: &str) -> Result<Snapshot, super::api::Refused> {
        let found = self.api.snapshots(&[id.to_owned()]).await?.into_iter().find(|found| found.id == id);
        found.ok_or_else(|| {
            BackendError::io("look at the copy", id, &std::io::Error::other("EC2 does not list it")).into()
        })
    }

    /// Asks for one, with the tags and the description of what it is of. The answer is its id.
    pub(super) async fn ask(&self, source: &Snapshot) -> Result<String, super::api::Refused> {
        let common = [
            param("SourceRegion", self.near.region.as_str()),
            param("SourceSnapshotId", source.id.as_str()),
            param("DestinationRegion", self.region()),
        ];
        // Only what is encrypted needs it, and for the rest it is good for nothing and does no harm; so there is one way for both.
        let address = self.near.ec2_address("CopySnapshot", &common).await?;
        let mut params: Vec<(String, crate::wire::http::Text)> =
            common.into_iter().map(|(name, value)| (name, value.into())).collect();
        params.push(("PresignedUrl".to_owned(), address.into()));
        let more = [
            Some(("Description", source.about.get("description").unwrap_or_default())),
            self.key.as_ref().map(|_| ("Encrypted", "true")),
            self.key.as_ref().map(|key| ("KmsKeyId", key.as_str())),
        ];
        params.extend(more.into_iter().flatten().map(|(name, value)| (name.to_owned(), value.into())));
        let tags = source.tags();
        let own = ["Name", RUN_TAG, "impound:by"].into_iter().filter_map(|name| Some((name, tags.get(name)?.clone())));
        let tags: Vec<_> = own.chain([(OF_TAG, source.id.clone())]).collect();
        params.extend(tag_params(&tags).into_iter().map(|(name, value)| (name, value.into())));
        let answer = self.api.ec2("copy the snapshot", "CopySnapshot", &params, true).await?;
        let id = answer.get("snapshotId").unwrap_or_default();
        if !is_id(id, "snap-") {
            return Err(BackendError::corrupt("copy the snapshot", &source.id, "snapshotId", "an id", id).into());
        }
        Ok(id.to_owned())
    }

    /// What is wrong with a copy that is complete.
    pub(super) fn wrong(&self, source: &Snapshot, copy: &Snapshot) -> Option<String> {
        if copy.len != source.len {
            return Some(format!("it has {} bytes and not {}", copy.len, source.len));
        }
        let encrypted = |snapshot: &Snapshot| snapshot.about.get("encrypted") == Some("true");
        if (self.key.is_some() || encrypted(source)) && !encrypted(copy) {
            return Some("it is not encrypted".to_owned());
        }
        let under = copy.about.get("kmsKeyId").unwrap_or_default();
        // An alias is not what EC2 answers.
        let other = self.key.as_ref().filter(|key| !key.contains(":alias/") && *key != under);
        other.map(|key| format!("it is not under {key}, but `{under}`"))
    }

    /// The command that takes it away, for the one who decides.
    pub(super) fn left(&self, copy: &str, source: &str) -> String {
        let (account, profile, region) = (&self.account, &self.profile, self.region());
        format!(
            "snapshot {copy} in account {account}, region {region}, a copy of {source}; to delete it: aws ec2 delete-snapshot --profile {profile} --region {region} --snapshot-id {copy}"
        )
    }
}
