//! How Azure Resource Manager (ARM) is asked: paths, versions, lists page by page, and what refusals mean.

use std::sync::Arc;

use serde_json::Value;

use super::address::{Address, check_id, origin};
use super::credentials::Bearer;
use super::settings::Settings;
pub(super) use crate::cloud::Refused;
use crate::wire::http::{Answer, Call, Gate, Http, Method, Request, Rules, Text, Verdict, by_status};
use crate::{Access, BackendError};

/// Versions of the APIs that are spoken: virtual machines, disks and snapshots, network, permissions.
pub(super) const COMPUTE: &str = "2024-07-01";
pub(super) const DISK: &str = "2024-03-02";
pub(super) const NETWORK: &str = "2024-05-01";
pub(super) const AUTHORIZATION: &str = "2022-04-01";
/// Most pages of a list.
const PAGES_MAX: usize = 1000;
/// Requests for spans at once: to begin with, and at most.
const GATE: (u32, u32) = (8, 32);
/// What is read at once, and the most of which the service says the MD5. In bytes.
pub(super) const SPAN: u64 = 4 << 20;
/// Public Azure.
const ARM: &str = "https://management.azure.com";

/// ARM with the eyes of one caller, and a client for the blobs that it leads to.
pub(super) struct Api {
    pub(super) http: Http,
    arm: String,
    pub(super) bearer: Bearer,
    pub(super) gate: Gate,
}

impl Api {
    /// Nothing is asked yet.
    pub(super) fn new(subscription: &str, settings: &Settings, access: &Access) -> Result<Self, BackendError> {
        let http = Http::new(Arc::clone(&access.wire), Rules::default(), &[])?.at_most(access.rate);
        let arm = settings.origin("AZURE_RESOURCE_MANAGER_ENDPOINT", ARM)?;
        let bearer = Bearer::new(settings, http.clone(), &arm, subscription, &access.wire)?;
        Ok(Self { http, arm, bearer, gate: Gate::for_rate(GATE, access.rate, SPAN) })
    }

    /// A resource, or what belongs to one.
    pub(super) async fn get(&self, purpose: &'static str, id: &str, version: &str) -> Result<Value, Refused> {
        let request = self.request(purpose, Method::Get, id, version)?;
        Ok(self.ask(request.clone()).await?.json(purpose, &request.place())?)
    }

    /// All pages of a list.
    pub(super) async fn list(&self, purpose: &'static str, id: &str, version: &str) -> Result<Vec<Value>, Refused> {
        let mut request = self.request(purpose, Method::Get, id, version)?;
        let mut all = Vec::new();
        for _ in 0..PAGES_MAX {
            let mut page: Value = self.ask(request.clone()).await?.json(purpose, &request.place())?;
            if let Some(Value::Array(values)) = page.get_mut("value").map(Value::take) {
                all.extend(values);
            }
            match page.get("nextLink").and_then(Value::as_str).filter(|link| !link.is_empty()) {
                Some(link) => request = self.own(purpose, link)?,
                None => return Ok(all),
            }
        }
        let found = format!("more than {PAGES_MAX} pages");
        Err(BackendError::corrupt(purpose, request.place(), "the list", "an end", found).into())
    }

    /// A request to a resource.
    pub(super) fn request(
        &self,
        purpose: &'static str,
        method: Method,
        id: &str,
        version: &str,
    ) -> Result<Request, BackendError> {
        check_id(id)?;
        Ok(Request::new(purpose, method, &self.arm, id).query("api-version", version))
    }

    /// A request to an address that ARM gave, which must be one of its own: it is sent the token.
    pub(super) fn own(&self, purpose: &'static str, link: &str) -> Result<Request, BackendError> {
        let wrong = |found: &str| BackendError::corrupt(purpose, &self.arm, "an address", "one of ARM's own", found);
        let address = Address::read(link).map_err(wrong)?;
        // What is addressed may be in another cloud's words, as `https://host:443`.
        if address.origin.trim_end_matches(":443") != self.arm.trim_end_matches(":443") {
            return Err(wrong("one elsewhere"));
        }
        Ok(address.request(purpose, Method::Get))
    }

    /// An address of a blob that ARM gave: a secret for its host alone.
    pub(super) fn shared(&self, purpose: &'static str, link: &str) -> Result<Address, BackendError> {
        let wrong = |found: &str| {
            BackendError::corrupt(purpose, &self.arm, "the answer", "an address of a blob, by HTTPS", found)
        };
        let address = Address::read(link).map_err(wrong)?;
        let near = address.origin.starts_with("http://");
        if near && !self.arm.starts_with("http://") {
            return Err(wrong("one of this machine's own"));
        }
        Ok(address)
    }

    /// Asks, and takes only a good answer.
    pub(super) async fn ask(&self, request: Request) -> Result<Answer, Refused> {
        let call = Call { judge: &judge, ..Call::new(request.clone(), &self.bearer) };
        let answer = self.http.send(call).await?;
        if answer.is_good() {
            return Ok(answer);
        }
        let (code, message) = said(&answer);
        Err(Refused { error: Box::new(refusal(&answer, &request, &code, &message)), code })
    }
}

/// A JSON body.
pub(super) fn with_body(request: Request, body: &Value) -> Request {
    request.body("application/json", Text::Plain(body.to_string()))
}

/// The text at the end of a path of names; empty if there is none.
pub(super) fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

/// The code of an error and its message ("Common error response for all Azure Resource Manager APIs").
fn said(answer: &Answer) -> (String, String) {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
    let code = answer.header("x-ms-error-code").unwrap_or_else(|| text(&body, "/error/code"));
    (clip(code, 100), clip(text(&body, "/error/message"), 600))
}

/// Words of a server, short enough for an error.
pub(super) fn clip(words: &str, most: usize) -> String {
    words.chars().filter(|c| !c.is_control()).take(most).collect()
}

/// What to make of an answer of ARM.
pub(super) fn judge(answer: &Answer) -> Verdict {
    match (answer.status, said(answer).0.as_str()) {
        (401, "ExpiredAuthenticationToken" | "InvalidAuthenticationToken" | "AuthenticationFailed") => Verdict::Renew,
        // It was written a moment ago, and not all of ARM knows it yet; or another act on the same thing is under way.
        (409 | 412, "RetryableError" | "Conflict" | "OperationNotAllowedWhileInProgress") => Verdict::Again,
        _ => by_status(answer),
    }
}

fn refusal(answer: &Answer, request: &Request, code: &str, message: &str) -> BackendError {
    let error = answer.refused(request, code, message);
    match (answer.status, code) {
        (_, "AuthorizationFailed" | "LinkedAuthorizationFailed") => {
            error.advise("impound doctor says which permission is missing")
        }
        (_, "ScopeLocked" | "RequestDisallowedByPolicy") => {
            error.advise("a lock or a policy forbids it: az lock list, az policy state list")
        }
        (401, _) => error.advise("Entra does not vouch for this caller here: look at AZURE_TENANT_ID, or az login"),
        _ => error,
    }
}

/// An address that comes from the environment.
pub(super) fn endpoint(name: &str, value: &str) -> Result<String, BackendError> {
    let value = if value.contains("://") { value.to_owned() } else { format!("https://{value}") };
    origin(&value).map_err(|why| {
        BackendError::caller("read the environment", name, format!("it is {why}"))
            .advise(format!("set {name} to https://HOST"))
    })
}
