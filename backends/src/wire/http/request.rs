//! A request whose parts know whether they are secret.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::Part;
use crate::Secret;

/// What RFC 3986 section 2.3 leaves as it is.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
/// The same in a path, whose slashes stay, and colons, which there divide nothing (section 3.3) and stand before verbs of Google's.
const RESERVED_IN_PATH: &AsciiSet = &RESERVED.remove(b'/').remove(b':');
/// Longest answer of an ordinary call, in bytes.
const LIMIT: u64 = 32 << 20;
/// Longest refusal that is read where a short answer is expected, in bytes.
const WORDS: u64 = 64 << 10;
/// Longest part of a body that the log shows, in bytes.
const SHOWN: usize = 4096;

/// Percent-encodes all but unreserved characters (RFC 3986 section 2.3).
pub fn encode(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

/// A text that may be shown, or not.
#[derive(Debug, Clone)]
pub enum Text {
    /// For all to see.
    Plain(String),
    /// Not for the log, not for errors.
    Secret(Secret),
    /// A secret of which this much may be shown.
    Partly(Secret, String),
}

impl Text {
    /// The text itself, for the one who sends it.
    pub fn reveal(&self) -> &str {
        match self {
            Self::Plain(text) => text,
            Self::Secret(secret) | Self::Partly(secret, _) => secret.reveal(),
        }
    }

    /// The text as it may be seen.
    fn shown(&self) -> &str {
        match self {
            Self::Plain(text) | Self::Partly(_, text) => text,
            Self::Secret(_) => "[secret]",
        }
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self::Plain(text.to_owned())
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self::Plain(text)
    }
}

impl From<Secret> for Text {
    fn from(secret: Secret) -> Self {
        Self::Secret(secret)
    }
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Read.
    Get,
    /// Read the head.
    Head,
    /// Do.
    Post,
    /// Write.
    Put,
    /// Change.
    Patch,
    /// Remove.
    Delete,
}

impl Method {
    /// The word of the protocol.
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }

    fn of_reqwest(self) -> reqwest::Method {
        match self {
            Self::Get => reqwest::Method::GET,
            Self::Head => reqwest::Method::HEAD,
            Self::Post => reqwest::Method::POST,
            Self::Put => reqwest::Method::PUT,
            Self::Patch => reqwest::Method::PATCH,
            Self::Delete => reqwest::Method::DELETE,
        }
    }
}

/// A request. Made by [`Request::new`] and what follows it.
#[derive(Debug, Clone)]
pub struct Request {
    /// What it is for, as errors say it: "list the blocks of a snapshot".
    pub purpose: &'static str,
    /// What is to be done.
    pub method: Method,
    /// Scheme, host and port: `https://ebs.eu-west-1.amazonaws.com`.
    pub origin: String,
    /// Path, not encoded, with its slash.
    pub path: String,
    /// Behind `?`, not encoded.
    pub query: Vec<(String, Text)>,
    /// Names in lower case.
    pub headers: Vec<(&'static str, Text)>,
    /// Body.
    pub body: Option<Text>,
    /// Longest answer to take, in bytes.
    pub limit: u64,
    /// Only this part of it is asked for. An answer that is all of it (status 200) is then not read.
    pub part: Option<Part>,
    /// The answer holds a secret: not even its digest is written down.
    pub answer_is_secret: bool,
}

impl Request {
    /// A request without query, headers and body. `origin` is scheme, host and port, `path` begins with a slash.
    pub fn new(purpose: &'static str, method: Method, origin: &str, path: impl Into<String>) -> Self {
        Self {
            purpose,
            method,
            origin: origin.trim_end_matches('/').to_owned(),
            path: path.into(),
            query: Vec::new(),
            headers: Vec::new(),
            body: None,
            limit: LIMIT,
            part: None,
            answer_is_secret: false,
        }
    }

    /// Adds a pair behind `?`.
    #[must_use]
    pub fn query(mut self, name: &str, value: impl Into<Text>) -> Self {
        self.query.push((name.to_owned(), value.into()));
        self
    }

    /// Adds a header; `name` in lower case.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<Text>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Asks for a part only, and for no longer an answer, words of a refusal aside.
    #[must_use]
    pub fn part(mut self, part: Part) -> Self {
        self.part = Some(part);
        self.limit = part.bytes().max(WORDS);
        self.header("range", part.to_string())
    }

    /// Gives it a body.
    #[must_use]
    pub fn body(mut self, kind: &'static str, body: impl Into<Text>) -> Self {
        self.body = Some(body.into());
        self.header("content-type", kind)
    }

    /// Gives it a form as its body. The log shows it without the secrets in it.
    #[must_use]
    pub fn form(self, pairs: &[(String, Text)]) -> Self {
        let text: Vec<_> = pairs.iter().map(|(name, value)| pair(name, value.reveal())).collect();
        let shown: Vec<_> = pairs.iter().map(|(name, value)| shown_pair(name, value)).collect();
        let (text, shown) = (text.join("&"), shown.join("&"));
        let body = if text == shown { Text::Plain(text) } else { Text::Partly(Secret::new(text), shown) };
        self.body("application/x-www-form-urlencoded; charset=utf-8", body)
    }

    /// Sets a header, in place of one of that name.
    pub fn set_header(&mut self, name: &'static str, value: impl Into<Text>) {
        self.headers.retain(|(other, _)| *other != name);
        self.headers.push((name, value.into()));
    }

    /// The path, encoded.
    pub fn encoded_path(&self) -> String {
        utf8_percent_encode(&self.path, RESERVED_IN_PATH).to_string()
    }

    /// Host and port, as the `Host` header has them.
    pub fn host(&self) -> &str {
        self.origin.split_once("://").map_or(self.origin.as_str(), |(_, host)| host)
    }

    /// Where it goes, without what follows `?`.
    pub fn place(&self) -> String {
        format!("{}{}", self.origin, self.encoded_path())
    }

    /// As the log has it: method, address, part and body, secrets left out.
    pub(super) fn shown(&self) -> String {
        let mut text = format!("{} {}", self.method.name(), self.place());
        for (n, (name, value)) in self.query.iter().enumerate() {
            text.push(if n == 0 { '?' } else { '&' });
            text.push_str(&shown_pair(name, value));
        }
        if let Some(part) = self.part {
            text.push_str(" Range: ");
            text.push_str(&part.to_string());
        }
        if let Some(body) = &self.body {
            text.push(' ');
            text.extend(body.shown().chars().take(SHOWN));
        }
        text
    }

    /// As reqwest wants it. The error names no part of the request.
    pub(super) fn build(&self) -> Result<reqwest::Request, String> {
        let mut address = self.place();
        for (n, (name, value)) in self.query.iter().enumerate() {
            address.push(if n == 0 { '?' } else { '&' });
            address.push_str(&pair(name, value.reveal()));
        }
        let address = reqwest::Url::parse(&address).map_err(|error| format!("the address is none: {error}"))?;
        let mut request = reqwest::Request::new(self.method.of_reqwest(), address);
        for (name, value) in &self.headers {
            let mut bytes = reqwest::header::HeaderValue::from_str(value.reveal())
                .map_err(|_| format!("the header {name} cannot be sent"))?;
            bytes.set_sensitive(!matches!(value, Text::Plain(_)));
            request.headers_mut().insert(reqwest::header::HeaderName::from_static(name), bytes);
        }
        *request.body_mut() = self.body.as_ref().map(|body| body.reveal().to_owned().into());
        Ok(request)
    }
}

fn pair(name: &str, value: &str) -> String {
    format!("{}={}", encode(name), encode(value))
}

/// The same for the log.
fn shown_pair(name: &str, value: &Text) -> String {
    match value {
        Text::Plain(value) => pair(name, value),
        Text::Secret(_) | Text::Partly(..) => format!("{}={}", encode(name), value.shown()),
    }
}
