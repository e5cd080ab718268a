//! The program as it is called: what it prints, how it ends, several targets, the whole way of a capture on the scripted VM.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;
mod flow;
mod program;
mod readme;
mod several;
