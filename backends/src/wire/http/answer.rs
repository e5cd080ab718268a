//! An answer, read whole, and what to make of it.

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::HeaderMap;
use serde::de::DeserializeOwned;

use super::Request;
use crate::BackendError;

/// Headers in which providers name an exchange.
const REQUEST_ID: &[&str] =
    &["x-amzn-requestid", "x-amz-request-id", "x-ms-request-id", "x-openstack-request-id", "x-guploader-uploadid"];
/// Longest header that is kept, in bytes.
const HEADER_MAX: usize = 4096;

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    headers: Vec<(String, String)>,
    /// SHA-256 of the body.
    pub sha256: [u8; 32],
    /// The body.
    pub body: Bytes,
}

/// What to make of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is the answer, good or not.
    Done,
    /// Asked too often: nothing was done, and it is to be asked again later.
    Throttled,
    /// The server broke; the next try may go well.
    Again,
    /// Whoever signed has to get something newer first.
    Renew,
    /// It is not what the server itself says that it is.
    Bad(String),
}

/// By its status alone: 429 and 503 are throttling, 408 and the other errors of servers may go away.
pub fn by_status(answer: &Answer) -> Verdict {
    match answer.status {
        429 | 503 => Verdict::Throttled,
        408 | 500 | 502 | 504 => Verdict::Again,
        _ => Verdict::Done,
    }
}

impl Answer {
    pub(super) fn new(status: u16, headers: &HeaderMap) -> Self {
        let kept = headers.iter().filter_map(|(name, value)| {
            let value = value.to_str().ok().filter(|value| value.len() <= HEADER_MAX)?;
            Some((name.as_str().to_owned(), value.to_owned()))
        });
        Self { status, headers: kept.collect(), sha256: [0; 32], body: Bytes::new() }
    }

    /// A header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Did the server do what it was asked?
    pub fn is_good(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The provider's name for the exchange.
    pub fn request_id(&self) -> Option<String> {
        let id = REQUEST_ID.iter().find_map(|name| self.header(name))?;
        Some(id.chars().filter(char::is_ascii_graphic).take(128).collect())
    }

    /// How long the server asks to wait, where it says so in seconds.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        self.header("retry-after")?.trim().parse().ok().map(Duration::from_secs)
    }

    /// `sha256:…` of the body.
    pub(super) fn digest(&self) -> String {
        format!("sha256:{}", crate::wire::hex(&self.sha256))
    }

    /// The body as JSON. `to` is what was asked.
    pub fn json<T: DeserializeOwned>(&self, purpose: &'static str, place: &str) -> Result<T, BackendError> {
        serde_json::from_slice(&self.body).map_err(|error| {
            // Its own words may repeat what stands there, and that may be a secret.
            let at = format!("line {}, column {} of the answer", error.line(), error.column());
            let found = format!("{:?} error", error.classify()).to_lowercase();
            BackendError::corrupt(purpose, place, at, "JSON of the documented form", found)
        })
    }

    /// The error of a server that said why in words of its own.
    pub fn refused(&self, request: &Request, code: &str, message: &str) -> BackendError {
        let id = self.request_id().map_or(String::new(), |id| format!(" (request {id})"));
        let said: String =
            [code, message].iter().filter(|text| !text.is_empty()).copied().collect::<Vec<_>>().join(": ");
        let said = if said.is_empty() { "it gave no reason".to_owned() } else { said };
        let why = format!("HTTP {}: {said}{id}", self.status);
        match self.status {
            400..=499 => BackendError::unsupported(request.purpose, request.place(), why),
            _ => BackendError::new(crate::Kind::Io, request.purpose, request.place(), why),
        }
    }
}
