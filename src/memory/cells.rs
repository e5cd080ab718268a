//! Cells of what was read, or of why it was not.

use super::{MemoryError, Outcome};
use crate::report::{Absent, Cell};

impl MemoryError {
    /// How a cell says that its value is missing because of this.
    pub(super) fn absent(&self) -> Absent {
        match self {
            Self::Null(_) => Absent::NotApplicable,
            Self::NoMember { .. } | Self::NoSymbol(_) | Self::NoType(_) => Absent::Unknown,
            _ => Absent::Unreadable,
        }
    }
}

/// A cell of a value that may be missing.
pub(super) fn cell<T>(value: Outcome<T>, to: impl FnOnce(T) -> Cell) -> Cell {
    match value {
        Ok(value) => to(value),
        Err(error) => Cell::Absent(error.absent()),
    }
}

/// A number.
pub(super) fn int(value: Outcome<i64>) -> Cell {
    cell(value, Cell::Int)
}

/// A number without a sign. Those that no cell holds are not numbers of anything here, and shown as addresses.
pub(super) fn uint(value: Outcome<u64>) -> Cell {
    cell(value, |value| i64::try_from(value).map_or(Cell::Address(value), Cell::Int))
}

/// An address.
pub(super) fn address(value: Outcome<u64>) -> Cell {
    cell(value, Cell::Address)
}

/// A text.
pub(super) fn text(value: Outcome<String>) -> Cell {
    cell(value, Cell::Text)
}

/// A text that there may be none of.
pub(super) fn some_text(value: Option<String>) -> Cell {
    value.map_or(Cell::Absent(Absent::NotApplicable), Cell::Text)
}
