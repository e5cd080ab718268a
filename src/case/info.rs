//! `case.json`: what the case is, who runs it and why. Written once; its digest is the first thing in the custody log.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::schema;

/// The whole of `case.json`. Schema `impound-case/1`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaseInfo {
    /// `impound-case/1`.
    pub schema: String,
    /// Number of the case.
    pub number: String,
    /// What it is about.
    pub title: Option<String>,
    /// Who runs it.
    pub examiner: String,
    /// For which organisation.
    pub organization: Option<String>,
    /// By what right: warrant, contract, policy.
    pub authority: String,
    /// What is to be found out.
    pub goals: Vec<String>,
    /// When it was opened.
    pub opened: Timestamp,
    /// Free text.
    pub notes: Option<String>,
}

impl CaseInfo {
    /// A case opened now; the rest is set by its fields.
    pub fn new(number: impl Into<String>, examiner: impl Into<String>, authority: impl Into<String>) -> Self {
        Self {
            schema: schema::CASE.to_owned(),
            number: number.into(),
            title: None,
            examiner: examiner.into(),
            organization: None,
            authority: authority.into(),
            goals: Vec::new(),
            opened: Timestamp::now(),
            notes: None,
        }
    }
}
