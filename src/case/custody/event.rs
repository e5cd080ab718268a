//! One line of the custody log. Its field order is fixed, and what `sed` must find stands in front of all free text.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::case::digest::is_hex;

/// The hash that the first line carries, as nothing is before it.
pub(crate) const NOTHING_BEFORE: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum EventKind {
    /// The case was opened.
    CaseOpened,
    /// A file of the case outside the exhibits has this content from now on. Subject: its path; digest: its SHA-256.
    Kept,
    /// A run against a VM began. Subject: the run.
    RunBegun,
    /// It ended. Subject: the run.
    RunEnded,
    /// An exhibit was sealed. Subject: its name; digest: SHA-256 of its `tagmanifest-sha256.txt`.
    Sealed,
    /// An item could not be taken. Subject: the item.
    NotTaken,
    /// The whole case was verified.
    Verified,
    /// Somebody wrote something down.
    Note,
    /// A copy of an exhibit was made in another format. Subject: the exhibit; digest: SHA-256 of the file that was written.
    Exported,
    /// The case was handed over; the digest is that of the log until then.
    Transferred,
    /// What a killed run left was put in order.
    Recovered,
    /// Something a later version writes. `[a-z-]{1,32}`.
    Other(String),
}

const NAMED: [(&str, EventKind); 11] = [
    ("case-opened", EventKind::CaseOpened),
    ("kept", EventKind::Kept),
    ("run-begun", EventKind::RunBegun),
    ("run-ended", EventKind::RunEnded),
    ("sealed", EventKind::Sealed),
    ("exported", EventKind::Exported),
    ("not-taken", EventKind::NotTaken),
    ("verified", EventKind::Verified),
    ("note", EventKind::Note),
    ("transferred", EventKind::Transferred),
    ("recovered", EventKind::Recovered),
];

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = NAMED.iter().find(|(_, kind)| kind == self).map(|(name, _)| *name);
        match (named, self) {
            (None, Self::Other(name)) => f.write_str(name),
            (name, _) => f.write_str(name.unwrap_or_default()),
        }
    }
}

impl From<EventKind> for String {
    fn from(kind: EventKind) -> Self {
        kind.to_string()
    }
}

impl TryFrom<String> for EventKind {
    type Error = &'static str;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        if let Some((_, kind)) = NAMED.iter().find(|(known, _)| *known == name) {
            return Ok(kind.clone());
        }
        if !(1..=32).contains(&name.len()) || !name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-') {
            return Err("the name of an event is not [a-z-]{1,32}");
        }
        Ok(Self::Other(name))
    }
}

/// One event as it stands in the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// Number of the line, from 1.
    pub n: u64,
    /// SHA-256 of the line before, without its newline; 64 zeros in the first.
    pub prev: String,
    /// When, by this machine's clock, UTC.
    pub time: Timestamp,
    /// What happened.
    pub event: EventKind,
    /// To what: an exhibit, a run, a file. `[A-Za-z0-9._/-]`.
    pub subject: Option<String>,
    /// SHA-256 that belongs to it.
    pub digest: Option<String>,
    /// Fingerprint of the key that signed the head after this event; `null` in an unsigned case.
    pub signer: Option<String>,
    /// Who did it.
    pub who: String,
    /// The rest.
    pub details: Value,
}

/// What the caller says of an event; number, hash, time and signer come from the log.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    /// What happened.
    pub event: EventKind,
    /// To what.
    pub subject: Option<String>,
    /// SHA-256 that belongs to it, in hex.
    pub digest: Option<String>,
    /// Who did it.
    pub who: String,
    /// The rest.
    pub details: Value,
}

impl NewEvent {
    /// An event without subject, digest and details.
    pub fn new(event: EventKind, who: impl Into<String>) -> Self {
        Self { event, subject: None, digest: None, who: who.into(), details: Value::Null }
    }

    /// It happened to this.
    #[must_use]
    pub fn to(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// With this SHA-256, in hex.
    #[must_use]
    pub fn digest(mut self, digest: impl Into<String>) -> Self {
        self.digest = Some(digest.into());
        self
    }

    /// With these details.
    #[must_use]
    pub fn details(mut self, details: Value) -> Self {
        self.details = details;
        self
    }
}

impl Event {
    /// Reads one line, without its newline. It must be exactly what [`Event::line`] writes up to the free text, so that
    /// `sed` and this program cannot be made to read two different things.
    pub fn parse(line: &[u8]) -> Result<Self, String> {
        if !line.ends_with(b"}") {
            return Err("it does not end as an event ends".to_owned());
        }
        let event: Self = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        event.check()?;
        let written = event.line().map_err(|error| error.to_string())?;
        let front = |bytes: &[u8]| bytes.windows(WHO.len()).position(|w| w == WHO);
        let (Some(ours), Some(theirs)) = (front(&written), front(line)) else {
            return Err("its fields are not in their order".to_owned());
        };
        if written.get(..ours) != line.get(..theirs) {
            return Err("its fields are not written as this log writes them".to_owned());
        }
        Ok(event)
    }

    /// The line, without its newline.
    pub fn line(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(self)
    }

    /// Does every field that is not free text keep to its alphabet?
    pub(crate) fn check(&self) -> Result<(), String> {
        let in_alphabet = |text: &str, more: &[u8]| {
            (1..=300).contains(&text.len())
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._/-".contains(&b) || more.contains(&b))
        };
        if !is_hex(&self.prev, 64) || self.digest.as_ref().is_some_and(|digest| !is_hex(digest, 64)) {
            return Err("a hash is not 64 lower-case hex digits".to_owned());
        }
        if self.subject.as_ref().is_some_and(|subject| !in_alphabet(subject, b"")) {
            return Err("its subject has characters that no subject has".to_owned());
        }
        if self.signer.as_ref().is_some_and(|signer| !in_alphabet(signer, b":+=")) {
            return Err("its signer is no fingerprint".to_owned());
        }
        Ok(())
    }
}

/// Where the free text begins. No field before it can hold these bytes: quotes inside JSON strings are escaped.
const WHO: &[u8] = br#","who":""#;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn event(n: u64, prev: &str) -> Event {
        Event {
            n,
            prev: prev.to_owned(),
            time: "2026-11-24T10:30:00Z".parse().unwrap(),
            event: EventKind::Note,
            subject: None,
            digest: None,
            signer: None,
            who: "x\",\"event\":\"sealed\"".to_owned(),
            details: Value::Null,
        }
    }

    #[test]
    fn a_line_is_one_canonical_object() {
        let mut event = event(1, NOTHING_BEFORE);
        event.who = "Ada".to_owned();
        let line = String::from_utf8(event.line().unwrap()).unwrap();
        assert_eq!(
            line,
            format!(
                r#"{{"n":1,"prev":"{NOTHING_BEFORE}","time":"2026-11-24T10:30:00Z","event":"note","subject":null,"digest":null,"signer":null,"who":"Ada","details":null}}"#
            )
        );
        assert_eq!(Event::parse(line.as_bytes()).unwrap(), event);
    }

    #[test]
    fn what_sed_would_read_otherwise_is_refused() {
        let good = String::from_utf8(event(1, NOTHING_BEFORE).line().unwrap()).unwrap();
        assert!(Event::parse(good.as_bytes()).is_ok());
        for bad in [
            good.replace(r#"{"n":1"#, r#"{ "n":1"#),
            good.replace(r#"{"n":1"#, r#"{"n":1,"n":1"#),
            good.replace(r#""event":"note""#, r#""event":"no\u0074e""#),
            good.replace(r#""event":"note","subject":null"#, r#""subject":null,"event":"note""#),
            good.replace(r#""subject":null"#, r#""subject":"a b""#),
            good.replace("000", "00G"),
            good.replace(r#""details":null"#, r#""details":null,"more":1"#),
        ] {
            assert_ne!(bad, good);
            assert!(Event::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
