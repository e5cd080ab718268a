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
    mut given_up: oneshot::Receiver<String>,
) {
    let mut can_give_up = true;
    loop {
        tokio::select! {
            biased;
            why = &mut given_up, if can_give_up => match why {
                Ok(why) => {
                    let _ = to.send(Err(BackendError::new(Kind::Unsupported, "go on", "the capture", why))).await;
                    return;
                }
                Err(_) => can_give_up = false,
            },
            // A writer that is gone wants no more, even while the source is silent.
            () = to.closed() => return,
            piece = source.recv() => match piece {
                Some(piece) => if to.send(piece).await.is_err() { return },
                None => return,
            },
        }
    }
}

impl Drained {
    /// Waits for the last piece. A stop is seen by the writer, which then closes the stream.
    pub(super) async fn wait(mut self, stop: &Stop) {
        tokio::select! {
            _ = self.done.wait_for(|done| *done) => {}
            () = stop.wait() => {}
        }
    }
}

/// Waits until all that hold the guest are drained. A capture that would hold it longer than `limit` is given up.
pub(super) async fn holders(holders: impl Iterator<Item = &mut Drained>, limit: Option<Duration>, stop: &Stop) {
    let deadline = limit.map(|limit| tokio::time::Instant::now() + limit);
    for drained in holders.filter(|drained| drained.holds_guest) {
        let too_long = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = drained.done.wait_for(|done| *done) => {}
            () = stop.wait() => {}
            () = too_long => {
                if let Some(give_up) = drained.give_up.take() {
                    let _ = give_up.send("the guest was let go, since it stood still for as long as --max-pause allows".to_owned());
                }
            }
        }
    }
}
