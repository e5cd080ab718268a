//! What can go wrong with evidence at rest. Four kinds, as everywhere: the caller is wrong, input or output broke, it is
//! unsupported here, or what lies there is damaged.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// A failure with what was attempted, on what, and why.
#[derive(Debug, Error)]
pub enum CaseError {
    /// The request makes no sense here.
    #[error("could not {attempted} ({}): {why}", on.display())]
    Caller {
        /// What was attempted.
        attempted: String,
        /// On which file or folder.
        on: PathBuf,
        /// Why not, and what to do.
        why: String,
    },
    /// Reading or writing broke.
    #[error("could not {attempted} ({}): {source}", on.display())]
    Io {
        /// What was attempted.
        attempted: String,
        /// On which file or folder.
        on: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It cannot be done on this machine or with this version.
    #[error("could not {attempted} ({}): {why}", on.display())]
    Unsupported {
        /// What was attempted.
        attempted: String,
        /// On which file or folder.
        on: PathBuf,
        /// Why not, and what to do.
        why: String,
    },
    /// The file is not what its format says.
    #[error("{} is damaged at {at}: expected {expected}, found {found}", on.display())]
    Corrupt {
        /// Which file.
        on: PathBuf,
        /// Where: a byte offset or a line, in words.
        at: String,
        /// What should be there.
        expected: String,
        /// What is there.
        found: String,
    },
}

impl CaseError {
    /// The request makes no sense here.
    pub fn caller(attempted: impl Into<String>, on: impl AsRef<Path>, why: impl Into<String>) -> Self {
        Self::Caller { attempted: attempted.into(), on: on.as_ref().to_owned(), why: why.into() }
    }

    /// Wraps an I/O error: `.map_err(CaseError::io("write the block map", &path))`.
    pub fn io(attempted: impl Into<String>, on: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { attempted: attempted.into(), on: on.as_ref().to_owned(), source }
    }
}
