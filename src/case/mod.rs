//! A case: a folder of sealed exhibits with one custody log.

mod error;

pub use error::CaseError;
