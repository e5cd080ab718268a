//! The contract for reading the memory of a guest in place, while it runs: no pause, no copy, nothing changed.
//!
//! What is read so is of no single instant. Whoever shows it says so ([`Consistency::Live`](crate::Consistency::Live)).

use std::io;
use std::sync::Arc;

use async_trait::async_trait;

use crate::{BackendError, Why};

/// The ability to hand out a guest's memory as it is from moment to moment.
#[async_trait]
pub trait Live: Send {
    /// Opens it. Changes nothing, neither for the guest nor for its hypervisor; no page comes into being that was not there.
    async fn memory(&mut self) -> Result<Arc<dyn LiveMemory>, BackendError>;
}

/// Guest-physical memory that changes while it is read. Read by many threads at once.
pub trait LiveMemory: Send + Sync {
    /// Length of the address space in bytes: one past the last byte of main memory.
    fn len(&self) -> u64;

    /// Is there no memory at all?
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where it is read from, for a person: `QEMU, process 4711`.
    fn source(&self) -> &str;

    /// What lies at `at` now, and how far it goes on like that: at least one byte, at most to the end.
    fn span(&self, at: u64) -> io::Result<LiveSpan>;

    /// Fills `into` from guest-physical `at` on. Only bytes that are there are read.
    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), LiveError>;
}

/// A stretch of live memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveSpan {
    /// Length in bytes.
    pub len: u64,
    /// Why nothing is there; `None` where something is.
    pub absent: Option<Why>,
}

/// Why live memory was not read.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// Nothing is there, or not any more.
    #[error("nothing is at {at:#x}")]
    Absent {
        /// The first byte that is not there.
        at: u64,
        /// Length in bytes of what is not there, as far as it was looked at.
        len: u64,
        /// Why.
        why: Why,
    },
    /// Reading broke: the hypervisor's process ended, perhaps.
    #[error(transparent)]
    Io(#[from] io::Error),
}
