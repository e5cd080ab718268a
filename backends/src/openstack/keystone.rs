//! Keystone: a token for the settings, got again before it runs out or when a service refuses it, and the catalog that comes with it.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Mutex;

use super::login;
use super::place::Place;
use super::settings::Settings;
use crate::wire::http::{Call, Http, Method, Request, Sign, Unsigned};
use crate::{BackendError, Kind, Secret};

/// A token is got anew when it has less than this left, or less than a quarter of its life.
const AHEAD: SignedDuration = SignedDuration::from_mins(5);

/// A token and what came with it.
#[derive(Debug)]
pub(super) struct Token {
    secret: Secret,
    issued: Timestamp,
    until: Timestamp,
    /// The how many-th it is.
    number: u64,
    pub(super) who: Who,
    pub(super) catalog: Vec<Service>,
}

/// Who asks, as Keystone tells it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Who {
    pub(super) user: Value,
    pub(super) project: Value,
    pub(super) roles: Vec<String>,
    /// How he logged in.
    pub(super) credentials: String,
}

/// A service of the catalog.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Service {
    #[serde(rename = "type")]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) endpoints: Vec<Endpoint>,
}

/// Where a service is.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Endpoint {
    pub(super) interface: String,
    #[serde(default)]
    pub(super) region: Option<String>,
    pub(super) url: String,
}

#[derive(Deserialize)]
struct Answered {
    token: Body,
}

#[derive(Deserialize)]
struct Body {
    issued_at: Timestamp,
    expires_at: Timestamp,
    user: Value,
    #[serde(default)]
    project: Value,
    #[serde(default)]
    roles: Vec<Role>,
    #[serde(default)]
    catalog: Vec<Service>,
}

#[derive(Deserialize)]
struct Role {
    name: String,
}

/// See the module.
pub(super) struct Keystone {
    http: Http,
    place: Place,
    body: Secret,
    said: String,
    kept: Mutex<(Option<Arc<Token>>, u64)>,
}

impl Keystone {
    /// Nothing is asked yet.
    pub(super) fn new(settings: &Settings, http: Http) -> Result<Self, BackendError> {
        let (body, said) = login::body(settings)?;
        let url = settings.endpoint(&["identity"]).or_else(|| settings.auth("auth_url").map(Secret::reveal));
        let place = Place::of(url.unwrap_or_default())?.with_version("/v3", &["/v3", "/v2.0"]);
        Ok(Self { http, place, body, said, kept: Mutex::new((None, 0)) })
    }

    /// A token that holds for some time.
    pub(super) async fn token(&self) -> Result<Arc<Token>, BackendError> {
        let mut kept = self.kept.lock().await;
        if let Some(token) = kept.0.as_ref().filter(|token| token.holds()) {
            return Ok(Arc::clone(token));
        }
        let token = Arc::new(self.fetch(kept.1.saturating_add(1)).await?);
        *kept = (Some(Arc::clone(&token)), token.number);
        Ok(token)
    }

    /// A service refused this one. Another may have been got meanwhile.
    async fn refused(&self, number: u64) {
        let mut kept = self.kept.lock().await;
        if kept.0.as_ref().is_some_and(|token| token.number == number) {
            kept.0 = None;
        }
    }

    async fn fetch(&self, number: u64) -> Result<Token, BackendError> {
        let mut request =
            Request::new("log in to Keystone", Method::Post, &self.place.origin, self.place.path("/auth/tokens"))
                .body("application/json", self.body.clone());
        request.answer_is_secret = true;
        let answer = self.http.send(Call::new(request.clone(), &Unsigned)).await?;
        if !answer.is_good() {
            let (title, message) = super::api::said(&answer);
            let error = answer.refused(&request, &title, &message);
            return Err(match answer.status {
                401 | 403 => error
                    .advise(format!("Keystone does not take {}: look at name, domain, project and secret", self.said)),
                404 => error.advise("is auth_url the address of Keystone (v3)?"),
                _ => error,
            });
        }
        let wrong =
            |found: &str| BackendError::corrupt(request.purpose, request.place(), "the answer", "a token", found);
        let secret = answer.header("x-subject-token").filter(|token| !token.is_empty());
        let secret = Secret::new(secret.ok_or_else(|| wrong("no X-Subject-Token"))?.to_owned());
        let body = answer.json::<Answered>(request.purpose, &request.place())?.token;
        Ok(Token {
            secret,
            issued: body.issued_at,
            until: body.expires_at,
            number,
            who: Who {
                user: body.user,
                project: body.project,
                roles: body.roles.into_iter().map(|role| role.name).collect(),
                credentials: self.said.clone(),
            },
            catalog: body.catalog,
        })
    }
}

impl Token {
    /// By our clock, which may be another than Keystone's: what a service refuses is got again in any case.
    fn holds(&self) -> bool {
        let life = self.until.duration_since(self.issued);
        let ahead = AHEAD.min(life / 4);
        Timestamp::now().checked_add(ahead).is_ok_and(|soon| soon < self.until)
    }
}

/// Puts a token on the tries of one call, and gets another when it is refused.
pub(super) struct Bearer<'a> {
    keystone: &'a Keystone,
    used: std::sync::atomic::AtomicU64,
}

impl<'a> Bearer<'a> {
    pub(super) fn new(keystone: &'a Keystone) -> Self {
        Self { keystone, used: 0.into() }
    }
}

#[async_trait]
impl Sign for Bearer<'_> {
    async fn sign(&self, request: &mut Request) -> Result<(), BackendError> {
        let token = self.keystone.token().await?;
        self.used.store(token.number, std::sync::atomic::Ordering::Release);
        request.set_header("x-auth-token", token.secret.clone());
        Ok(())
    }

    async fn renew(&self) -> Result<(), BackendError> {
        self.keystone.refused(self.used.load(std::sync::atomic::Ordering::Acquire)).await;
        Ok(())
    }
}

/// Where the catalog has a service.
pub(super) fn find(catalog: &[Service], types: &[&str], settings: &Settings) -> Result<Place, BackendError> {
    if let Some(url) = settings.endpoint(types) {
        return Place::of(url);
    }
    let what = types.first().copied().unwrap_or_default();
    let fail = |why: String| BackendError::new(Kind::Unsupported, "find the service in the catalog", what, why);
    let listed = types.iter().find_map(|name| catalog.iter().find(|service| service.kind == *name));
    let listed = listed.ok_or_else(|| fail("the catalog of this project has none".to_owned()))?;
    let (interface, region) = (settings.interface(), settings.region());
    let mut fitting = listed.endpoints.iter().filter(|endpoint| {
        endpoint.interface == interface && region.is_none_or(|region| endpoint.region.as_deref() == Some(region))
    });
    let found = fitting.next().ok_or_else(|| {
        let known: Vec<_> = listed
            .endpoints
            .iter()
            .map(|known| format!("{} in {}", known.interface, known.region.as_deref().unwrap_or("no region")))
            .collect();
        fail(format!("none is {interface} in {}; there are: {}", region.unwrap_or("any region"), known.join(", ")))
    })?;
    if let Some(other) = fitting.find(|other| other.region != found.region) {
        let name = |endpoint: &Endpoint| endpoint.region.clone().unwrap_or_default();
        return Err(fail(format!("it is in several regions, as {} and {}", name(found), name(other)))
            .advise("name one as region_name (OS_REGION_NAME)"));
    }
    Place::of(&found.url)
}
