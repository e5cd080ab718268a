//! Exit codes: stable, since automation acts on them.

use std::process::ExitCode;

use crate::acquire::AcquireError;

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All that was asked for is there.
    Complete,
    /// Something failed.
    Error,
    /// The command line makes no sense.
    Usage,
    /// Evidence was taken, and some of it is missing.
    Partial,
    /// The guest may still be stopped.
    GuestUnsure,
    /// Evidence is not as it was sealed.
    NotVerified,
    /// Stopped from outside; the guest runs and what was captured is kept.
    Interrupted,
}

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Self::Complete => 0,
            Self::Error => 1,
            Self::Usage => 2,
            Self::Partial => 3,
            Self::GuestUnsure => 4,
            Self::NotVerified => 5,
            Self::Interrupted => 130,
        }
    }

    /// One for several pieces of work: what needs a responder most comes first, and what partly worked is partial.
    pub(super) fn of_several(all: &[Self]) -> Self {
        let any = |exit| all.contains(&exit);
        match () {
            () if any(Self::GuestUnsure) => Self::GuestUnsure,
            () if any(Self::Interrupted) => Self::Interrupted,
            () if all.iter().all(|exit| *exit == Self::Complete) => Self::Complete,
            () if any(Self::Complete) || any(Self::Partial) => Self::Partial,
            () => Self::Error,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// A command line that makes no sense, found after it was parsed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct UsageError(pub(super) String);

/// The exit code of an error.
pub(super) fn of(error: &anyhow::Error) -> Exit {
    if error.downcast_ref::<UsageError>().is_some() {
        return Exit::Usage;
    }
    match error.downcast_ref::<AcquireError>() {
        Some(AcquireError::GuestUnsure { .. }) => Exit::GuestUnsure,
        Some(AcquireError::Interrupted) => Exit::Interrupted,
        _ => Exit::Error,
    }
}

#[cfg(test)]
mod tests {
    use super::Exit::{self, Complete, Error, GuestUnsure, Interrupted, Partial};

    #[test]
    fn several_ends_are_never_better_than_the_worst_of_them() {
        for (all, expected) in [
            (&[Complete, Complete][..], Complete),
            (&[Complete, Error], Partial),
            (&[Error, Error], Error),
            (&[Partial, Error], Partial),
            (&[Complete, Interrupted, Error], Interrupted),
            (&[Complete, Interrupted, GuestUnsure], GuestUnsure),
        ] {
            assert_eq!(Exit::of_several(all), expected, "{all:?}");
        }
    }
}
