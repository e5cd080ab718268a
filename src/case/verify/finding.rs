//! What `verify` can find, each with its own name and its own message.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use crate::case::Nature;
use crate::case::custody::Break;
use crate::case::names::{Shown, plain};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing; the evidence is what it was.
    Note,
    /// Something is not finished or not whole, and says so itself.
    Unfinished,
    /// Something is not as it was sealed.
    Failure,
}

/// Something that was found. Paths are relative to what was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant says what its fields are; lengths, places and ranges are in bytes")]
pub enum Finding {
    /// The content of a file is not what was sealed. No ranges: there is no map, or the map itself was changed.
    Changed { file: PathBuf, ranges: Vec<Range<u64>> },
    /// A file is shorter or longer than it was. In bytes.
    Resized { file: PathBuf, expected: u64, found: u64 },
    /// A file that was sealed is gone.
    Removed { file: PathBuf },
    /// Something is there that was not sealed.
    Added { file: PathBuf, nature: Nature },
    /// Where a file was sealed there is something else now.
    Replaced { file: PathBuf, nature: Nature },
    /// It could not be read, so nothing is known of it.
    Unreadable { file: PathBuf, why: String },
    /// A document does not follow its schema.
    Malformed { file: PathBuf, why: String },
    /// A document has a schema or version that this program does not know.
    UnknownSchema { file: PathBuf, found: String, known: &'static str },
    /// A line of a manifest is none.
    BadManifest { file: PathBuf, line: u64, why: &'static str },
    /// Two documents of one exhibit contradict each other.
    Disagrees { file: PathBuf, why: String },

    /// The custody log was damaged.
    Log(Break),
    /// The log is shorter than its head says: the tail was cut off.
    LogCut { head: u64, found: u64 },
    /// The log is longer than its head says.
    LogAhead { head: u64, found: u64 },
    /// The head is not that of the line it names.
    HeadDisagrees { count: u64 },
    /// The log does not contain the head that the verifier was told to expect.
    HeadUnexpected { count: u64 },
    /// An exhibit was sealed after an event that this log does not have: the log was rolled back or replaced.
    LogRolledBack { exhibit: String, count: u64 },

    /// There is no signature where there was one.
    SignatureMissing { file: PathBuf, signer: String },
    /// The signature does not fit what it signs.
    BadSignature { file: PathBuf, why: String },
    /// The signature fits and is by a key that is not trusted, or not the one the log names.
    WrongSigner { file: PathBuf, signer: String, why: &'static str },

    /// The log says that this was sealed, and it is gone.
    ExhibitMissing { exhibit: String },
    /// An exhibit that the log does not know.
    ExhibitUnlogged { exhibit: PathBuf },
    /// Its tag manifest is not the one the log names: it was changed and sealed again, or exchanged.
    ExhibitExchanged { exhibit: String },

    /// Sealed, and not complete.
    NotComplete { exhibit: String, outcome: &'static str, why: String },
    /// A draft that was never sealed. Nothing protects its content.
    Unsealed { exhibit: String, logged: bool },
    /// A run that began and did not end.
    OpenRun { run: String },
    /// A temporary file that a killed run left.
    Leftover { file: PathBuf },

    /// Nothing here is signed: whoever can write to it can make it again.
    Unsigned,
    /// Trust rests on the case's own list of keys, which whoever made the case wrote.
    SelfAsserted,
    /// An exhibit was verified without its case: that it belongs to a log was not checked.
    WithoutCase,
}

impl Finding {
    /// How bad it is.
    pub fn severity(&self) -> Severity {
        match self {
            Self::Unsigned | Self::SelfAsserted | Self::WithoutCase => Severity::Note,
            Self::NotComplete { .. } | Self::Unsealed { .. } | Self::OpenRun { .. } | Self::Leftover { .. } => {
                Severity::Unfinished
            }
            _ => Severity::Failure,
        }
    }

    /// Something is not as it was sealed.
    pub fn is_failure(&self) -> bool {
        self.severity() == Severity::Failure
    }

    /// Its name for programs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Changed { .. } => "changed",
            Self::Resized { .. } => "resized",
            Self::Removed { .. } => "removed",
            Self::Added { .. } => "added",
            Self::Replaced { .. } => "replaced",
            Self::Unreadable { .. } => "unreadable",
            Self::Malformed { .. } => "malformed",
            Self::UnknownSchema { .. } => "unknown-schema",
            Self::BadManifest { .. } => "bad-manifest",
            Self::Disagrees { .. } => "disagrees",
            Self::Log(Break::Malformed { .. }) => "log-malformed",
            Self::Log(Break::Altered { .. }) => "log-altered",
            Self::Log(Break::Removed { .. }) => "log-removed",
            Self::Log(Break::Reordered { .. }) => "log-reordered",
            Self::Log(Break::Torn { .. }) => "log-torn",
            Self::LogCut { .. } => "log-cut",
            Self::LogAhead { .. } => "log-ahead",
            Self::HeadDisagrees { .. } => "head-disagrees",
            Self::HeadUnexpected { .. } => "head-unexpected",
            Self::LogRolledBack { .. } => "log-rolled-back",
            Self::SignatureMissing { .. } => "signature-missing",
            Self::BadSignature { .. } => "bad-signature",
            Self::WrongSigner { .. } => "wrong-signer",
            Self::ExhibitMissing { .. } => "exhibit-missing",
            Self::ExhibitUnlogged { .. } => "exhibit-unlogged",
            Self::ExhibitExchanged { .. } => "exhibit-exchanged",
            Self::NotComplete { .. } => "not-complete",
            Self::Unsealed { .. } => "unsealed",
            Self::OpenRun { .. } => "open-run",
            Self::Leftover { .. } => "leftover",
            Self::Unsigned => "unsigned",
            Self::SelfAsserted => "self-asserted",
            Self::WithoutCase => "without-case",
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed { file, ranges } => changed(f, file, ranges),
            Self::Resized { file, expected, found } => {
                write!(f, "{}: {found} bytes long, sealed with {expected}", Shown(file))
            }
            Self::Removed { file } => write!(f, "{}: removed", Shown(file)),
            Self::Added { file, nature } => {
                write!(f, "{}: added ({}), it was never sealed", Shown(file), nature.name())
            }
            Self::Replaced { file, nature } => {
                write!(f, "{}: a {} is where a file was sealed", Shown(file), nature.name())
            }
            Self::Unreadable { file, why } => write!(f, "{}: could not be read: {}", Shown(file), plain(why)),
            Self::UnknownSchema { file, found, known } => {
                write!(f, "{}: is `{}`, this program reads `{known}`", Shown(file), plain(found))
            }
            Self::BadManifest { file, line, why } => write!(f, "{}: line {line}: {why}", Shown(file)),
            Self::Malformed { file, why } | Self::Disagrees { file, why } => {
                write!(f, "{}: {}", Shown(file), plain(why))
            }
            _ => self.fmt_custody(f),
        }
    }
}

impl Finding {
    fn fmt_custody(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Log(found) => write!(f, "{found}"),
            Self::LogCut { head, found } => {
                write!(f, "custody.jsonl: {found} events, its head counts {head}: the tail was cut off")
            }
            Self::LogAhead { head, found } => write!(
                f,
                "custody.jsonl: {found} events, its head counts {head}: a run was killed while adding, or somebody added; \
                 `impound case recover` shows which"
            ),
            Self::HeadDisagrees { count } => {
                write!(
                    f,
                    "custody.head: not the head of event {count}: that event was altered, or the head was replaced"
                )
            }
            Self::HeadUnexpected { count } => {
                write!(f, "custody.jsonl: does not contain the expected head of event {count}: rolled back or replaced")
            }
            Self::LogRolledBack { exhibit, count } => write!(
                f,
                "custody.jsonl: exhibit {exhibit} was sealed after an event {count} that is not in it: rolled back or replaced"
            ),
            Self::SignatureMissing { file, signer } => {
                write!(f, "{}: not signed, although {signer} should have", Shown(file))
            }
            Self::BadSignature { file, why } => {
                write!(f, "{}: the signature does not fit: {}", Shown(file), plain(why))
            }
            Self::WrongSigner { file, signer, why } => write!(f, "{}: signed by {signer}, {why}", Shown(file)),
            _ => self.fmt_exhibit(f),
        }
    }

    fn fmt_exhibit(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ExhibitMissing { exhibit } => write!(f, "exhibit {exhibit}: sealed by the log, and not there"),
            Self::ExhibitUnlogged { exhibit } => {
                write!(f, "exhibit {}: the custody log does not know it", Shown(exhibit))
            }
            Self::ExhibitExchanged { exhibit } => {
                write!(
                    f,
                    "exhibit {exhibit}: not the one that was sealed: its tag manifest is another than the log says"
                )
            }
            Self::NotComplete { exhibit, outcome, why } => write!(f, "exhibit {exhibit}: {outcome}: {}", plain(why)),
            Self::Unsealed { exhibit, logged: true } => {
                write!(
                    f,
                    "exhibit {exhibit}: sealed, and killed before it had its name; `impound case recover` gives it"
                )
            }
            Self::Unsealed { exhibit, logged: false } => {
                write!(f, "exhibit {exhibit}: a draft that was never sealed; nothing protects what is in it")
            }
            Self::OpenRun { run } => write!(f, "run {run}: began and did not end; `impound case recover` undoes it"),
            Self::Leftover { file } => {
                write!(f, "{}: left by a killed run; `impound case recover` removes it", Shown(file))
            }
            Self::Unsigned => {
                f.write_str("nothing is signed: whoever could write here could have made all of it again")
            }
            Self::SelfAsserted => f.write_str(
                "the signatures were checked against keys that come with the case: trust in them is self-asserted; \
                 give --signers FILE with keys you got elsewhere",
            ),
            _ => f.write_str("verified alone: that it belongs to a case's custody log was not checked"),
        }
    }
}

fn changed(f: &mut fmt::Formatter<'_>, file: &std::path::Path, ranges: &[Range<u64>]) -> fmt::Result {
    write!(f, "{}: changed", Shown(file))?;
    for (place, range) in ranges.iter().take(16).enumerate() {
        let before = if place == 0 { " in bytes" } else { "," };
        write!(f, "{before} {}..{}", range.start, range.end)?;
    }
    match ranges.len().saturating_sub(16) {
        0 => Ok(()),
        more => write!(f, " and {more} more ranges"),
    }
}
