//! How the services are asked: Nova, Cinder and Glance, each at its place of the catalog, with a token, and what refusals mean.

use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::OnceCell;

use super::keystone::{self, Bearer, Keystone, Who};
use super::place::Place;
use super::settings::Settings;
use crate::wire::http::{Answer, Call, Gate, Http, Method, Request, Rules, Verdict};
use crate::{Access, BackendError, Kind};

/// Requests for parts of an image at once: to begin with, and at most.
const GATE: (u32, u32) = (4, 16);
/// Bytes of a part, a multiple of [`crate::GRAIN`].
pub(super) const SPAN: u64 = 4 << 20;

/// A service, and the version of its API that is spoken ("API microversions" of the guides).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Service {
    /// Pike and later: `createImage` answers the image's id (2.45), a server tells its flavor whole (2.47).
    Nova,
    /// Newton and later: group snapshots (3.14).
    Cinder,
    /// The Image API v2 has no versions to ask for.
    Glance,
}

impl Service {
    /// Names in the catalog, the newest first.
    fn types(self) -> &'static [&'static str] {
        match self {
            Self::Nova => &["compute"],
            Self::Cinder => &["block-storage", "volumev3", "block-store", "volume"],
            Self::Glance => &["image"],
        }
    }

    fn version(self) -> Option<&'static str> {
        match self {
            Self::Nova => Some("compute 2.47"),
            Self::Cinder => Some("volume 3.14"),
            Self::Glance => None,
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nova => "Nova",
            Self::Cinder => "Cinder",
            Self::Glance => "Glance",
        })
    }
}

/// A refusal, with its status.
#[derive(Debug)]
pub(super) struct Refused {
    /// 0 if no whole answer came.
    pub(super) status: u16,
    pub(super) error: Box<BackendError>,
}

impl Refused {
    /// It may have been done all the same.
    pub(super) fn is_unsure(&self) -> bool {
        self.error.kind == Kind::Io
    }
}

impl From<BackendError> for Refused {
    fn from(error: BackendError) -> Self {
        Self { status: 0, error: Box::new(error) }
    }
}

impl From<Refused> for BackendError {
    fn from(refused: Refused) -> Self {
        *refused.error
    }
}

/// What is asked.
pub(super) struct Ask {
    pub(super) service: Service,
    pub(super) purpose: &'static str,
    pub(super) method: Method,
    /// Behind the service's own place.
    pub(super) path: String,
    pub(super) query: Vec<(&'static str, String)>,
    pub(super) body: Option<Value>,
}

impl Ask {
    /// A question that changes nothing.
    pub(super) fn get(service: Service, purpose: &'static str, path: impl Into<String>) -> Self {
        Self { service, purpose, method: Method::Get, path: path.into(), query: Vec::new(), body: None }
    }

    /// Something to be done, once.
    pub(super) fn post(service: Service, purpose: &'static str, path: impl Into<String>, body: Value) -> Self {
        Self { method: Method::Post, body: Some(body), ..Self::get(service, purpose, path) }
    }

    /// Adds a pair behind `?`.
    pub(super) fn query(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }
}

/// A cloud with the eyes of one caller.
pub(super) struct Api {
    pub(super) http: Http,
    pub(super) keystone: Keystone,
    pub(super) settings: Settings,
    pub(super) gate: Gate,
    places: [OnceCell<Place>; 3],
}

impl Api {
    /// Nothing is asked yet.
    pub(super) fn new(settings: Settings, access: &Access) -> Result<Self, BackendError> {
        let roots = settings.roots()?;
        let http = Http::new(std::sync::Arc::clone(&access.wire), Rules::default(), &roots)?.at_most(access.rate);
        let keystone = Keystone::new(&settings, http.clone())?;
        Ok(Self { http, keystone, settings, gate: Gate::for_rate(GATE, access.rate, SPAN), places: Default::default() })
    }

    /// Who asks.
    pub(super) async fn who(&self) -> Result<Who, BackendError> {
        Ok(self.keystone.token().await?.who.clone())
    }

    /// Where a service is.
    pub(super) async fn place(&self, service: Service) -> Result<&Place, BackendError> {
        let [nova, cinder, glance] = &self.places;
        let cell = match service {
            Service::Nova => nova,
            Service::Cinder => cinder,
            Service::Glance => glance,
        };
        cell.get_or_try_init(|| async {
            let token = self.keystone.token().await?;
            let place = keystone::find(&token.catalog, service.types(), &self.settings)?;
            Ok(if service == Service::Glance { place.with_version("/v2", &["/v2"]) } else { place })
        })
        .await
    }

    /// The request for what is asked, without a token.
    pub(super) async fn request(&self, ask: Ask) -> Result<Request, BackendError> {
        let place = self.place(ask.service).await?;
        let mut request = Request::new(ask.purpose, ask.method, &place.origin, place.path(&ask.path))
            .header("accept", "application/json");
        if let Some(version) = ask.service.version() {
            request = request.header("openstack-api-version", version);
        }
        for (name, value) in ask.query {
            request = request.query(name, value);
        }
        Ok(match ask.body {
            Some(body) => request.body("application/json", body.to_string()),
            None => request,
        })
    }

    /// Asks. What is not a question is not asked twice, unless the service says that it did nothing.
    pub(super) async fn ask(&self, ask: Ask) -> Result<Answer, Refused> {
        let service = ask.service;
        let request = self.request(ask).await?;
        let bearer = Bearer::new(&self.keystone);
        let once = request.method == Method::Post;
        let answer = self.http.send(Call { judge: &judge, once, ..Call::new(request.clone(), &bearer) }).await?;
        if answer.is_good() { Ok(answer) } else { Err(refusal(&answer, &request, service)) }
    }

    /// The same, and the answer as JSON.
    pub(super) async fn json<T: DeserializeOwned>(&self, ask: Ask) -> Result<T, Refused> {
        let (purpose, path) = (ask.purpose, ask.path.clone());
        Ok(self.ask(ask).await?.json(purpose, &path)?)
    }

    /// The command that does something by hand, for whoever decides.
    pub(super) fn command(&self, rest: &str) -> String {
        match &self.settings.name {
            Some(name) => format!("openstack --os-cloud {name} {rest}"),
            None => format!("openstack {rest}"),
        }
    }
}

/// What to make of an answer. A 503 comes from proxies too, and then nobody says that nothing was done.
pub(super) fn judge(answer: &Answer) -> Verdict {
    let asks_to_wait = answer.header("retry-after").is_some();
    match answer.status {
        401 => Verdict::Renew,
        429 => Verdict::Throttled,
        413 | 503 if asks_to_wait => Verdict::Throttled,
        408 | 500 | 502 | 503 | 504 => Verdict::Again,
        _ => Verdict::Done,
    }
}

/// The word of a refusal and its message. Nova and Cinder name it as the only key, Keystone says `error`, Glance may answer a page.
pub(super) fn said(answer: &Answer) -> (String, String) {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map(clip).unwrap_or_default();
    match body.as_object().and_then(|object| object.iter().find(|(_, inner)| inner.is_object())) {
        Some((name, inner)) => {
            let title = text(inner, "title");
            (clip(if title.is_empty() { name } else { &title }), text(inner, "message"))
        }
        None if body.is_object() => (text(&body, "title"), text(&body, "message")),
        None => (String::new(), clip(&without_tags(&String::from_utf8_lossy(&answer.body)))),
    }
}

/// The words of a page.
fn without_tags(page: &str) -> String {
    let words = page.split('<').filter_map(|part| part.split_once('>').map_or(Some(part), |(_, text)| Some(text)));
    words.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ")
}

/// A message of a server, short enough for an error.
fn clip(message: &str) -> String {
    message.chars().filter(|c| !c.is_control()).take(600).collect()
}

/// The error of a refusal.
pub(super) fn refusal(answer: &Answer, request: &Request, service: Service) -> Refused {
    let (title, message) = said(answer);
    let error = answer.refused(request, &title, &message);
    let error = match answer.status {
        401 => error.advise(
            "the token was refused although it is new: look at the clocks, and whether the credentials are still good",
        ),
        403 => {
            error.advise("the roles of these credentials do not allow it; impound doctor says which calls are allowed")
        }
        406 => {
            error.advise(format!("{service} is too old: {} is spoken here", service.version().unwrap_or("version 2")))
        }
        _ => error,
    };
    Refused { status: answer.status, error: Box::new(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_page_are_those_between_its_tags() {
        let page = "<html>\n <head><title>400 Bad Request</title></head><body>The <b>Store</b> cannot.</body></html>";
        assert_eq!(without_tags(page), "400 Bad Request The Store cannot.");
        assert_eq!(without_tags("no page"), "no page");
    }
}
