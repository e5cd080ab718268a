//! How somebody logs in: the body of `POST /v3/auth/tokens`, made of the settings.
//!
//! After "Authentication and token management" of the Identity API v3 reference.

use serde_json::{Value, json};

use super::settings::Settings;
use crate::{BackendError, Secret};

/// A way to log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Password,
    ApplicationCredential,
    Token,
}

/// The way that the settings name, or that their keys point to.
fn way(settings: &Settings) -> Result<Way, BackendError> {
    let has = |key: &str| settings.auth(key).is_some();
    match settings.get("auth_type") {
        Some("v3applicationcredential") => Ok(Way::ApplicationCredential),
        Some("token" | "v3token") => Ok(Way::Token),
        None if has("application_credential_secret") => Ok(Way::ApplicationCredential),
        None if has("token") || has("auth_token") => Ok(Way::Token),
        None | Some("password" | "v3password") => Ok(Way::Password),
        Some(other) => Err(wrong(settings, format!("the auth_type {other:?} is not spoken here"))
            .advise("use password, v3applicationcredential or v3token")),
    }
}

fn wrong(settings: &Settings, why: impl Into<String>) -> BackendError {
    BackendError::caller("log in", &settings.from, why)
}

/// The body of the request, all of which is secret, and what is said of it in the record.
pub(super) fn body(settings: &Settings) -> Result<(Secret, String), BackendError> {
    let way = way(settings)?;
    let need =
        |key: &str| settings.auth(key).map(Secret::reveal).ok_or_else(|| wrong(settings, format!("there is no {key}")));
    let (identity, said) = match way {
        Way::Password => {
            let mut user = user(settings)?;
            add(&mut user, "password", json!(need("password")?));
            (json!({ "methods": ["password"], "password": { "user": user } }), "a password")
        }
        Way::Token => {
            let token = settings.auth("token").or_else(|| settings.auth("auth_token"));
            let token = token.ok_or_else(|| wrong(settings, "there is no token"))?.reveal();
            (json!({ "methods": ["token"], "token": { "id": token } }), "a token")
        }
        Way::ApplicationCredential => {
            let mut credential = match settings.auth("application_credential_id") {
                Some(id) => json!({ "id": id.reveal() }),
                None => json!({ "name": need("application_credential_name")?, "user": user(settings)? }),
            };
            add(&mut credential, "secret", json!(need("application_credential_secret")?));
            let identity = json!({ "methods": ["application_credential"], "application_credential": credential });
            (identity, "an application credential")
        }
    };
    let mut auth = json!({ "identity": identity });
    // An application credential has its project in itself.
    if let Some(scope) = scope(settings)?.filter(|_| way != Way::ApplicationCredential) {
        add(&mut auth, "scope", scope);
    }
    Ok((Secret::new(json!({ "auth": auth }).to_string()), format!("{said} of {}", settings.from)))
}

fn add(object: &mut Value, key: &str, value: Value) {
    if let Some(object) = object.as_object_mut() {
        object.insert(key.to_owned(), value);
    }
}

/// The first of these keys that is there.
fn first<'a>(settings: &'a Settings, keys: &[&str]) -> Option<&'a str> {
    keys.iter().find_map(|key| settings.auth(key)).map(Secret::reveal)
}

fn user(settings: &Settings) -> Result<Value, BackendError> {
    if let Some(id) = first(settings, &["user_id"]) {
        return Ok(json!({ "id": id }));
    }
    let name = first(settings, &["username", "user_name"]).ok_or_else(|| wrong(settings, "there is no username"))?;
    Ok(json!({ "name": name, "domain": domain(settings, "user")? }))
}

/// The domain of a user or a project whose name is not unique without.
fn domain(settings: &Settings, of: &str) -> Result<Value, BackendError> {
    let key = |end: &str| format!("{of}_domain_{end}");
    let id = [key("id"), "default_domain_id".to_owned(), "default_domain".to_owned()];
    let id = first(settings, &id.each_ref().map(String::as_str));
    let name = [key("name"), "default_domain_name".to_owned()];
    let name = first(settings, &name.each_ref().map(String::as_str));
    // What is said of it itself goes before what is said for all.
    match (settings.auth(&key("id")), name, id) {
        (Some(id), _, _) => Ok(json!({ "id": id.reveal() })),
        (None, Some(name), _) => Ok(json!({ "name": name })),
        (None, None, Some(id)) => Ok(json!({ "id": id })),
        (None, None, None) => Err(wrong(settings, format!("there is neither {} nor {}", key("id"), key("name")))
            .advise("a name counts only in its domain; most clouds call it Default")),
    }
}

/// What the token is to be good for.
fn scope(settings: &Settings) -> Result<Option<Value>, BackendError> {
    if let Some(id) = first(settings, &["project_id", "tenant_id"]) {
        return Ok(Some(json!({ "project": { "id": id } })));
    }
    if let Some(name) = first(settings, &["project_name", "tenant_name"]) {
        return Ok(Some(json!({ "project": { "name": name, "domain": domain(settings, "project")? } })));
    }
    if let Some(id) = first(settings, &["domain_id"]) {
        return Ok(Some(json!({ "domain": { "id": id } })));
    }
    Ok(first(settings, &["domain_name"]).map(|name| json!({ "domain": { "name": name } })))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(pairs: &[(&str, &str)]) -> Result<Value, BackendError> {
        let base = [("OS_AUTH_URL", "http://k")];
        let vars = base.iter().chain(pairs).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let settings = Settings::of("envvars", &crate::cloud::Vars::of(vars))?;
        body(&settings).map(|(body, _)| serde_json::from_str(body.reveal()).unwrap())
    }

    #[test]
    fn each_way_to_log_in_is_said_as_keystone_wants_it() {
        let password = [
            ("OS_USERNAME", "u"),
            ("OS_PASSWORD", "p"),
            ("OS_USER_DOMAIN_NAME", "Default"),
            ("OS_PROJECT_NAME", "lab"),
            ("OS_PROJECT_DOMAIN_ID", "default"),
        ];
        let user = json!({ "name": "u", "domain": { "name": "Default" }, "password": "p" });
        let project = json!({ "name": "lab", "domain": { "id": "default" } });
        assert_eq!(
            made(&password).unwrap(),
            json!({ "auth": { "identity": { "methods": ["password"], "password": { "user": user } }, "scope": { "project": project } } })
        );
        let credential = [
            ("OS_AUTH_TYPE", "v3applicationcredential"),
            ("OS_APPLICATION_CREDENTIAL_ID", "i"),
            ("OS_APPLICATION_CREDENTIAL_SECRET", "s"),
            ("OS_PROJECT_ID", "x"),
        ];
        assert_eq!(
            made(&credential).unwrap(),
            json!({ "auth": { "identity": { "methods": ["application_credential"], "application_credential": { "id": "i", "secret": "s" } } } })
        );
        let token = made(&[("OS_TOKEN", "t"), ("OS_PROJECT_ID", "x")]).unwrap();
        assert_eq!(token.pointer("/auth/identity/token/id"), Some(&json!("t")));
        assert_eq!(token.pointer("/auth/scope/project/id"), Some(&json!("x")));
    }

    #[test]
    fn what_is_missing_is_named_and_no_secret_is() {
        for (pairs, word) in [
            (&[("OS_USERNAME", "u"), ("OS_PASSWORD", "hunter2")][..], "user_domain_name"),
            (&[("OS_USER_ID", "u")], "password"),
            (&[("OS_AUTH_TYPE", "v3oidcpassword"), ("OS_PASSWORD", "hunter2")], "not spoken"),
            (&[("OS_APPLICATION_CREDENTIAL_SECRET", "hunter2")], "application_credential_name"),
        ] {
            let error = made(pairs).unwrap_err().to_string();
            assert!(error.contains(word) && !error.contains("hunter2"), "{error}");
        }
    }
}
