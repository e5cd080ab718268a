//! Who asks: tokens by Application Default Credentials, fetched anew before they run out.
//!
//! In the order of "How Application Default Credentials works": the file that `GOOGLE_APPLICATION_CREDENTIALS` names, the one that
//! `gcloud auth application-default login` writes, the service account of the machine that this runs on. What is named is meant: if
//! it fails, nothing else is tried.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use tokio::sync::Mutex;

use super::file::{self, Source};
use super::settings::Settings;
use super::tokens::Places;
use crate::wire::http::{Http, Request, Rules, Sign};
use crate::{BackendError, Secret, WireLog};

/// Tokens are fetched anew when they have less than this left.
const AHEAD: SignedDuration = SignedDuration::from_mins(4);

/// A token, for some time.
#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) secret: Secret,
    pub(super) until: Timestamp,
    pub(super) caller: Caller,
}

/// Who asks, as far as the credentials tell.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Caller {
    /// An account's address, or who it is for another provider.
    pub(super) name: String,
    /// Where the token came from.
    pub(super) credentials: String,
}

/// Puts tokens on requests.
pub(super) struct Bearer {
    source: Source,
    /// The project that the calls are counted for, where the credentials are a person's.
    quota: Option<String>,
    places: Places,
    kept: Mutex<Option<Token>>,
}

impl Bearer {
    /// Chooses the source; nothing is fetched yet. `http` reaches those who give out tokens.
    pub(super) fn new(settings: &Settings, http: Http, wire: &Arc<dyn WireLog>) -> Result<Self, BackendError> {
        // Whoever is not there must not be waited for long.
        let brief = Duration::from_secs(1);
        let rules = Rules { connect_within: brief, within: brief * 10, tries: 2, direct: true, ..Rules::default() };
        let near = Http::new(Arc::clone(wire), rules, &[])?;
        let (source, quota) = file::choose(settings)?;
        let quota = settings.var("GOOGLE_CLOUD_QUOTA_PROJECT").map(ToOwned::to_owned).or(quota);
        Ok(Self { source, quota, places: Places { http, near }, kept: Mutex::new(None) })
    }

    /// A token that holds for some minutes at least.
    async fn token(&self) -> Result<Token, BackendError> {
        let mut kept = self.kept.lock().await;
        let soon = Timestamp::now().checked_add(AHEAD).unwrap_or(Timestamp::MAX);
        if let Some(token) = kept.as_ref().filter(|token| token.until > soon) {
            return Ok(token.clone());
        }
        let token = self.places.fetch(&self.source).await?;
        *kept = Some(token.clone());
        Ok(token)
    }

    /// Who asks.
    pub(super) async fn caller(&self) -> Result<Caller, BackendError> {
        Ok(self.token().await?.caller)
    }
}

#[async_trait]
impl Sign for Bearer {
    async fn sign(&self, request: &mut Request) -> Result<(), BackendError> {
        let token = self.token().await?;
        request.set_header("authorization", Secret::new(format!("Bearer {}", token.secret.reveal())));
        if let Some(project) = &self.quota {
            request.set_header("x-goog-user-project", project.as_str());
        }
        Ok(())
    }

    async fn renew(&self) -> Result<(), BackendError> {
        *self.kept.lock().await = None;
        Ok(())
    }
}
