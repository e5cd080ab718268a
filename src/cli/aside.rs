//! Output on a thread of its own: what was found is written down while the search goes on.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use anyhow::{Result, anyhow};

use crate::report::{Cell, Rows};

/// Parts that may wait to be written.
const WAITING: usize = 2;

/// Takes parts of the output, in their order.
pub(super) trait Sink<T> {
    /// Writes one.
    fn take(&mut self, part: T) -> Result<()>;
    /// None follows.
    fn end(self) -> Result<()>;
}

impl Sink<Vec<Vec<Cell>>> for Box<dyn Rows> {
    fn take(&mut self, rows: Vec<Vec<Cell>>) -> Result<()> {
        Ok(self.rows(rows)?)
    }

    fn end(mut self) -> Result<()> {
        Ok(self.as_mut().end()?)
    }
}

/// A sink on a thread of its own. Dropped before its end, it writes what it was given, and no end.
pub(super) struct Aside<T> {
    /// `None` says that none follows.
    to: Option<SyncSender<Option<T>>>,
    writer: Option<JoinHandle<Result<()>>>,
}

impl<T: Send + 'static> Aside<T> {
    /// The sink is made where it is used: a lock of stdout stays on its thread.
    pub(super) fn new<S: Sink<T>>(make: impl FnOnce() -> S + Send + 'static) -> Self {
        let (to, from) = sync_channel(WAITING);
        let writer = thread::spawn(move || write(make(), &from));
        Self { to: Some(to), writer: Some(writer) }
    }

    /// Has a part written. What went wrong with an earlier one is told here.
    pub(super) fn give(&mut self, part: T) -> Result<()> {
        match self.to.as_ref().map(|to| to.send(Some(part))) {
            Some(Ok(())) => Ok(()),
            _ => self.join().and_then(|()| Err(anyhow!("the output has ended already"))),
        }
    }

    /// Waits until all is written.
    pub(super) fn end(mut self) -> Result<()> {
        // Whether it was heard tells the thread's own result.
        self.to.as_ref().map(|to| to.send(None));
        self.join()
    }
}

impl<T> Aside<T> {
    fn join(&mut self) -> Result<()> {
        self.to = None;
        let done = self.writer.take().map(JoinHandle::join);
        done.unwrap_or(Ok(Ok(()))).unwrap_or_else(|_| Err(anyhow!("the thread that writes the output broke")))
    }
}

impl<T> Drop for Aside<T> {
    fn drop(&mut self) {
        // Somebody else has an error to tell already.
        let _ = self.join();
    }
}

fn write<T, S: Sink<T>>(mut sink: S, from: &Receiver<Option<T>>) -> Result<()> {
    while let Ok(part) = from.recv() {
        match part {
            Some(part) => sink.take(part)?,
            None => return sink.end(),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u32>>>);

    impl Sink<u32> for Paper {
        fn take(&mut self, part: u32) -> Result<()> {
            if part == 13 {
                return Err(anyhow!("the paper is full"));
            }
            self.0.lock().unwrap().push(part);
            Ok(())
        }

        fn end(self) -> Result<()> {
            self.0.lock().unwrap().push(u32::MAX);
            Ok(())
        }
    }

    fn written(parts: impl IntoIterator<Item = u32>, end: bool) -> (Result<()>, Vec<u32>) {
        let paper = Paper::default();
        let sink = paper.clone();
        let mut aside = Aside::new(move || sink);
        let given = parts.into_iter().try_for_each(|part| aside.give(part));
        let done = if end {
            given.and_then(|()| aside.end())
        } else {
            drop(aside);
            given
        };
        let all = paper.0.lock().unwrap().clone();
        (done, all)
    }

    #[test]
    fn all_is_written_in_order_and_ended() {
        let (done, all) = written(0..10, true);
        assert!(done.is_ok() && all == (0..10).chain([u32::MAX]).collect::<Vec<_>>(), "{done:?} {all:?}");
    }

    #[test]
    fn without_an_end_it_writes_what_it_has() {
        let (done, all) = written(0..10, false);
        assert!(done.is_ok() && all == (0..10).collect::<Vec<_>>(), "{done:?} {all:?}");
    }

    #[test]
    fn an_error_is_told_to_whoever_gives_on_or_ends() {
        for parts in [vec![1, 13], (1..100).collect()] {
            let (done, all) = written(parts, true);
            assert!(done.unwrap_err().to_string().contains("full") && !all.contains(&u32::MAX), "{all:?}");
        }
    }
}
