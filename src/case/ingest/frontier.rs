//! How far the beginning of a growing file is final, for those who read behind the one who writes.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// The filled prefix of a file. Readers wait for it; the writer never waits for them.
#[derive(Debug, Default)]
pub(super) struct Frontier {
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct State {
    filled: u64,
    /// Final steps: where each ends and whether it holds bytes. Neighbours differ.
    runs: Vec<(u64, bool)>,
    end: Option<u64>,
    abandoned: bool,
    refused: Option<String>,
}

/// See [`Frontier::guard`].
pub(super) struct Guard<'a>(&'a Frontier);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// What a reader gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// The file is final up to here; `data` is false if all of it is a hole.
    Filled { to: u64, data: bool },
    /// The file ends where the reader stands.
    End,
    /// Nothing more comes and what is there is not the whole: stop without a result.
    Abandoned,
}

impl Frontier {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A poisoned lock means that a reader died; the numbers are still right.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file is final up to each of these, in bytes, ascending; the flag says whether the step holds bytes.
    pub(super) fn publish(&self, steps: impl IntoIterator<Item = (u64, bool)>) {
        let mut state = self.lock();
        for (to, data) in steps {
            if to <= state.filled {
                continue;
            }
            state.filled = to;
            match state.runs.last_mut() {
                Some((end, same)) if *same == data => *end = to,
                _ => state.runs.push((to, data)),
            }
        }
        drop(state);
        self.moved.notify_all();
    }

    /// The file ends where it is filled.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.end = Some(state.filled);
        drop(state);
        self.moved.notify_all();
    }

    /// Nothing more comes, and nobody shall finish: readers stop after what is filled. Does nothing after
    /// [`Frontier::close`].
    pub(super) fn abandon(&self) {
        let mut state = self.lock();
        state.abandoned |= state.end.is_none();
        drop(state);
        self.moved.notify_all();
    }

    /// Abandons the file when it is dropped, unless it was closed: readers must not wait for a writer that is gone.
    pub(super) fn guard(&self) -> Guard<'_> {
        Guard(self)
    }

    /// A reader cannot go on, so there is no sense in writing more.
    pub(super) fn refuse(&self, why: impl Into<String>) {
        self.lock().refused.get_or_insert(why.into());
    }

    /// Why a reader cannot go on, if so.
    pub(super) fn refused(&self) -> Option<String> {
        self.lock().refused.clone()
    }

    /// Waits until the file is final from `at` to the next multiple of `step`, or to its end.
    pub(super) fn next(&self, at: u64, step: u64) -> Next {
        let want = (at / step).saturating_add(1).saturating_mul(step);
        let mut state = self.lock();
        loop {
            let end = state.end;
            if end.is_some_and(|end| at >= end) {
                return Next::End;
            }
            let to = end.map_or(want, |end| want.min(end));
            if to <= state.filled {
                let first = state.runs.partition_point(|(end, _)| *end <= at);
                let mut within = state.runs.iter().skip(first);
                let data = within.next().is_some_and(|(end, data)| *data || *end < to);
                return Next::Filled { to, data };
            }
            // Only now: what is filled is worth hashing, a resumed copy builds on it.
            if state.abandoned {
                return Next::Abandoned;
            }
            state = self.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_gets_whole_steps_and_the_rest_at_the_end() {
        let frontier = Frontier::default();
        frontier.publish([(10, true), (30, false), (35, false)]);
        assert_eq!(frontier.next(0, 10), Next::Filled { to: 10, data: true });
        assert_eq!(frontier.next(10, 10), Next::Filled { to: 20, data: false });
        assert_eq!(frontier.next(5, 20), Next::Filled { to: 20, data: true });
        frontier.close();
        assert_eq!(frontier.next(30, 10), Next::Filled { to: 35, data: false });
        assert_eq!(frontier.next(35, 10), Next::End);
    }

    #[test]
    fn a_waiting_reader_is_woken_by_the_writer_and_by_the_end_of_all() {
        let frontier = Frontier::default();
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| (frontier.next(0, 8), frontier.next(8, 8)));
            frontier.publish([(8, true)]);
            frontier.abandon();
            assert!(matches!(reader.join().unwrap().1, Next::Abandoned));
        });
    }
}
