//! Files with credentials, in the forms that Google gives out: of a service account, of a person who logged in with gcloud, and of
//! whoever has a token of another provider ("Workload identity federation").
//!
//! Each address in one is a place to which a secret is sent: by HTTPS, or to this very machine. Not spoken: subject tokens of AWS
//! and of programs, impersonation by a person, other universes than Google's own cloud.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::settings::{Base, Settings};
use crate::cloud::read_token;
use crate::{BackendError, Secret};

/// Where Google gives out tokens.
const TOKENS: &str = "https://oauth2.googleapis.com/token";
/// The cloud that is spoken with.
const UNIVERSE: &str = "googleapis.com";

/// Where tokens come from.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// A service account, by its key.
    ServiceAccount { email: String, key_id: String, key: Secret, tokens: Base },
    /// A person, who logged in once.
    User { client: String, client_secret: Secret, refresh: Secret, tokens: Base },
    /// Somebody whom another provider vouches for.
    External(Box<External>),
    /// The service account of the machine that this runs on; its metadata server.
    Machine(String),
}

/// See [`Source::External`].
#[derive(Debug, Clone)]
pub(super) struct External {
    pub(super) audience: String,
    /// What kind of token the other provider gives.
    pub(super) kind: String,
    /// Where it is exchanged (Security Token Service).
    pub(super) tokens: Base,
    /// Where the token of a service account is got for it, if one is to be.
    pub(super) account: Option<Base>,
    pub(super) subject: Subject,
    /// Its name in JSON, if it is not all of what comes.
    pub(super) field: Option<String>,
}

/// Where the other provider's token is.
#[derive(Debug, Clone)]
pub(super) enum Subject {
    File(String),
    Url { place: Base, headers: Vec<(&'static str, Secret)> },
}

#[derive(Deserialize)]
struct File {
    #[serde(rename = "type")]
    kind: String,
    client_email: Option<String>,
    private_key: Option<String>,
    private_key_id: Option<String>,
    token_uri: Option<String>,
    client_id: Option<String>,
    client_secret: Option<String>,
    refresh_token: Option<String>,
    quota_project_id: Option<String>,
    audience: Option<String>,
    subject_token_type: Option<String>,
    token_url: Option<String>,
    service_account_impersonation_url: Option<String>,
    credential_source: Option<From>,
    universe_domain: Option<String>,
}

#[derive(Deserialize)]
struct From {
    file: Option<String>,
    url: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    format: Option<Format>,
}

#[derive(Deserialize)]
struct Format {
    #[serde(rename = "type")]
    kind: Option<String>,
    subject_token_field_name: Option<String>,
}

/// Chooses, and reads the file; also the project that its calls are counted for.
pub(super) fn choose(settings: &Settings) -> Result<(Source, Option<String>), BackendError> {
    let Some((path, named)) = settings.credentials() else {
        return Ok((Source::Machine(settings.metadata()?), None));
    };
    let place = path.display().to_string();
    if named && !path.exists() {
        return Err(wrong(&place, "GOOGLE_APPLICATION_CREDENTIALS names it, and it is not there"));
    }
    let read = read_token(&place)?;
    let file: File = serde_json::from_str(read.reveal()).map_err(|error| {
        // Its own words may repeat what stands there.
        wrong(&place, &format!("it is no file of credentials (line {}, column {})", error.line(), error.column()))
    })?;
    if file.universe_domain.as_deref().is_some_and(|universe| universe != UNIVERSE) {
        return Err(wrong(&place, "it is for another cloud than googleapis.com"));
    }
    let quota = file.quota_project_id.clone();
    Ok((source(file, &place, settings)?, quota))
}

fn source(file: File, place: &str, settings: &Settings) -> Result<Source, BackendError> {
    let there = |value: Option<String>, name: &str| {
        value.filter(|value| !value.is_empty()).ok_or_else(|| wrong(place, &format!("it has no {name}")))
    };
    let secret = |value: Option<String>, name: &str| there(value, name).map(Secret::new);
    match file.kind.as_str() {
        "service_account" => Ok(Source::ServiceAccount {
            email: there(file.client_email, "client_email")?,
            key_id: file.private_key_id.unwrap_or_default(),
            key: secret(file.private_key, "private_key")?,
            tokens: Base::read("token_uri", file.token_uri.as_deref().unwrap_or(TOKENS))?,
        }),
        "authorized_user" => Ok(Source::User {
            client: there(file.client_id, "client_id")?,
            client_secret: secret(file.client_secret, "client_secret")?,
            refresh: secret(file.refresh_token, "refresh_token")?,
            // Whatever the file says, Google's libraries send it to Google; gcloud lets the environment say otherwise.
            tokens: Base::read("CLOUDSDK_AUTH_TOKEN_HOST", settings.var("CLOUDSDK_AUTH_TOKEN_HOST").unwrap_or(TOKENS))?,
        }),
        "external_account" => external(file, place).map(|external| Source::External(Box::new(external))),
        other => {
            Err(wrong(place, &format!("credentials of type {:?} are not spoken here", super::api::clip(other, 40))))
        }
    }
}

fn external(file: File, place: &str) -> Result<External, BackendError> {
    let there = |value: Option<String>, name: &str| value.ok_or_else(|| wrong(place, &format!("it has no {name}")));
    let from = file.credential_source.ok_or_else(|| wrong(place, "it has no credential_source"))?;
    let subject = match (from.file, from.url) {
        (Some(file), _) => Subject::File(file),
        (None, Some(url)) => {
            Subject::Url { place: Base::read("credential_source", &url)?, headers: headers(from.headers, place)? }
        }
        (None, None) => {
            return Err(wrong(
                place,
                "its credential_source is neither a file nor an address (AWS and programs are not spoken)",
            ));
        }
    };
    let json = from.format.filter(|format| format.kind.as_deref() == Some("json"));
    let field = json.map(|format| there(format.subject_token_field_name, "subject_token_field_name")).transpose()?;
    let account = file.service_account_impersonation_url.as_deref();
    Ok(External {
        audience: there(file.audience, "audience")?,
        kind: there(file.subject_token_type, "subject_token_type")?,
        tokens: Base::read("token_url", &there(file.token_url, "token_url")?)?,
        account: account.map(|url| Base::read("service_account_impersonation_url", url)).transpose()?,
        subject,
        field,
    })
}

/// Headers that a provider wants to see.
fn headers(given: BTreeMap<String, String>, place: &str) -> Result<Vec<(&'static str, Secret)>, BackendError> {
    const KNOWN: &[&str] = &["authorization", "metadata", "metadata-flavor", "x-identity-header"];
    let known = |(name, value): (String, String)| {
        let name = KNOWN.iter().find(|known| name.eq_ignore_ascii_case(known));
        name.map(|name| (*name, Secret::new(value)))
    };
    let count = given.len();
    let found: Vec<_> = given.into_iter().filter_map(known).collect();
    if found.len() == count {
        Ok(found)
    } else {
        Err(wrong(place, "its credential_source wants a header that is not spoken here"))
    }
}

fn wrong(place: &str, why: &str) -> BackendError {
    BackendError::caller("read the credentials for Google's cloud", place, why).advise(
        "gcloud auth application-default login, or name the key of a service account by GOOGLE_APPLICATION_CREDENTIALS",
    )
}

#[cfg(test)]
mod tests {
    use super::super::settings::tests::settings;
    use super::*;

    fn chosen(text: &str) -> Result<(Source, Option<String>), BackendError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        choose(&settings(&[("GOOGLE_APPLICATION_CREDENTIALS", file.path().to_str().unwrap())]))
    }

    #[test]
    fn each_form_is_read_and_shows_no_secret() {
        let external = r#""type":"external_account","audience":"a","subject_token_type":"t","token_url":"https://sts.googleapis.com/v1/token""#;
        for (text, wanted) in [
            (r#"{"type":"service_account","client_email":"e","private_key":"hunter1"}"#.to_owned(), "ServiceAccount"),
            (
                r#"{"type":"authorized_user","client_id":"c","client_secret":"hunter2","refresh_token":"hunter3"}"#
                    .to_owned(),
                "User",
            ),
            (format!(r#"{{{external},"credential_source":{{"file":"/t"}}}}"#), "External"),
            (
                format!(
                    r#"{{{external},"credential_source":{{"url":"http://127.0.0.1:1/t","headers":{{"Metadata":"hunter4"}},"format":{{"type":"json","subject_token_field_name":"x"}}}}}}"#
                ),
                "External",
            ),
        ] {
            let (source, _) = chosen(&text).unwrap();
            let shown = format!("{source:?}");
            assert!(shown.starts_with(wanted) && !shown.contains("hunter"), "{shown}");
        }
        let (source, quota) = choose(&settings(&[("CLOUDSDK_CONFIG", "/nonexistent")])).unwrap();
        assert!(matches!(source, Source::Machine(_)) && quota.is_none());
    }

    #[test]
    fn what_is_damaged_or_leads_elsewhere_is_refused_and_not_repeated() {
        for bad in [
            "",
            "hunter2",
            r#"{"type":"service_account","client_email":"e","private_key":["hunter2"]}"#,
            r#"{"type":"service_account","private_key":"hunter2"}"#,
            r#"{"type":"service_account","client_email":"e","private_key":"hunter2","token_uri":"http://elsewhere/token"}"#,
            r#"{"type":"service_account","client_email":"e","private_key":"hunter2","universe_domain":"elsewhere"}"#,
            r#"{"type":"authorized_user","client_id":"c","client_secret":"hunter2"}"#,
            r#"{"type":"external_account","audience":"a","subject_token_type":"t","token_url":"https://x/y","credential_source":{"environment_id":"aws1"}}"#,
            r#"{"type":"external_account","audience":"a","subject_token_type":"t","token_url":"https://x/y","credential_source":{"url":"https://x/y","headers":{"x-strange":"hunter2"}}}"#,
            r#"{"type":"impersonated_service_account"}"#,
        ] {
            let error = chosen(bad).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
        let missing = choose(&settings(&[("GOOGLE_APPLICATION_CREDENTIALS", "/nonexistent.json")])).unwrap_err();
        assert!(missing.to_string().contains("not there"), "{missing}");
    }
}
