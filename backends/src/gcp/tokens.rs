//! Tokens that somebody gives out: Google's OAuth server for a key or a person, the metadata server of a machine, and the Security Token
//! Service for the token of another provider.
//!
//! After "Using OAuth 2.0 for server to server applications", "Refreshing an access token", "About VM metadata" and "Security Token
//! Service API v1". What is sent as proof is in no error, even if the answer repeats it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::api::{clip, text};
use super::credentials::{Caller, Token};
use super::file::{External, Source, Subject};
use super::jwt;
use super::settings::Base;
use crate::cloud::{SECRET_MAX, read_token};
use crate::wire::http::{Call, Http, Method, Request, Text, Unsigned};
use crate::{BackendError, Secret};

/// What tokens are for: everything that the account may do.
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
/// How long a proof lasts, in seconds. Google takes no longer one.
const LASTS: i64 = 3600;
/// What is asked of whoever gives out tokens.
const ASK: &str = "ask for a token";

/// How those who give out tokens are reached.
pub(super) struct Places {
    /// Over the network.
    pub(super) http: Http,
    /// On this machine or its host: past proxies, and with little patience.
    pub(super) near: Http,
}

/// What came, before it is said whose it is.
struct Came {
    secret: Secret,
    until: Timestamp,
    answer: Value,
}

impl Came {
    fn token(self, name: &str, credentials: String) -> Token {
        Token { secret: self.secret, until: self.until, caller: Caller { name: clip(name, 300), credentials } }
    }
}

impl Places {
    /// A token.
    pub(super) async fn fetch(&self, source: &Source) -> Result<Token, BackendError> {
        match source {
            Source::ServiceAccount { email, key_id, key, tokens } => {
                let came = self.service_account(email, key_id, key, tokens).await?;
                Ok(came.token(email, format!("the key {} of a service account", clip(key_id, 64))))
            }
            Source::User { client, client_secret, refresh, tokens } => {
                let form = [
                    ("grant_type", "refresh_token".into()),
                    ("client_id", client.clone().into()),
                    ("client_secret", client_secret.clone().into()),
                    ("refresh_token", refresh.clone().into()),
                ];
                let came = self.form(tokens, &form).await?;
                let claims = claims(text(&came.answer, "/id_token"));
                let email = Some(text(&claims, "/email")).filter(|email| !email.is_empty());
                let name = email.unwrap_or("a person whom Google does not name").to_owned();
                Ok(came.token(&name, "gcloud's application default credentials of a person".to_owned()))
            }
            Source::External(external) => self.external(external).await,
            Source::Machine(origin) => self.machine(origin).await,
        }
    }

    async fn service_account(
        &self,
        email: &str,
        key_id: &str,
        key: &Secret,
        tokens: &Base,
    ) -> Result<Came, BackendError> {
        let now = Timestamp::now().as_second();
        let address = format!("{}{}", tokens.origin, tokens.path);
        let claims = json!({ "iss": email, "scope": SCOPE, "aud": address, "iat": now, "exp": now + LASTS });
        let proof = jwt::signed(key, key_id, &claims).map_err(|why| {
            BackendError::caller("sign with the key of the service account", email, format!("it is {why}"))
        })?;
        let grant = "urn:ietf:params:oauth:grant-type:jwt-bearer";
        self.form(tokens, &[("grant_type", grant.into()), ("assertion", proof.into())]).await
    }

    /// What another provider vouches for, exchanged; and for that the token of a service account, if one is named.
    async fn external(&self, external: &External) -> Result<Token, BackendError> {
        let subject = self.subject(external).await?;
        let form = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange".into()),
            ("requested_token_type", "urn:ietf:params:oauth:token-type:access_token".into()),
            ("scope", SCOPE.into()),
            ("audience", external.audience.clone().into()),
            ("subject_token_type", external.kind.clone().into()),
            ("subject_token", subject.into()),
        ];
        let came = self.form(&external.tokens, &form).await?;
        let from = "a token of another provider (workload identity federation)".to_owned();
        let Some(account) = &external.account else { return Ok(came.token(&external.audience, from)) };
        let body = json!({ "scope": [SCOPE], "lifetime": format!("{LASTS}s") }).to_string();
        let request = Request::new(ASK, Method::Post, &account.origin, account.path.clone())
            .header("authorization", Secret::new(format!("Bearer {}", came.secret.reveal())))
            .body("application/json", body);
        let came = ask(&self.http, request, &[]).await?;
        let name = super::last(&account.path).split(':').next().unwrap_or_default().to_owned();
        Ok(came.token(&name, from))
    }

    /// The other provider's token.
    async fn subject(&self, external: &External) -> Result<Secret, BackendError> {
        let (document, place) = match &external.subject {
            Subject::File(file) => (read_token(file)?, file.clone()),
            Subject::Url { place, headers } => {
                let mut request =
                    Request::new("ask the other provider for a token", Method::Get, &place.origin, place.path.clone());
                for (name, value) in headers {
                    request.set_header(name, value.clone());
                }
                (secret_answer(&self.near, request).await?, place.origin.clone())
            }
        };
        let Some(field) = &external.field else { return Ok(document) };
        let wrong = || {
            BackendError::corrupt(
                "read the other provider's token",
                &place,
                "the answer",
                format!("JSON with {field}"),
                "none",
            )
        };
        let value: Value = serde_json::from_str(document.reveal()).map_err(|_| wrong())?;
        let token = value.get(field).and_then(Value::as_str).ok_or_else(wrong)?;
        Ok(Secret::new(token.to_owned()))
    }

    async fn machine(&self, origin: &str) -> Result<Token, BackendError> {
        let about = |what: &str| {
            let path = format!("/computeMetadata/v1/instance/service-accounts/default/{what}");
            Request::new("ask the machine for a token", Method::Get, origin, path).header("metadata-flavor", "Google")
        };
        let nobody = |error: BackendError| {
            error.advise("gcloud auth application-default login, or name the key of a service account by GOOGLE_APPLICATION_CREDENTIALS")
        };
        let came = ask(&self.near, about("token"), &[]).await.map_err(nobody)?;
        let request = about("email");
        let email = self.near.send(Call::new(request, &Unsigned)).await.ok().filter(crate::wire::http::Answer::is_good);
        let email = email.map(|answer| String::from_utf8_lossy(&answer.body).trim().to_owned());
        Ok(came.token(&email.unwrap_or_default(), "the service account of this machine".to_owned()))
    }

    async fn form(&self, tokens: &Base, form: &[(&str, Text)]) -> Result<Came, BackendError> {
        let pairs: Vec<_> = form.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let request = Request::new(ASK, Method::Post, &tokens.origin, tokens.path.clone()).form(&pairs);
        let proofs: Vec<_> = form
            .iter()
            .filter(|(_, value)| matches!(value, Text::Secret(_)))
            .map(|(_, value)| value.reveal())
            .collect();
        ask(&self.http, request, &proofs).await
    }
}

/// An answer that is a secret as a whole.
async fn secret_answer(http: &Http, mut request: Request) -> Result<Secret, BackendError> {
    request.answer_is_secret = true;
    request.limit = SECRET_MAX;
    let (asked, answer) = (request.clone(), http.send(Call::new(request, &Unsigned)).await?);
    if !answer.is_good() {
        return Err(answer.refused(&asked, "", ""));
    }
    Ok(Secret::new(String::from_utf8_lossy(&answer.body).trim().to_owned()))
}

/// Asks for a token. `proofs` are taken out of what a refusal says.
async fn ask(http: &Http, mut request: Request, proofs: &[&str]) -> Result<Came, BackendError> {
    request.answer_is_secret = true;
    request.limit = SECRET_MAX;
    let (asked, answer) = (request.clone(), http.send(Call::new(request, &Unsigned)).await?);
    if answer.is_good() {
        return came(&answer.body, &asked.place());
    }
    let said: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let told = |paths: [&str; 2], most| {
        let words = paths.iter().map(|path| text(&said, path)).find(|words| !words.is_empty()).unwrap_or_default();
        let words = proofs.iter().fold(words.to_owned(), |words, proof| words.replace(proof, "[secret]"));
        clip(&words, most)
    };
    let (code, message) = (told(["/error", "/error/status"], 100), told(["/error_description", "/error/message"], 300));
    Err(answer.refused(&asked, &code, &message))
}

/// A token out of an answer. Its values get into no error.
fn came(document: &[u8], from: &str) -> Result<Came, BackendError> {
    let wrong = |what: &str| BackendError::corrupt("read a token", from, "the answer", what, "none");
    let mut answer: Value = serde_json::from_slice(document).map_err(|_| wrong("a token, as JSON"))?;
    let named = ["access_token", "accessToken"].iter().find_map(|name| answer.get_mut(name).map(Value::take));
    let Some(Value::String(token)) = named else { return Err(wrong("a token")) };
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(wrong("a token"));
    }
    let in_seconds =
        |seconds: i64| Timestamp::now().checked_add(SignedDuration::from_secs(seconds.clamp(0, 86400))).ok();
    let until = answer.get("expires_in").and_then(Value::as_i64).and_then(in_seconds);
    let until = until.or_else(|| text(&answer, "/expireTime").parse().ok());
    Ok(Came { secret: Secret::new(token), until: until.ok_or_else(|| wrong("the time when the token ends"))?, answer })
}

/// The middle part of a token (RFC 7519); nothing if it is none. Google signed it; here it is only read.
fn claims(token: &str) -> Value {
    let bytes = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap_or_default()).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or(Value::Null)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_in_both_forms_and_what_is_damaged_is_not_repeated() {
        let soon = Timestamp::now().as_second() + 3600;
        let stamp = Timestamp::from_second(soon).unwrap().to_string();
        for document in [
            r#"{"access_token":"hunter2","expires_in":3600,"token_type":"Bearer"}"#.to_owned(),
            format!(r#"{{"accessToken":"hunter2","expireTime":"{stamp}"}}"#),
        ] {
            let came = came(document.as_bytes(), "x").unwrap();
            assert!((came.until.as_second() - soon).abs() < 60 && came.secret.reveal() == "hunter2", "{document}");
            assert!(!came.answer.to_string().contains("hunter2"));
        }
        for bad in [
            "hunter2",
            "{}",
            "[]",
            r#"{"access_token":"hunter2"}"#,
            r#"{"access_token":"hunter2\n","expires_in":1}"#,
            r#"{"access_token":["hunter2"],"expires_in":1}"#,
            r#"{"access_token":"hunter2","expires_in":"hunter2"}"#,
            r#"{"access_token":"","expires_in":1}"#,
        ] {
            let error = came(bad.as_bytes(), "x").err().unwrap();
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
        let token = format!("e30.{}.x", URL_SAFE_NO_PAD.encode(r#"{"email":"a@b"}"#));
        assert_eq!((text(&claims(&token), "/email"), claims("a"), claims("a.!.c")), ("a@b", Value::Null, Value::Null));
    }
}
