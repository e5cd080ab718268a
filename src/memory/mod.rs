//! Memory of a guest: physical bytes, page tables, the kernel's own symbols and types, and the questions asked of them.
//!
//! Everything comes from the image: no symbol file, no network. What was found where, and how sure it is, is told by
//! `impound memory IMAGE info`.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "fields of foreign structures are cut to their width and read with their sign on purpose"
)]

mod cells;
mod error;
pub mod linux;
pub mod paging;
pub mod physical;
mod scan;
pub mod symbols;

pub use error::{Fault, MemoryError, Outcome};
pub use physical::Physical;
