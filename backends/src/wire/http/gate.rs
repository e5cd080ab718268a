//! How many requests run at once: as many as the provider bears.
//!
//! The width grows by one for each round that went well and is halved when the provider throttles (additive increase,
//! multiplicative decrease, as TCP does): once for all requests that were under way when it did.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

/// See the module.
#[derive(Debug)]
pub struct Gate {
    state: Mutex<State>,
    room: Notify,
    most: f64,
}

#[derive(Debug)]
struct State {
    width: f64,
    inside: u32,
    /// When it was last made narrower.
    narrowed: Option<Instant>,
}

/// One request under way; ends when it is dropped.
#[derive(Debug)]
pub struct Inside<'a>(&'a Gate);

impl Gate {
    /// Begins with room for `first` and never grows beyond `most`.
    pub fn new(first: u32, most: u32) -> Self {
        let state = State { width: f64::from(first.max(1)), inside: 0, narrowed: None };
        Self { state: Mutex::new(state), room: Notify::new(), most: f64::from(most.max(1)) }
    }

    /// The same, for answers of so many bytes at this rate in bytes a second: never more than come within a second, so that none takes longer than
    /// an answer may.
    #[cfg(feature = "cloud")]
    pub fn for_rate((first, most): (u32, u32), rate: Option<u64>, bytes: u64) -> Self {
        let most = rate.map_or(most, |rate| u32::try_from(rate / bytes).unwrap_or(most).min(most));
        Self::new(first.min(most), most)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for room.
    pub async fn enter(&self) -> Inside<'_> {
        loop {
            let room = self.room.notified();
            {
                let mut state = self.state();
                if f64::from(state.inside) + 1.0 <= state.width {
                    state.inside += 1;
                    // Room for one more may have come at the same moment.
                    if f64::from(state.inside) + 1.0 <= state.width {
                        self.room.notify_one();
                    }
                    return Inside(self);
                }
            }
            room.await;
        }
    }

    /// A request that was sent at `sent` was throttled.
    pub fn throttled(&self, sent: Instant) {
        let mut state = self.state();
        if state.narrowed.is_none_or(|at| sent >= at) {
            state.width = (state.width / 2.0).max(1.0);
            state.narrowed = Some(Instant::now());
        }
    }

    /// How many may run at once now.
    pub fn width(&self) -> f64 {
        self.state().width
    }
}

impl Inside<'_> {
    /// The provider bore it.
    pub fn went_well(&self) {
        let mut state = self.0.state();
        state.width = (state.width + 1.0 / state.width).min(self.0.most);
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.inside = state.inside.saturating_sub(1);
        drop(state);
        self.0.room.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    #[cfg(feature = "cloud")]
    fn a_slow_rate_makes_it_narrow_from_the_begin() {
        let begins = |rate| {
            let gate = Gate::for_rate((8, 32), rate, 4 << 20);
            (gate.width(), gate.most)
        };
        assert_eq!(begins(None), (8.0, 32.0));
        assert_eq!(begins(Some(u64::MAX)), (8.0, 32.0));
        assert_eq!(begins(Some(1 << 30)), (8.0, 32.0));
        assert_eq!(begins(Some(40 << 20)), (8.0, 10.0));
        assert_eq!(begins(Some(12 << 20)), (3.0, 3.0));
        assert_eq!(begins(Some(1)), (1.0, 1.0));
    }

    #[tokio::test]
    async fn it_widens_while_all_goes_well_and_halves_once_for_what_was_under_way() {
        let gate = Gate::new(4, 16);
        let sent = Instant::now();
        for _ in 0..300 {
            gate.enter().await.went_well();
        }
        assert!((gate.width() - 16.0).abs() < 1e-9, "{}", gate.width());
        for _ in 0..5 {
            gate.throttled(sent);
        }
        assert!((gate.width() - 8.0).abs() < 1e-9, "{}", gate.width());
        gate.throttled(Instant::now());
        assert!((gate.width() - 4.0).abs() < 1e-9, "{}", gate.width());
        for _ in 0..9 {
            gate.throttled(Instant::now());
        }
        assert!(gate.width() >= 1.0);
    }

    #[tokio::test]
    async fn no_more_are_inside_than_it_is_wide_and_all_get_in() {
        let (gate, seen) = (Arc::new(Gate::new(3, 3)), Arc::new(Mutex::new((0, 0, 0))));
        let tasks: Vec<_> = (0..100)
            .map(|_| {
                let (gate, seen) = (gate.clone(), seen.clone());
                tokio::spawn(async move {
                    let _inside = gate.enter().await;
                    {
                        let mut seen = seen.lock().unwrap();
                        seen.0 += 1;
                        seen.1 = seen.1.max(seen.0);
                        seen.2 += 1;
                    }
                    tokio::task::yield_now().await;
                    seen.lock().unwrap().0 -= 1;
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*seen.lock().unwrap(), (0, 3, 100));
    }
}
