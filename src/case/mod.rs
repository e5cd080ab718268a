//! A case: a folder of sealed exhibits with one custody log.

pub mod blocks;
mod error;
pub mod ingest;
mod sha256;

pub use error::CaseError;
