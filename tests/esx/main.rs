//! VMware's ESXi, against a double of the host (`common/esx`).

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test stops where something is not as it should be"
)]
#![cfg(feature = "esx")]

#[path = "../common/mod.rs"]
mod common;
mod https;
mod shell;
