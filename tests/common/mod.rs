//! What the integration tests share. Each test file uses a part of it.
#![allow(dead_code, reason = "every test file is its own crate and uses a part of this")]

pub mod control;
pub mod counter;
pub mod guest;
