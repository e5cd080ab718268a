//! One error for everything that can go wrong between impound and a hypervisor.
//!
//! It always says what was attempted, on what, and why it failed; where a person can do something about it, also what.
//! The four kinds decide who has to act: the caller, the machine, nobody (it cannot be done here), or the one who
//! sent what we could not read.

use std::fmt;
use std::io;

/// Who is to blame, and so who has to act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The request makes no sense here: a bad address, an unknown VM, a method that does not exist.
    Caller,
    /// A socket, a file or the peer broke while we were at it.
    Io,
    /// Asked rightly, but this hypervisor, guest or machine cannot do it.
    Unsupported,
    /// The peer sent something that its protocol does not allow.
    Corrupt,
}

/// A failure with everything a responder needs to act on it.
#[derive(Debug)]
pub struct BackendError {
    /// Which of the four kinds of failure.
    pub kind: Kind,
    /// What was attempted, as "read the greeting".
    pub attempted: String,
    /// On what, as "/run/web01.qmp" or "disk vda".
    pub on: String,
    /// Why it failed.
    pub why: String,
    /// What to do about it, if anything can be done.
    pub advice: Option<String>,
}

impl BackendError {
    /// An error of `kind`; `advice` is added by [`BackendError::advise`].
    pub fn new(kind: Kind, attempted: impl Into<String>, on: impl Into<String>, why: impl Into<String>) -> Self {
        Self { kind, attempted: attempted.into(), on: on.into(), why: why.into(), advice: None }
    }

    /// The request makes no sense here.
    pub fn caller(attempted: impl Into<String>, on: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(Kind::Caller, attempted, on, why)
    }

    /// Input or output broke.
    pub fn io(attempted: impl Into<String>, on: impl Into<String>, why: &io::Error) -> Self {
        Self::new(Kind::Io, attempted, on, why.to_string())
    }

    /// It cannot be done here.
    pub fn unsupported(attempted: impl Into<String>, on: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(Kind::Unsupported, attempted, on, why)
    }

    /// The peer broke its protocol at byte or message `at`.
    pub fn corrupt(
        attempted: impl Into<String>,
        on: impl Into<String>,
        at: impl fmt::Display,
        expected: impl fmt::Display,
        found: impl fmt::Display,
    ) -> Self {
        Self::new(Kind::Corrupt, attempted, on, format!("at {at}: expected {expected}, found {found}"))
    }

    /// Adds what the responder can do.
    #[must_use]
    pub fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }
}

impl fmt::Display for BackendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "could not {} ({}): {}", self.attempted, self.on, self.why)?;
        match &self.advice {
            Some(advice) => write!(f, "; {advice}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for BackendError {}
