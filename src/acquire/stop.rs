//! The wish to stop, from a signal or a caller: noticed by everything that works.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::AcquireError;

/// How often a waiter looks.
const LOOK: Duration = Duration::from_millis(20);

/// Shared by whoever may stop and all that work.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Everything is to end, as soon as it can do so in order.
    pub fn now(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Was it said?
    pub fn said(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    pub(super) fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }

    pub(super) fn check(&self) -> Result<(), AcquireError> {
        if self.said() { Err(AcquireError::Interrupted) } else { Ok(()) }
    }

    /// Waits until it is said.
    pub(super) async fn wait(&self) {
        while !self.said() {
            tokio::time::sleep(LOOK).await;
        }
    }
}
