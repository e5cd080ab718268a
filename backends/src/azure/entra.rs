//! Tokens that somebody else gives out: Entra, the managed identity of an App Service or of this machine, the Azure CLI.

use serde_json::Value;

use super::address::{ip, origin};
use super::api::{clip, text};
use super::credentials::{Application, Source, Token, from_json};
use crate::cloud::{SECRET_MAX, read_token};
use crate::program::secrets_of;
use crate::wire::http::{Call, Http, Method, Request, Text, Unsigned};
use crate::{BackendError, Secret};

/// The machine's own service (Azure Instance Metadata Service).
pub(super) const IMDS: &str = "http://169.254.169.254";

/// How those who give out tokens are reached.
pub(super) struct Places {
    /// Over the network.
    pub(super) http: Http,
    /// On this machine or its host: past proxies, and with little patience.
    pub(super) near: Http,
    /// What tokens are for.
    pub(super) arm: String,
    pub(super) subscription: String,
}

impl Places {
    /// A token.
    pub(super) async fn fetch(&self, source: &Source) -> Result<Token, BackendError> {
        match source {
            Source::ClientSecret { application, secret } => {
                let proof = [("client_secret", Text::from(secret.clone()))];
                self.application(application, &proof, "the secret of application").await
            }
            Source::Federated { application, file } => {
                let proof = [
                    ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer".into()),
                    ("client_assertion", read_token(file)?.into()),
                ];
                self.application(application, &proof, "the federated token of application").await
            }
            Source::AppService { endpoint, header, client } => {
                self.app_service(endpoint, header, client.as_deref()).await
            }
            Source::Machine { origin, client } => self.machine(origin, client.as_deref()).await,
            Source::Cli => self.cli().await,
        }
    }

    /// Client credentials ("OAuth 2.0 client credentials flow on the Microsoft identity platform").
    async fn application(&self, who: &Application, proof: &[(&str, Text)], by: &str) -> Result<Token, BackendError> {
        let pair = |name: &str, value: Text| (name.to_owned(), value);
        let mut form = vec![
            pair("grant_type", "client_credentials".into()),
            pair("client_id", who.client.clone().into()),
            pair("scope", format!("{}/.default", self.arm).into()),
        ];
        form.extend(proof.iter().map(|(name, value)| pair(name, value.clone())));
        let path = format!("/{}/oauth2/v2.0/token", who.tenant);
        let mut request = Request::new("ask Entra for a token", Method::Post, &who.authority, path).form(&form);
        request.answer_is_secret = true;
        request.limit = SECRET_MAX;
        let (asked, answer) = (request.clone(), self.http.send(Call::new(request, &Unsigned)).await?);
        if answer.is_good() {
            return from_json(&answer.body, &format!("{by} {}", who.client));
        }
        let said: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        // It should not repeat what it was sent, but that is its word and not ours.
        let told = |path, most| {
            let words = text(&said, path).to_owned();
            clip(&proof.iter().fold(words, |words, (_, part)| words.replace(part.reveal(), "[secret]")), most)
        };
        Err(answer.refused(&asked, &told("/error", 100), &told("/error_description", 300)))
    }

    /// "How to use managed identities for App Service": an address and a header that the service put into the environment.
    async fn app_service(&self, endpoint: &str, header: &Secret, client: Option<&str>) -> Result<Token, BackendError> {
        let (origin, path) = parts(endpoint);
        let request = Request::new("ask the App Service for a token", Method::Get, &origin, path)
            .query("api-version", "2019-08-01")
            .header("x-identity-header", header.clone());
        self.identity(request, client, "the managed identity of this App Service").await
    }

    /// "How to use managed identities for Azure resources on an Azure VM to acquire an access token".
    async fn machine(&self, origin: &str, client: Option<&str>) -> Result<Token, BackendError> {
        let path = "/metadata/identity/oauth2/token";
        let request = Request::new("ask the machine for a token", Method::Get, origin, path)
            .query("api-version", "2018-02-01")
            .header("metadata", "true");
        self.identity(request, client, "the managed identity of this machine").await
    }

    async fn identity(&self, request: Request, client: Option<&str>, from: &str) -> Result<Token, BackendError> {
        let mut request = request.query("resource", format!("{}/", self.arm));
        if let Some(client) = client {
            request = request.query("client_id", client);
        }
        request.answer_is_secret = true;
        request.limit = SECRET_MAX;
        let (asked, answer) = (request.clone(), self.near.send(Call::new(request, &Unsigned)).await?);
        if answer.is_good() {
            return from_json(&answer.body, from);
        }
        let said: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let told = |path| clip(text(&said, path), 200);
        Err(answer.refused(&asked, &told("/error"), &told("/error_description")))
    }

    /// What `az account get-access-token` prints; no shell reads the line.
    async fn cli(&self) -> Result<Token, BackendError> {
        let words = ["account", "get-access-token", "--output", "json", "--resource"];
        let words = words.iter().copied().chain([self.arm.as_str(), "--subscription", self.subscription.as_str()]);
        let output = secrets_of("run the Azure CLI for a token", "az", words.map(ToOwned::to_owned).collect()).await;
        from_json(&output.map_err(|error| error.advise("az login"))?, "the Azure CLI")
    }
}

/// Whoever set the variable must not be able to have a secret sent in clear over a network: HTTPS, this machine, or its host.
pub(super) fn near(address: &str) -> Result<String, BackendError> {
    let (start, _) = parts(address);
    let of_host = start.strip_prefix("http://").and_then(ip);
    let of_host = of_host.is_some_and(|ip| matches!(ip, std::net::IpAddr::V4(ip) if ip.is_link_local()));
    if of_host && start.bytes().all(|c| c.is_ascii_alphanumeric() || b":/.".contains(&c)) || origin(&start).is_ok() {
        return Ok(address.trim_end_matches('/').to_owned());
    }
    Err(BackendError::caller("ask for the managed identity", address, "it is neither near nor HTTPS"))
}

/// Scheme, host and port; and the path behind.
fn parts(address: &str) -> (String, String) {
    let (scheme, rest) = address.split_once("://").unwrap_or(("", address));
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    (format!("{scheme}://{host}"), format!("/{}", path.split('?').next().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_managed_identity_is_asked_for_nowhere_far_away() {
        for (address, good) in [
            (IMDS, true),
            ("http://127.0.0.1:41/msi/token", true),
            ("http://169.254.129.2:8081/msi/token", true),
            ("https://elsewhere/msi/token", true),
            ("http://elsewhere/msi/token", false),
            ("http://169.254.169.254.elsewhere", false),
            ("http://169.254.169.254@elsewhere", false),
            ("http://169.254.169.254:80@elsewhere", false),
            ("169.254.169.254", false),
        ] {
            assert_eq!(near(address).is_ok(), good, "{address}");
        }
    }
}
