//! Who asks: tokens for ARM by the usual chain of the Azure tools, fetched anew before they run out.
//!
//! The order is that of `DefaultAzureCredential`: a secret or a federated token (workload identity) of the environment; the managed identity of
//! an App Service or of the machine (IMDS); the Azure CLI. What the environment names is meant: if it fails, nothing else is
//! tried. A certificate is not spoken; `az login --service-principal` takes one.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::Mutex;

use super::api::{clip, text};
use super::entra::{self, Places};
use super::settings::Settings;
use crate::wire::http::{Http, Request, Rules, Sign};
use crate::{BackendError, Kind, Secret, WireLog};

/// Tokens are fetched anew when they have less than this left.
const AHEAD: SignedDuration = SignedDuration::from_mins(5);
/// Public Azure.
const AUTHORITY: &str = "https://login.microsoftonline.com";

/// A token, for some time.
#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) secret: Secret,
    pub(super) until: Timestamp,
    /// Where it came from, for the record.
    pub(super) from: String,
}

/// Who a token says that it is for. Entra signed it and ARM checks it; here it is only read.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Caller {
    pub(super) tenant: String,
    /// Object id of the user or the service principal.
    pub(super) object: String,
    /// Name of the user, or id of the application.
    pub(super) name: String,
    /// Where the token came from.
    pub(super) credentials: String,
}

/// An application of a tenant.
#[derive(Debug, Clone)]
pub(super) struct Application {
    pub(super) authority: String,
    pub(super) tenant: String,
    pub(super) client: String,
}

/// Where tokens come from.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// An application proves itself by its secret.
    ClientSecret { application: Application, secret: Secret },
    /// An application proves itself by a token in a file, as a cluster gives it.
    Federated { application: Application, file: String },
    /// The managed identity of an App Service.
    AppService { endpoint: String, header: Secret, client: Option<String> },
    /// The managed identity of the machine that this runs on.
    Machine { origin: String, client: Option<String> },
    /// The Azure CLI, as somebody logged in.
    Cli,
}

/// Puts tokens on requests to ARM.
pub(super) struct Bearer {
    /// Each is tried if the one before is not there.
    sources: Vec<Source>,
    places: Places,
    kept: Mutex<Option<Token>>,
}

impl Bearer {
    /// Chooses the sources; nothing is fetched yet. `http` reaches Entra; `arm` is what tokens are for.
    pub(super) fn new(
        settings: &Settings,
        http: Http,
        arm: &str,
        subscription: &str,
        wire: &Arc<dyn WireLog>,
    ) -> Result<Self, BackendError> {
        // Whoever is not there must not be waited for long.
        let brief = Duration::from_secs(1);
        let rules = Rules { connect_within: brief, within: brief * 10, tries: 2, direct: true, ..Rules::default() };
        let near = Http::new(Arc::clone(wire), rules, &[])?;
        let places = Places { http, near, arm: arm.to_owned(), subscription: subscription.to_owned() };
        Ok(Self { sources: choose(settings)?, places, kept: Mutex::new(None) })
    }

    /// A token that holds for some minutes at least.
    async fn token(&self) -> Result<Token, BackendError> {
        let mut kept = self.kept.lock().await;
        let soon = Timestamp::now().checked_add(AHEAD).unwrap_or(Timestamp::MAX);
        if let Some(token) = kept.as_ref().filter(|token| token.until > soon) {
            return Ok(token.clone());
        }
        let mut failed: Vec<BackendError> = Vec::new();
        for source in &self.sources {
            match self.places.fetch(source).await {
                Ok(token) => {
                    *kept = Some(token.clone());
                    return Ok(token);
                }
                Err(error) => failed.push(error),
            }
        }
        Err(match (failed.pop(), failed.is_empty()) {
            (Some(error), true) => error,
            (last, _) => {
                let whys: Vec<_> =
                    failed.iter().chain(&last).map(|error| format!("{}: {}", error.on, error.why)).collect();
                none(&whys.join("; "))
            }
        })
    }

    /// Who asks.
    pub(super) async fn caller(&self) -> Result<Caller, BackendError> {
        let token = self.token().await?;
        let claims = claims(&token.secret);
        let claim = |names: &[&str]| {
            let found = names.iter().map(|name| text(&claims, name)).find(|text| !text.is_empty());
            clip(found.unwrap_or("unknown"), 200)
        };
        Ok(Caller {
            tenant: claim(&["/tid"]),
            object: claim(&["/oid"]),
            name: claim(&["/upn", "/unique_name", "/appid", "/azp"]),
            credentials: token.from,
        })
    }
}

#[async_trait]
impl Sign for Bearer {
    async fn sign(&self, request: &mut Request) -> Result<(), BackendError> {
        let token = self.token().await?;
        request.set_header("authorization", Secret::new(format!("Bearer {}", token.secret.reveal())));
        Ok(())
    }

    async fn renew(&self) -> Result<(), BackendError> {
        *self.kept.lock().await = None;
        Ok(())
    }
}

/// The middle part of a token (RFC 7519); nothing if it is none.
fn claims(token: &Secret) -> Value {
    let middle = token.reveal().split('.').nth(1).unwrap_or_default();
    let bytes = URL_SAFE_NO_PAD.decode(middle).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or(Value::Null)
}

fn choose(settings: &Settings) -> Result<Vec<Source>, BackendError> {
    let client = settings.var("AZURE_CLIENT_ID").map(ToOwned::to_owned);
    let application = match (settings.var("AZURE_TENANT_ID"), &client) {
        (Some(tenant), Some(client)) => {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-.".contains(c);
            if !tenant.chars().all(plain) {
                return Err(BackendError::caller("find credentials for Azure", "AZURE_TENANT_ID", "it is no id"));
            }
            let authority = settings.origin("AZURE_AUTHORITY_HOST", AUTHORITY)?;
            Some(Application { authority, tenant: tenant.to_owned(), client: client.clone() })
        }
        _ => None,
    };
    if let Some(application) = application {
        if let Some(secret) = settings.var("AZURE_CLIENT_SECRET") {
            return Ok(vec![Source::ClientSecret { application, secret: Secret::new(secret.to_owned()) }]);
        }
        if settings.var("AZURE_CLIENT_CERTIFICATE_PATH").is_some() {
            return Err(none("it is a certificate, which impound does not speak").advise(
                "az login --service-principal --certificate FILE --username ID --tenant TENANT, and unset it",
            ));
        }
        if let Some(file) = settings.var("AZURE_FEDERATED_TOKEN_FILE") {
            return Ok(vec![Source::Federated { application, file: file.to_owned() }]);
        }
    }
    if let (Some(endpoint), Some(header)) = (settings.var("IDENTITY_ENDPOINT"), settings.var("IDENTITY_HEADER")) {
        let header = Secret::new(header.to_owned());
        return Ok(vec![Source::AppService { endpoint: entra::near(endpoint)?, header, client }]);
    }
    let machine = settings.var("AZURE_POD_IDENTITY_AUTHORITY_HOST").unwrap_or(entra::IMDS);
    Ok(vec![Source::Machine { origin: entra::near(machine)?, client }, Source::Cli])
}

/// No credentials, and how to get some.
fn none(why: &str) -> BackendError {
    BackendError::new(Kind::Caller, "find credentials for Azure", "environment, managed identity, Azure CLI", why)
        .advise("az login, or set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET")
}

/// A token from a JSON document in the forms that Entra, IMDS and the CLI share. Its values get into no error.
pub(super) fn from_json(document: &[u8], from: &str) -> Result<Token, BackendError> {
    let wrong = |what: &str| BackendError::corrupt("read a token", from, "the answer", what, "none");
    let document: Value = serde_json::from_slice(document).map_err(|_| wrong("a token, as JSON"))?;
    let token = document.get("access_token").or_else(|| document.get("accessToken")).and_then(Value::as_str);
    let token = token.filter(|token| token.bytes().all(|c| c.is_ascii_graphic()) && !token.is_empty());
    let secret = Secret::new(token.ok_or_else(|| wrong("a token"))?.to_owned());
    let number = |value: &Value| value.as_i64().or_else(|| value.as_str()?.parse().ok());
    let until = document.get("expires_on").and_then(number).or_else(|| claims(&secret).get("exp").and_then(number));
    let in_seconds = || {
        let seconds = document.get("expires_in").and_then(number)?.clamp(0, 86400);
        Timestamp::now().checked_add(SignedDuration::from_secs(seconds)).ok()
    };
    let until = until.and_then(|until| Timestamp::from_second(until).ok()).or_else(in_seconds);
    Ok(Token { secret, until: until.ok_or_else(|| wrong("the time when the token ends"))?, from: from.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::super::settings::tests::settings;
    use super::*;

    fn chosen(vars: &[(&str, &str)]) -> Result<Vec<Source>, BackendError> {
        choose(&settings(vars))
    }

    #[test]
    fn the_chain_is_in_the_order_of_the_azure_tools() {
        let who = [("AZURE_TENANT_ID", "t"), ("AZURE_CLIENT_ID", "c")];
        let with = |more: &[(&'static str, &'static str)]| chosen(&[&who, more].concat());
        let secret = ("AZURE_CLIENT_SECRET", "hunter1");
        let (file, app) = (("AZURE_FEDERATED_TOKEN_FILE", "/t"), ("IDENTITY_ENDPOINT", "http://127.0.0.1:1/msi/token"));
        let header = ("IDENTITY_HEADER", "hunter2");
        let found = with(&[secret, file, app, header]).unwrap();
        assert!(matches!(found.as_slice(), [Source::ClientSecret { .. }]) && !format!("{found:?}").contains("hunter"));
        assert!(matches!(with(&[file, app, header]).unwrap().as_slice(), [Source::Federated { .. }]));
        assert!(matches!(with(&[app, header]).unwrap().as_slice(), [Source::AppService { .. }]));
        let found = chosen(&[secret]).unwrap();
        assert!(matches!(found.as_slice(), [Source::Machine { client: None, .. }, Source::Cli]), "{found:?}");
        assert!(with(&[("AZURE_CLIENT_CERTIFICATE_PATH", "/c")]).unwrap_err().to_string().contains("az login"));
        assert!(chosen(&[("AZURE_TENANT_ID", "a/../b"), who[1], secret]).is_err());
        assert!(with(&[secret, ("AZURE_AUTHORITY_HOST", "http://elsewhere")]).is_err());
    }

    #[test]
    fn a_token_is_read_in_every_form_and_never_shown() {
        let soon = Timestamp::now().as_second() + 3600;
        let jwt = format!("e30.{}.x", URL_SAFE_NO_PAD.encode(format!(r#"{{"exp":{soon},"tid":"t"}}"#)));
        for document in [
            r#"{"access_token":"hunter2","expires_in":3600}"#.to_owned(),
            r#"{"access_token":"hunter2","expires_in":"3600"}"#.to_owned(),
            format!(r#"{{"accessToken":"hunter2","expires_on":{soon},"expiresOn":"2026-01-01 00:00:00.000000"}}"#),
            format!(r#"{{"access_token":"hunter2","expires_on":"{soon}"}}"#),
            format!(r#"{{"accessToken":"{jwt}"}}"#),
        ] {
            let token = from_json(document.as_bytes(), "x").unwrap();
            assert!((token.until.as_second() - soon).abs() < 60, "{document}");
            assert!(!format!("{token:?}").contains("hunter2"));
        }
        for bad in ["hunter2", r#"{"access_token":"hunter2"}"#, r#"{"access_token":"hunter2\n","expires_in":1}"#, "{}"]
        {
            let error = from_json(bad.as_bytes(), "x").unwrap_err();
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
        assert_eq!(text(&claims(&Secret::new(jwt)), "/tid"), "t");
        assert_eq!(claims(&Secret::new("a.b".to_owned())), Value::Null);
    }
}
