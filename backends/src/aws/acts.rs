//! What is done besides a capture, each only if it was asked for.

use super::api::Api;
use super::copies::Copies;
use super::copy::{self, Vault};
use super::ec2::{Snapshot, Volume};
use super::isolate::Isolation;
use super::lock::Lock;
use super::share::Share;
use super::{Caller, kms};
use crate::wire::http::xml::Element;
use crate::{Access, BackendError, How};

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct Acts {
    pub(super) lock: Option<Lock>,
    pub(super) isolation: Option<Isolation>,
    share: Option<Share>,
    copy: Option<copy::Wish>,
}

impl Acts {
    /// What is asked for, of the instance that EC2 says this of.
    pub(super) fn of(how: &How, about: &Element) -> Result<Self, BackendError> {
        let (share, copy) = (Share::of(how)?, copy::Wish::of(how)?);
        Ok(Self { lock: Lock::of(how)?, isolation: Isolation::of(how, about)?, share, copy })
    }

    /// Is there anything that is done only after all was captured?
    pub(super) fn any_after(&self) -> bool {
        self.share.is_some() || self.copy.is_some() || self.isolation.is_some()
    }

    /// What sharing and copying these volumes' snapshots need, looked at before anything is done: the account for evidence, and what
    /// is not known yet.
    pub(super) async fn ready(
        &self,
        api: &Api,
        caller: &Caller,
        access: &Access,
        volumes: &[&Volume],
    ) -> Result<(Option<Vault>, Vec<String>), BackendError> {
        if (self.share.is_none() && self.copy.is_none()) || volumes.is_empty() {
            return Ok((None, Vec::new()));
        }
        let keys = kms::keys_of(volumes.iter().copied());
        let unknown = kms::shareable(api, &keys).await?;
        let vault = match &self.copy {
            Some(wish) => Some(wish.ready(api, caller, access, &keys).await?),
            None => None,
        };
        Ok((vault, unknown))
    }

    /// The account that `--share` names, unless it is that of the copies.
    fn other(&self, vault: Option<&Vault>) -> Option<&Share> {
        self.share.as_ref().filter(|share| vault.is_none_or(|vault| vault.share() != **share))
    }

    /// The lines of a plan, but for the lock.
    pub(super) fn commands(&self, instance: &str, vault: Option<&Vault>) -> Vec<String> {
        let shares =
            self.other(vault).map(Share::command).into_iter().chain(vault.map(|vault| vault.share().command()));
        let isolation = self.isolation.as_ref().map(|isolation| isolation.command(instance));
        shares.chain(isolation).chain(vault.map(Vault::command)).collect()
    }

    /// Shares what was taken. Answers what is to be copied then.
    pub(super) async fn hand_on(
        &self,
        api: &Api,
        made: &[Snapshot],
        vault: Option<Vault>,
        left: &mut Vec<String>,
        problems: &mut Vec<String>,
    ) -> Option<Copies> {
        if let Some(share) = self.other(vault.as_ref()) {
            share.all(api, made, true, left, problems).await;
        }
        let vault = vault?;
        let shared = vault.share().all(api, made, false, left, problems).await;
        (!shared.is_empty()).then(|| Copies::new(vault, shared))
    }
}
