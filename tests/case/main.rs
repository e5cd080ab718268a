//! The case: custody, what `verify` and `verify.sh` find, the formats on disk.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test stops where something is not as it should be, helpers included"
)]

mod custody;
mod damage;
mod damaged;
mod formats;
mod kit;
