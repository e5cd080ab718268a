//! What can go wrong when an image is read. Four kinds, as everywhere, and a fifth that is no fault: a gap.

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};

use impound_backends::Why;
use thiserror::Error;

/// A failure to open an image or to read from it.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The request makes no sense: behind the end, a file that is not there.
    #[error("could not {attempted}: {why}")]
    Caller {
        /// What was attempted, on what.
        attempted: String,
        /// Why not, and what to do.
        why: String,
    },
    /// Reading broke.
    #[error("could not {attempted} ({}): {source}", on.display())]
    Io {
        /// What was attempted.
        attempted: &'static str,
        /// On which file.
        on: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A sound image that cannot be read here.
    #[error("{what} cannot be read here: {why}")]
    Unsupported {
        /// What it is: "a qcow2 image encrypted with LUKS".
        what: String,
        /// Why, and what to do.
        why: String,
    },
    /// The bytes are not what their format says.
    #[error("{what} is damaged at byte {at:#x}: expected {expected}, found {found}")]
    Corrupt {
        /// Which structure of which format: "qcow2 L1 table".
        what: String,
        /// Byte offset in the file that holds the structure.
        at: u64,
        /// What should be there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The image says itself that it does not hold these bytes.
    #[error("the image holds nothing at {at:#x} to {:#x}: {}", at.saturating_add(*len), reason(why))]
    Gap {
        /// First byte that is missing.
        at: u64,
        /// Length in bytes, from there.
        len: u64,
        /// Why it is missing.
        why: Why,
    },
    /// Any of these, in one file of several.
    #[error("{on}: {source}")]
    In {
        /// Which file or layer.
        on: String,
        /// What happened there.
        source: Box<ReadError>,
    },
}

impl ReadError {
    /// The request makes no sense.
    pub fn caller(attempted: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Caller { attempted: attempted.into(), why: why.into() }
    }

    /// A sound image that cannot be read here.
    pub fn unsupported(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Unsupported { what: what.into(), why: why.into() }
    }

    /// Damage: which structure, where, what should be there, what is there.
    pub fn corrupt(what: impl Into<String>, at: u64, expected: impl Display, found: impl Display) -> Self {
        Self::Corrupt { what: what.into(), at, expected: expected.to_string(), found: found.to_string() }
    }

    /// Wraps an I/O error: `.map_err(ReadError::io("read", &path))`.
    pub fn io(attempted: &'static str, on: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { attempted, on: on.as_ref().to_owned(), source }
    }

    /// Says in which file or layer it happened: `.map_err(ReadError::within("backing file base.qcow2"))`.
    pub fn within(on: impl Into<String>) -> impl FnOnce(Self) -> Self {
        move |error| Self::In { on: on.into(), source: Box::new(error) }
    }

    /// A gap that was met at `below` in other bytes, as one at `here` in these: whoever is told of it looks for it here.
    #[must_use]
    pub fn moved(self, below: u64, here: u64) -> Self {
        match self {
            Self::Gap { at, len, why } => Self::Gap { at: here.saturating_add(at.saturating_sub(below)), len, why },
            other => other,
        }
    }

    /// The error itself, without the files and layers it came through.
    pub fn root(&self) -> &Self {
        match self {
            Self::In { source, .. } => source.root(),
            other => other,
        }
    }

    /// It is a gap that the image declares, not a fault.
    pub fn is_gap(&self) -> bool {
        matches!(self.root(), Self::Gap { .. })
    }
}

/// Why a range is missing, in words.
pub fn reason(why: &Why) -> String {
    match why {
        Why::Sparse => "never written".to_owned(),
        Why::NotRam => "no memory at these addresses".to_owned(),
        Why::Unreadable(reason) => reason.clone(),
    }
}
