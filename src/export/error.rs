//! What can go wrong when an image is exported.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::case::CaseError;
use crate::image::ReadError;

/// A failure; nothing bears the name that was asked for.
#[derive(Debug, Error)]
pub enum ExportError {
    /// It makes no sense, or the format cannot hold it.
    #[error("could not export: {0}")]
    Refused(String),
    /// The source could not be read.
    #[error("could not read the source: {0}")]
    Read(#[from] ReadError),
    /// What was written cannot be read.
    #[error("what was written does not read back, so it was removed: {0}")]
    ReadBack(ReadError),
    /// The output could not be written.
    #[error("could not {attempted} ({}): {source}", on.display())]
    Write {
        /// What was attempted.
        attempted: &'static str,
        /// On which file.
        on: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The files around it: the report, the name, the custody log.
    #[error(transparent)]
    Case(#[from] CaseError),
    /// A digest is not what it should be.
    #[error("{what} is not as it should be: expected {expected}, found {found}")]
    Differs {
        /// The source, or what was written.
        what: &'static str,
        /// What should be there.
        expected: String,
        /// What is there.
        found: String,
    },
}

impl ExportError {
    /// Wraps an I/O error: `.map_err(ExportError::write("write", &path))`.
    pub(super) fn write(attempted: &'static str, on: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Write { attempted, on: on.as_ref().to_owned(), source }
    }
}
