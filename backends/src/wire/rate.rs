//! A limit on what is taken over the network.

use std::time::{Duration, Instant};

/// A limit on what is taken over the network.
pub(in crate::wire) struct Rate {
    per_second: u64,
    /// When what was taken so far would have arrived at this rate.
    clear: Instant,
}

impl Rate {
    pub(in crate::wire) fn new(per_second: u64) -> Self {
        Self { per_second: per_second.max(1), clear: Instant::now() }
    }

    pub(in crate::wire) fn took(&mut self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let cost = Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / self.per_second);
        self.clear = self.clear.max(Instant::now()) + cost;
    }

    /// How long to read nothing.
    pub(in crate::wire) fn wait(&self) -> Option<Duration> {
        self.clear.checked_duration_since(Instant::now()).filter(|wait| !wait.is_zero())
    }
}
