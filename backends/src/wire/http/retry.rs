//! How long to wait for an answer, how often to ask, and how long to wait in between.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// See the module.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// For a connection to be made.
    pub connect_within: Duration,
    /// The longest that a connection may be silent in the middle of an answer.
    pub silence: Duration,
    /// For the whole of one try.
    pub within: Duration,
    /// How often what fails is tried.
    pub tries: u32,
    /// For how long being throttled is waited out.
    pub patience: Duration,
    /// The first wait is at most this; each one after that at most twice as long.
    pub first_wait: Duration,
    /// No wait is longer.
    pub longest_wait: Duration,
    /// Past proxies: for addresses that only this machine knows.
    pub direct: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            connect_within: Duration::from_secs(10),
            silence: Duration::from_secs(30),
            within: Duration::from_secs(120),
            tries: 8,
            patience: Duration::from_secs(600),
            first_wait: Duration::from_millis(100),
            longest_wait: Duration::from_secs(20),
            direct: false,
        }
    }
}

impl Rules {
    /// The wait before try `n` (from 0), random, and no less than the server asked for within reason.
    pub(super) fn wait(&self, n: u32, asked: Option<Duration>) -> Duration {
        let most = self.first_wait.saturating_mul(1 << n.min(16)).min(self.longest_wait);
        most.mul_f64(random()).max(asked.unwrap_or_default().min(self.longest_wait))
    }
}

/// From 0 to 1. The standard library seeds each `RandomState` anew, and chance for spreading load needs no more.
fn random() -> f64 {
    let bits = RandomState::new().build_hasher().finish();
    f64::from(u32::try_from(bits >> 32).unwrap_or(0)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_differ_and_end() {
        let rules = Rules::default();
        for n in 0..40 {
            let most = Duration::from_millis(100 << n.min(10)).min(rules.longest_wait);
            let waits: Vec<_> = (0..50).map(|_| rules.wait(n, None)).collect();
            assert!(waits.iter().all(|wait| *wait <= most), "{n}: {waits:?}");
            assert!(waits.iter().any(|wait| *wait != waits[0]), "{n}: all {:?}", waits[0]);
            assert!(waits.iter().max().unwrap() > &(most / 2), "{n}: {waits:?}");
        }
        assert!(rules.wait(0, Some(Duration::from_secs(3))) >= Duration::from_secs(3));
        assert!(rules.wait(0, Some(Duration::from_secs(86400))) <= rules.longest_wait);
    }
}
