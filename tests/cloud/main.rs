//! Clouds: their APIs on loopback, by servers that the tests start and end. What of them is real, each server says in its own file.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod aws;
mod aws_breaks;
mod aws_copy;
mod aws_kit;
mod azure;
mod azure_breaks;
mod azure_kit;
mod azure_who;
#[path = "../common/mod.rs"]
mod common;
mod gcp;
mod gcp_breaks;
mod gcp_kit;
mod gcp_who;
mod kit;
mod openstack;
mod openstack_breaks;
mod openstack_kit;
