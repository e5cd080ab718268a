//! Is everything that was sealed still there, unchanged, and nothing added? For a case or for one exhibit.
//!
//! Everything read here is hostile: no link is followed, lengths are bounded, and a document counts only after the digest
//! that covers it. All of it is looked at, however much is found on the way. What is not found: a log that was rolled back
//! together with its head, their old signature and every later exhibit; for that, the verifier needs a later head from
//! elsewhere ([`Options::head`]), which a transfer hands out.

mod bag;
mod case;
mod finding;
mod log;
mod payload;
mod signature;

use std::fs;
use std::path::{Path, PathBuf};

pub use finding::{Finding, Severity};

use super::CaseError;
use super::custody::Head;
use super::record::Outcome;
use crate::progress::Progress;

/// How to verify.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The keys to trust, an `allowed_signers` file (ssh-keygen(1)); everything must be signed by one of them. Without
    /// it the case's own list is used, and said to be self-asserted.
    pub signers: Option<PathBuf>,
    /// A head that was noted outside; the log must contain it.
    pub head: Option<Head>,
    /// Check every digest of every file, not only the SHA-256 of record.
    pub whole: bool,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Everything that was found, in the order of the files.
    pub findings: Vec<Finding>,
    /// The sealed exhibits that are there.
    pub exhibits: Vec<ExhibitReport>,
    /// The head of the custody log, if it could be read.
    pub head: Option<Head>,
    /// Bytes that were hashed.
    pub bytes: u64,
    /// Who signed, as the trusted list names them, sorted.
    pub signers: Vec<String>,
}

/// One exhibit of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExhibitReport {
    /// Its name.
    pub name: String,
    /// How its capture ended; nothing if `exhibit.json` could not be read.
    pub outcome: Option<Outcome>,
    /// Bytes of its payload, as its manifest has it.
    pub bytes: u64,
    /// Nothing was found that is not as it was sealed.
    pub intact: bool,
    /// Who signed it.
    pub signer: Option<String>,
}

impl Report {
    /// 5: something is not as it was sealed. 3: all is, and something was never complete. 0: all complete.
    pub fn exit_code(&self) -> u8 {
        match self.findings.iter().map(Finding::severity).max() {
            Some(Severity::Failure) => 5,
            Some(Severity::Unfinished) => 3,
            Some(Severity::Note) | None => 0,
        }
    }
}

/// Verifies a case or an exhibit, whichever the folder is. An error means that nothing could be said at all.
pub fn verify(path: &Path, options: &Options, progress: &dyn Progress) -> Result<Report, CaseError> {
    let there = |name: &str| fs::symlink_metadata(path.join(name)).is_ok();
    if let Some(signers) = &options.signers {
        fs::File::open(signers).map_err(CaseError::io("read the keys to trust", signers))?;
    }
    if there("case.json") || there("custody.jsonl") || there("custody.head") {
        return case::verify(path, options, progress);
    }
    if there("exhibit.json") || there("bagit.txt") || there(super::bag::TAG_MANIFEST) {
        return bag::verify_alone(path, options, progress);
    }
    Err(CaseError::caller("verify", path, "it is neither a case (case.json) nor an exhibit (bagit.txt)"))
}
