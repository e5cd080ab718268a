//! Knowing when a source has given its last piece, which is long before the last byte is hashed: the guest goes on, and
//! the hypervisor is tidied up, at that moment.

use std::time::Duration;

use impound_backends::{BackendError, Capture, Kind, Piece};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::Stop;
use crate::case::CaseError;
use crate::case::ingest::Ingested;

/// Pieces between the watcher and the writer. The source has a channel of its own in front.
const CHANNEL: usize = 8;

/// The writer at work.
pub(super) type Ingesting = JoinHandle<Result<Ingested, CaseError>>;

/// The watcher of one stream.
pub(super) struct Drained {
    holds_guest: bool,
    done: watch::Receiver<bool>,
    give_up: Option<oneshot::Sender<String>>,
}

/// Puts a watcher between a capture's source and its writer.
pub(super) fn watch(capture: &mut Capture) -> Drained {
    let (to, from_here) = mpsc::channel(CHANNEL);
    let source = std::mem::replace(&mut capture.pieces, from_here);
    let (finished, done) = watch::channel(false);
    let (give_up, given_up) = oneshot::channel();
    tokio::spawn(async move {
        forward(source, to, given_up).await;
        finished.send_replace(true);
    });
    Drained { holds_guest: capture.holds_guest, done, give_up: Some(give_up) }
}

type Pieces = mpsc::Receiver<Result<Piece, BackendError>>;

async fn forward(
    mut source: Pieces,
    to: mpsc::Sender<Result<Piece, BackendError>>,
    given_up: oneshot::Receiver<String>,
) {
    let given_up = async {
        match given_up.await {
            Ok(why) => why,
            // Nobody can give it up any more.
            Err(_) => std::future::pending().await,
        }
    };
    let why = tokio::select! {
        biased;
        why = given_up => Some(why),
        () = pass_on(&mut source, &to) => None,
    };
    // The source ends now, however long the writer takes: it may be what holds the guest.
    drop(source);
    if let Some(why) = why {
        let _ = to.send(Err(BackendError::new(Kind::Unsupported, "go on", "the capture", why))).await;
    }
}

async fn pass_on(source: &mut Pieces, to: &mpsc::Sender<Result<Piece, BackendError>>) {
    loop {
        let piece = tokio::select! {
            biased;
            // A writer that is gone wants no more, even while the source is silent.
            () = to.closed() => return,
            piece = source.recv() => piece,
        };
        let Some(piece) = piece else { return };
        if to.send(piece).await.is_err() {
            return;
        }
    }
}

impl Drained {
    /// Ends the stream, as failed and for this reason. One that has ended already stays as it is.
    pub(super) fn give_up(&mut self, why: &str) {
        if let Some(give_up) = self.give_up.take() {
            // Nobody listens once the stream has ended.
            let _ = give_up.send(why.to_owned());
        }
    }

    /// Waits for the last piece. A stop is seen by the writer, which then closes the stream.
    pub(super) async fn wait(mut self, stop: &Stop) {
        tokio::select! {
            _ = self.done.wait_for(|done| *done) => {}
            () = stop.wait() => {}
        }
    }
}

/// Waits until all that hold the guest are drained. A capture that would hold it longer than `limit`, or still holds it when
/// the run is to stop, is given up.
pub(super) async fn holders(holders: impl Iterator<Item = &mut Drained>, limit: Option<Duration>, stop: &Stop) {
    let deadline = limit.map(|limit| tokio::time::Instant::now() + limit);
    for drained in holders.filter(|drained| drained.holds_guest) {
        let too_long = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let why = tokio::select! {
            _ = drained.done.wait_for(|done| *done) => continue,
            () = stop.wait() => "the run was told to stop",
            () = too_long => "the guest was let go, since it stood still for as long as --max-pause allows",
        };
        drained.give_up(why);
    }
}
