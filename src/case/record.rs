//! `exhibit.json`: what was taken, from what, how, when, by whom, and how it ended. Schema `impound-exhibit/1`, described
//! in `docs/formats.md` and, for programs, in `docs/exhibit.schema.json`.
//!
//! Lengths and addresses are in bytes, times are UTC, digests are lower-case hex. A field that says nothing is left out,
//! except where absence itself is a statement (`null`).

use std::path::PathBuf;

use impound_backends::{Clocks, Consistency, Facts, Item, Pause, Quiesced, Region, Stall, Why, Witness};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::custody::Head;
use super::schema::{self, Refused};

/// Longest `exhibit.json` that is read, in bytes.
pub(crate) const RECORD_LIMIT: u64 = 64 << 20;

/// The whole of `exhibit.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// `impound-exhibit/1`.
    pub schema: String,
    /// Name of the exhibit: of its folder, and of it in the custody log. Set by sealing.
    pub name: String,
    /// Program that took it.
    pub tool: Tool,
    /// The run that took it; names the journal.
    pub run: String,
    /// The case and who asked for what.
    pub case: CaseRef,
    /// The VM.
    pub target: TargetRef,
    /// What of the VM.
    pub item: Item,
    /// By which method.
    pub method: String,
    /// What the method promises; `null` when nothing was captured.
    pub consistency: Option<Consistency>,
    /// From the instant that was fixed to the last byte.
    pub window: Window,
    /// Each time the guest stood still for the run.
    pub pauses: Vec<Pause>,
    /// The longest wait of one virtual CPU.
    pub stall: Option<Stall>,
    /// The guest's file systems were frozen around the instant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quiesced: Option<Quiesced>,
    /// This machine's clock and the guest's, read together.
    pub clocks: Option<Clocks>,
    /// How it ended.
    pub outcome: Outcome,
    /// The bytes as the guest sees them.
    pub content: Content,
    /// What the hypervisor says is there.
    pub regions: Vec<Region>,
    /// What is not in it, and why.
    pub gaps: Gaps,
    /// The files under `data/`.
    pub stored: Vec<Stored>,
    /// Facts of the instant: CPU registers, block graph ….
    pub instant: Value,
    /// What was noticed: "looks encrypted".
    pub findings: Vec<String>,
    /// Digests of the content that the host itself took.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub witnesses: Vec<Witness>,
    /// What stays on the hypervisor on purpose.
    pub left: Vec<String>,
    /// Every act on the hypervisor that was planned, in order.
    pub plan: Vec<String>,
    /// The custody log as it was when this was sealed: ties the exhibit to that very log. Set by sealing.
    pub custody: Option<Head>,
}

/// A program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tool {
    /// `impound`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// How it was built: commit, profile, target.
    pub build: String,
}

impl Tool {
    /// This program. `build` comes from the program, the library does not know it.
    pub fn this(build: impl Into<String>) -> Self {
        Self { name: "impound".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned(), build: build.into() }
    }
}

/// What the exhibit repeats of its case, so that it stands alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaseRef {
    /// Number of the case.
    pub number: String,
    /// Number of this piece of evidence.
    pub evidence_number: Option<String>,
    /// Who took it.
    pub examiner: String,
    /// By what right.
    pub authority: String,
    /// Free text.
    pub notes: Option<String>,
}

/// The VM.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TargetRef {
    /// Its address.
    pub uri: String,
    /// What it is; `null` when it never answered.
    pub facts: Option<Facts>,
}

/// A span of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// The instant that was fixed.
    pub begin: Timestamp,
    /// When the last byte was read.
    pub end: Timestamp,
}

/// How an item ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Outcome {
    /// All of it is there.
    Complete,
    /// Some of it could not be read; the gaps say which.
    Partial {
        /// Why.
        why: String,
        /// Bytes that are missing.
        missing: u64,
    },
    /// The item was not there.
    Missing {
        /// What was found instead.
        why: String,
    },
    /// It could not be taken.
    Failed {
        /// Why.
        why: String,
    },
    /// The run was stopped; what was captured until then is kept.
    Interrupted {
        /// By what.
        why: String,
    },
}

impl Outcome {
    /// Nothing is missing.
    pub fn is_complete(&self) -> bool {
        matches!(self, Self::Complete)
    }

    /// The word in tables and messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Partial { .. } => "partial",
            Self::Missing { .. } => "missing",
            Self::Failed { .. } => "failed",
            Self::Interrupted { .. } => "interrupted",
        }
    }

    /// Why it is not complete.
    pub fn why(&self) -> Option<&str> {
        match self {
            Self::Complete => None,
            Self::Partial { why, .. } | Self::Missing { why } | Self::Failed { why } | Self::Interrupted { why } => {
                Some(why)
            }
        }
    }
}

/// The bytes as the guest sees them, whatever they are wrapped in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// Length of the address space in bytes.
    pub len: u64,
    /// `raw`, `lime`, `elf`.
    pub format: String,
    /// `zstd`, or nothing.
    pub compression: Option<String>,
    /// Length of a block of `blocks.jsonl` in bytes.
    pub block_size: u64,
    /// Digests of the content before it was compressed, when it was.
    pub digests: Option<Digests>,
}

/// Digests of one sequence of bytes, in lower-case hex.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digests {
    /// SHA-256, the digest of record.
    pub sha256: String,
    /// SHA-512.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha512: Option<String>,
    /// SHA-1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha1: Option<String>,
    /// MD5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub md5: Option<String>,
    /// BLAKE3. No stock tool checks it, so it has no manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blake3: Option<String>,
}

/// A file under `data/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// Path in the bag: `data/memory.raw`.
    pub path: PathBuf,
    /// Length in bytes.
    pub len: u64,
    /// Name of the block map in the bag, if this file has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocks: Option<String>,
    /// Its digests, taken while it was written.
    #[serde(flatten)]
    pub digests: Digests,
}

/// What is not there. All lengths in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gaps {
    /// Number of all gaps.
    pub ranges: u64,
    /// Never written at the source; reads as zeros.
    pub sparse: u64,
    /// No memory is at these addresses.
    pub not_ram: u64,
    /// It is there and could not be read.
    pub unreadable: u64,
    /// The first of them.
    pub listed: Vec<Gap>,
    /// The tag file with all of them, when they are more.
    pub all_in: Option<String>,
}

/// A range that holds nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// First byte.
    pub at: u64,
    /// Length in bytes.
    pub len: u64,
    /// Why.
    pub why: Why,
}

/// Reads `exhibit.json`, which is hostile until its bag has been verified.
pub fn read(bytes: &[u8]) -> Result<Record, Refused> {
    schema::read(bytes, schema::EXHIBIT)
}

#[cfg(test)]
pub(crate) mod tests {
    use impound_backends::ItemKind;

    use super::*;

    /// A record of a complete capture, without names and digests.
    pub(crate) fn sample() -> Record {
        let now: Timestamp = "2026-11-24T10:30:00Z".parse().unwrap();
        Record {
            schema: schema::EXHIBIT.to_owned(),
            name: String::new(),
            tool: Tool::this("test"),
            run: "run1".to_owned(),
            case: CaseRef::default(),
            target: TargetRef { uri: "fake:#web01".to_owned(), facts: None },
            item: Item {
                kind: ItemKind::Memory,
                name: "memory".to_owned(),
                len: Some(8192),
                source: "pc.ram".to_owned(),
                resumable: false,
                methods: Vec::new(),
                file: None,
            },
            method: "snapshot".to_owned(),
            consistency: Some(Consistency::QuasiInstantaneous),
            window: Window { begin: now, end: now },
            pauses: Vec::new(),
            stall: None,
            quiesced: None,
            clocks: None,
            outcome: Outcome::Complete,
            content: Content { len: 8192, format: "raw".to_owned(), block_size: 4096, ..Content::default() },
            regions: Vec::new(),
            gaps: Gaps::default(),
            stored: Vec::new(),
            instant: Value::Null,
            findings: Vec::new(),
            witnesses: Vec::new(),
            left: Vec::new(),
            plan: Vec::new(),
            custody: None,
        }
    }

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        let mut record = sample();
        record.outcome = Outcome::Partial { why: "read error".to_owned(), missing: 4096 };
        record.stored.push(Stored {
            path: "data/memory.raw".into(),
            len: 8192,
            blocks: Some("blocks.jsonl".to_owned()),
            digests: Digests { sha256: "ab".repeat(32), ..Digests::default() },
        });
        let bytes = serde_json::to_vec(&record).unwrap();
        assert_eq!(read(&bytes).unwrap(), record);
    }

    #[test]
    fn a_later_version_is_named_and_not_guessed_at() {
        let error = read(br#"{"schema":"impound-exhibit/2","name":1}"#).unwrap_err();
        assert!(error.to_string().contains("impound-exhibit/2"), "{error}");
        assert!(matches!(read(b"{}").unwrap_err(), Refused::Content { .. }));
    }
}
