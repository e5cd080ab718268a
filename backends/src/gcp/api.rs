//! How the services of Google's cloud are asked: paths, lists page by page, and what refusals mean.
//!
//! After the REST references of Compute Engine v1, Cloud Storage JSON v1, Cloud Build v1 and Cloud Resource Manager v1, and "Errors" of
//! the Cloud APIs. A refusal's code is its HTTP status here, since each service has words of its own.

use std::sync::Arc;

use serde_json::Value;

use super::credentials::Bearer;
use super::settings::{Base, Settings};
pub(super) use crate::cloud::Refused;
use crate::wire::http::{Answer, Call, Gate, Http, Method, Request, Rules, Text, Verdict};
use crate::{Access, BackendError, Kind};

/// Most pages of a list.
const PAGES_MAX: usize = 1000;
/// Requests for spans at once: to begin with, and at most.
const GATE: (u32, u32) = (8, 32);
/// Bytes that are asked for at once, a multiple of [`crate::GRAIN`].
pub(super) const SPAN: u64 = 4 << 20;

/// A service: where its address is overridden, and where it is for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    /// Compute Engine.
    Compute,
    /// Cloud Storage.
    Storage,
    /// Cloud Build.
    Build,
    /// Cloud Resource Manager.
    Projects,
}

impl Service {
    fn place(self) -> (&'static [&'static str], &'static str) {
        match self {
            Self::Compute => {
                (&["CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE"], "https://compute.googleapis.com/compute/v1")
            }
            Self::Storage => (
                &["CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE", "STORAGE_EMULATOR_HOST"],
                "https://storage.googleapis.com/storage/v1",
            ),
            Self::Build => (&["CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDBUILD"], "https://cloudbuild.googleapis.com"),
            Self::Projects => (
                &["CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDRESOURCEMANAGER"],
                "https://cloudresourcemanager.googleapis.com",
            ),
        }
    }
}

/// Google's cloud with the eyes of one caller.
pub(super) struct Api {
    pub(super) http: Http,
    pub(super) bearer: Bearer,
    pub(super) gate: Gate,
    /// In the order of [`Service`].
    bases: [Base; 4],
}

impl Api {
    /// Nothing is asked yet.
    pub(super) fn new(settings: &Settings, access: &Access) -> Result<Self, BackendError> {
        let http = Http::new(Arc::clone(&access.wire), Rules::default(), &[])?.at_most(access.rate);
        let base = |service: Service| settings.base(service.place().0, service.place().1);
        let bases = [base(Service::Compute)?, base(Service::Storage)?, base(Service::Build)?, base(Service::Projects)?];
        let bearer = Bearer::new(settings, http.clone(), &access.wire)?;
        Ok(Self { http, bearer, gate: Gate::for_rate(GATE, access.rate, SPAN), bases })
    }

    fn base(&self, service: Service) -> &Base {
        let [compute, storage, build, projects] = &self.bases;
        match service {
            Service::Compute => compute,
            Service::Storage => storage,
            Service::Build => build,
            Service::Projects => projects,
        }
    }

    /// A request to a service; `path` stands behind the service's own.
    pub(super) fn request(&self, purpose: &'static str, method: Method, service: Service, path: &str) -> Request {
        let base = self.base(service);
        Request::new(purpose, method, &base.origin, format!("{}{path}", base.path))
    }

    /// A request to the XML API of Cloud Storage, where names of objects may hold slashes.
    pub(super) fn object(&self, purpose: &'static str, method: Method, bucket: &str, object: &str) -> Request {
        Request::new(purpose, method, &self.base(Service::Storage).origin, format!("/{bucket}/{object}"))
    }

    /// Something that is there.
    pub(super) async fn get(&self, purpose: &'static str, service: Service, path: &str) -> Result<Value, Refused> {
        self.json(self.request(purpose, Method::Get, service, path)).await
    }

    /// Asks, and reads the answer.
    pub(super) async fn json(&self, request: Request) -> Result<Value, Refused> {
        let (purpose, place) = (request.purpose, request.place());
        Ok(self.ask(request, false).await?.json(purpose, &place)?)
    }

    /// All pages of a list, whose rows are under `key`.
    pub(super) async fn list(&self, request: Request, key: &str) -> Result<Vec<Value>, Refused> {
        let (mut all, mut token) = (Vec::new(), None::<String>);
        for _ in 0..PAGES_MAX {
            let mut page = request.clone();
            if let Some(token) = &token {
                page = page.query("pageToken", token.as_str());
            }
            let mut page = self.json(page).await?;
            if let Some(Value::Array(rows)) = page.get_mut(key).map(Value::take) {
                all.extend(rows);
            }
            token = Some(text(&page, "/nextPageToken").to_owned()).filter(|token| !token.is_empty());
            if token.is_none() {
                return Ok(all);
            }
        }
        let found = format!("more than {PAGES_MAX} pages");
        Err(BackendError::corrupt(request.purpose, request.place(), "the list", "an end", found).into())
    }

    /// Asks, and takes only a good answer. What must not happen twice is asked `once`, unless the service says that it did nothing.
    pub(super) async fn ask(&self, request: Request, once: bool) -> Result<Answer, Refused> {
        let call = Call { judge: &judge, once, ..Call::new(request.clone(), &self.bearer) };
        let answer = self.http.send(call).await?;
        if answer.is_good() { Ok(answer) } else { Err(refusal(&answer, &request)) }
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

/// A whole number, which Google's JSON has as a text where it may be large.
pub(super) fn number(value: &Value, path: &str) -> Option<u64> {
    let value = value.pointer(path)?;
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// The rows of a list inside of a document.
pub(super) fn rows<'a>(value: &'a Value, path: &str) -> impl Iterator<Item = &'a Value> {
    value.pointer(path).and_then(Value::as_array).into_iter().flatten()
}

/// Words of a server, short enough for an error.
pub(super) fn clip(words: &str, most: usize) -> String {
    words.chars().filter(|c| !c.is_control()).take(most).collect()
}

/// Nothing of that name is there.
pub(super) fn is_missing(refused: &Refused) -> bool {
    refused.code == "404"
}

/// Something of that name is there already.
pub(super) fn exists(refused: &Refused) -> bool {
    refused.code == "409"
}

/// It may have been done all the same.
pub(super) fn is_unsure(refused: &Refused) -> bool {
    refused.error.kind == Kind::Io
}

/// The service's word for an error and its message; of a page only what it is.
fn said(answer: &Answer) -> (String, String) {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
    let reason = Some(text(&body, "/error/errors/0/reason")).filter(|reason| !reason.is_empty());
    let reason = reason.unwrap_or_else(|| text(&body, "/error/status"));
    (clip(reason, 100), clip(text(&body, "/error/message"), 600))
}

/// What to make of an answer. A 503 comes from proxies too, and then nobody says that nothing was done.
pub(super) fn judge(answer: &Answer) -> Verdict {
    let asks_to_wait = answer.header("retry-after").is_some();
    match (answer.status, said(answer).0.as_str()) {
        (401, _) => Verdict::Renew,
        (429, _) | (403, "rateLimitExceeded" | "userRateLimitExceeded") => Verdict::Throttled,
        (503, _) if asks_to_wait => Verdict::Throttled,
        // Something that it needs is not there yet, though it will be.
        (400, "resourceNotReady") | (408 | 500 | 502 | 503 | 504, _) => Verdict::Again,
        _ => Verdict::Done,
    }
}

/// The error of a refusal.
pub(super) fn refusal(answer: &Answer, request: &Request) -> Refused {
    let (reason, message) = said(answer);
    let error = answer.refused(request, &reason, &message);
    let disabled = reason == "accessNotConfigured" || message.contains("has not been used in project");
    let error = match answer.status {
        401 => error
            .advise("the token was refused although it is new: gcloud auth application-default login, or another key"),
        403 if disabled => error.advise("enable the API: gcloud services enable compute cloudbuild storage"),
        403 => error.advise("impound doctor says which permission is missing"),
        _ => error,
    };
    Refused { code: answer.status.to_string(), error: Box::new(error) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_are_read_in_both_forms_and_nothing_else_is_one() {
        let value = json!({ "a": "18446744073709551615", "b": 7, "c": "-1", "d": 1.5, "e": "", "f": null, "g": [1] });
        assert_eq!((number(&value, "/a"), number(&value, "/b")), (Some(u64::MAX), Some(7)));
        for bad in ["/c", "/d", "/e", "/f", "/g", "/h"] {
            assert_eq!(number(&value, bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_damaged_has_no_text_and_no_rows() {
        for damaged in [json!(null), json!([]), json!({ "a": 5 }), json!({ "a": { "b": null } })] {
            assert_eq!(text(&damaged, "/a/b"), "");
            assert_eq!(rows(&damaged, "/a/b").count(), 0);
        }
        assert_eq!(clip("a\u{1b}[31mb\n", 4), "a[31");
    }
}
