//! What can go wrong while memory is analysed: a place that does not read, and a kernel that is not as expected.

use std::io;

use thiserror::Error;

use crate::image::ReadError;

/// A place that holds nothing for us, and why. Small, because walks meet many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Fault {
    /// No page is mapped there.
    #[error("nothing is mapped at {0:#x}")]
    NotMapped(u64),
    /// The page is in swap, or moved away.
    #[error("the page at {0:#x} is swapped out")]
    Swapped(u64),
    /// The address is none of this machine.
    #[error("{0:#x} is no address")]
    NoAddress(u64),
    /// Mapped, but the image does not hold the page.
    #[error("the image holds nothing at physical {0:#x}")]
    NotInImage(u64),
    /// The image should hold it and cannot be read there: the file, or what wraps it, is broken.
    #[error("the image cannot be read at physical {0:#x}: impound verify, or the disk it lies on, may tell why")]
    Unreadable(u64),
}

/// A failure of an analysis.
#[derive(Debug, Error)]
pub enum MemoryError {
    /// A place that does not read.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// A null pointer where something was to be followed.
    #[error("{0} is null")]
    Null(&'static str),
    /// This kernel has no such symbol.
    #[error("this kernel has no symbol {0}")]
    NoSymbol(String),
    /// This kernel has no such type.
    #[error("this kernel has no type {0}")]
    NoType(String),
    /// This kernel's type has no such member.
    #[error("this kernel's {of} has no member {path}")]
    NoMember {
        /// The type.
        of: String,
        /// The member, with what leads to it.
        path: String,
    },
    /// A structure that cannot be right.
    #[error("{what} at {at:#x} is damaged: {why}")]
    Corrupt {
        /// Which.
        what: &'static str,
        /// Where.
        at: u64,
        /// What is wrong with it.
        why: String,
    },
    /// The question cannot be answered without this.
    #[error("it needs {0}")]
    Needs(&'static str),
    /// Rules that are none.
    #[error("the rules cannot be used: {0}")]
    Rules(String),
    /// No kernel that can be analysed.
    #[error("{0}")]
    NoKernel(String),
    /// The image broke.
    #[error("could not read the image")]
    Image(#[from] ReadError),
    /// Rows could not be written.
    #[error("could not write rows")]
    Output(#[from] io::Error),
}

impl MemoryError {
    /// Damage: which structure, where, and what is wrong.
    pub fn corrupt(what: &'static str, at: u64, why: impl Into<String>) -> Self {
        Self::Corrupt { what, at, why: why.into() }
    }
}

/// What analyses answer.
pub type Outcome<T> = Result<T, MemoryError>;
