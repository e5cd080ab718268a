//! The captures of a run, from the moment they are there to their last piece.

use std::sync::Arc;
use std::time::Duration;

use impound_backends::Capture;

use super::drain::{self, Drained, Ingesting};
use super::{Opening, Request, Stop, record};
use crate::case::ingest::ingest;
use crate::progress::Progress;

/// An item whose pieces have all come, being hashed to the end.
pub(super) struct Captured {
    pub(super) about: record::Captured,
    pub(super) ingested: Ingesting,
}

/// See the module. Both lists are in the order of the items.
pub(super) struct Streams<'a> {
    request: &'a Request,
    progress: &'a Arc<dyn Progress>,
    stop: &'a Stop,
    waiting: Vec<Option<(Capture, &'a Opening)>>,
    running: Vec<Option<(Drained, Captured)>>,
}

impl<'a> Streams<'a> {
    pub(super) fn new(
        captures: Vec<Capture>,
        drafts: &'a [Opening],
        request: &'a Request,
        progress: &'a Arc<dyn Progress>,
        stop: &'a Stop,
    ) -> Self {
        let waiting: Vec<_> = captures.into_iter().zip(drafts).map(Some).collect();
        let running = waiting.iter().map(|_| None).collect();
        Self { request, progress, stop, waiting, running }
    }

    /// Starts to take the pieces of those that are wanted and wait.
    pub(super) fn start(&mut self, wanted: impl Fn(&Capture) -> bool) {
        for (waits, runs) in self.waiting.iter_mut().zip(&mut self.running) {
            if let Some((capture, opening)) = waits.take_if(|(capture, _)| wanted(capture)) {
                *runs = Some(start(capture, opening, self.request, self.progress, self.stop));
            }
        }
    }

    /// Waits until all that hold the guest are drained, or given up after `limit`.
    pub(super) async fn holders(&mut self, limit: Option<Duration>) {
        drain::holders(self.running.iter_mut().flatten().map(|(drained, _)| drained), limit, self.stop).await;
    }

    /// Ends all that still come.
    pub(super) fn give_up(&mut self, why: &str) {
        self.running.iter_mut().flatten().for_each(|(drained, _)| drained.give_up(why));
    }

    /// Waits for the last piece of all that were started.
    pub(super) async fn drained(self) -> Vec<Captured> {
        let mut captured = Vec::new();
        for (drained, item) in self.running.into_iter().flatten() {
            drained.wait(self.stop).await;
            captured.push(item);
        }
        captured
    }
}

fn start(
    mut capture: Capture,
    opening: &Opening,
    request: &Request,
    progress: &Arc<dyn Progress>,
    stop: &Stop,
) -> (Drained, Captured) {
    let about = record::Captured::of(&capture);
    let drained = drain::watch(&mut capture);
    let options = request.ingest_options(&capture, opening.resume.clone(), opening.form, opening.compared.clone());
    let (dir, progress, stop) = (opening.draft.dir().to_owned(), Arc::clone(progress), stop.flag());
    let ingested = tokio::task::spawn_blocking(move || {
        let task = progress.begin(&capture.item.name, Some(capture.len));
        ingest(capture, &dir, &options, task.as_ref(), &stop)
    });
    (drained, Captured { about, ingested })
}
