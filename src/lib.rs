//! impound takes memory and disks of a suspect VM through its hypervisor, seals them so that an outsider can check
//! them with stock tools, and answers the first questions about them.
//!
//! The way of the data: a target's [`impound_backends::Capture`] is ingested into a draft exhibit ([`case`]), hashed
//! while it is written, sealed, and noted in the case's custody log. Imports run one way, see `ARCHITECTURE.md`.

pub mod acquire;
pub mod analyzer;
pub mod case;
pub mod cli;
pub mod disk;
pub mod export;
pub mod extract;
pub mod image;
pub mod memory;
pub mod progress;
pub mod report;
