//! A case: a folder of sealed exhibits with one custody log.
//!
//! `docs/formats.md` describes every file of it.

mod bag;
pub mod blocks;
#[cfg(test)]
mod crash_tests;
pub mod custody;
mod digest;
mod disk;
mod drafts;
mod error;
mod exhibit;
mod folder;
mod info;
pub mod ingest;
pub mod journal;
mod manifest;
mod names;
pub mod record;
mod recover;
pub mod schema;
mod sha256;
mod sign;
mod tree;
pub mod verify;
mod whole;

pub(crate) use self::disk::Disk;
pub use digest::hex;
pub use error::CaseError;
pub use exhibit::{Draft, Sealed};
pub use folder::{Case, VERIFY_SH};
pub use info::CaseInfo;
pub use journal::{OpenRun, RunInfo, RunJournal, WireFile, open_runs};
pub use names::{plain, safe};
pub use record::{Outcome, Record, Stored};
pub use recover::{Drafts, close_run, recover};
pub use sign::{NAMESPACE, Signer};
pub use tree::Nature;
pub use whole::reread;
