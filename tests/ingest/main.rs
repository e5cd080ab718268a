//! What the writer promises: any order, each format, named gaps, kept remains, resumed copies.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::unnecessary_wraps,
    reason = "a test that meets the unexpected shall fail where it is"
)]

mod breaks;
mod formats;
mod kit;
mod resume;
mod scale;
