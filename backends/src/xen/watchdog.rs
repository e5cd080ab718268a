//! The process on dom0 that lets the guest go when nobody is left to do it: `scripts::WATCH`, fed with signs of life.
//!
//! It is started before the guest is stopped. The guardian on our side does the same when this program is killed; this one
//! is there when the network or our whole machine is gone.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::reach::{Reach, Running};
use super::scripts::WATCH;
use super::survey::{Subject, Tool};
use crate::wire::ssh::Command;
use crate::{BackendError, Kind};

/// Between two signs of life.
const BEAT: Duration = Duration::from_secs(5);
/// Seconds without one after which it acts.
const LIMIT: &str = "60";

/// A watchdog at work.
pub(super) struct Watchdog {
    orders: Option<oneshot::Sender<()>>,
    /// What it was told when the guest ran again.
    thawed: Option<oneshot::Sender<()>>,
    beating: JoinHandle<()>,
}

impl Watchdog {
    /// Starts it and waits until it watches. `snapshots` are those that will be made, as `group/name`.
    pub(super) async fn start(
        reach: &Reach,
        tool: Tool,
        subject: &Subject,
        run: &str,
        holds: bool,
        snapshots: Vec<String>,
    ) -> Result<Self, BackendError> {
        let command = Command::script(WATCH)
            .args([tool.name(), &subject.id.to_string(), &subject.uuid, run, if holds { "1" } else { "0" }, LIMIT])
            .args(snapshots)
            .with_stdin();
        let mut running = reach.stream(&command).await?;
        let mut word = [0; 6];
        let got = running.fill(&mut word).await.unwrap_or(0);
        if got < word.len() || &word != b"ready\n" {
            let why = match running.end().await {
                Ok(ending) => ending.told(),
                Err(error) => error.why,
            };
            return Err(BackendError::new(Kind::Unsupported, "start a watchdog for the guest", reach.name(), why));
        }
        let (orders, dismissed) = oneshot::channel();
        let (thawed, thaw) = oneshot::channel();
        let beating = tokio::spawn(beat(running, dismissed, thaw));
        Ok(Self { orders: Some(orders), thawed: Some(thawed), beating })
    }

    /// The guest runs again: only the snapshots are left to it.
    pub(super) fn thawed(&mut self) {
        if let Some(thawed) = self.thawed.take() {
            let _ = thawed.send(());
        }
    }

    /// Sends it away: all is as it was found.
    pub(super) async fn dismiss(mut self) {
        if let Some(orders) = self.orders.take() {
            let _ = orders.send(());
        }
        let _ = self.beating.await;
    }
}

async fn beat(mut running: Running, mut dismissed: oneshot::Receiver<()>, thaw: oneshot::Receiver<()>) {
    let mut thaw = Some(thaw);
    loop {
        let thawed = async {
            match &mut thaw {
                Some(thaw) => thaw.await,
                None => std::future::pending().await,
            }
        };
        let word = tokio::select! {
            biased;
            told = &mut dismissed => match told {
                Ok(()) => {
                    // If it is gone already there is nobody to send away.
                    let _ = running.write(b"d").await;
                    let _ = running.end().await;
                    return;
                }
                // Dropped without a word: the run ended badly, and the watchdog has to act.
                Err(_) => return,
            },
            told = thawed => {
                thaw = None;
                if told.is_ok() { b"t" } else { b"b" }
            }
            () = tokio::time::sleep(BEAT) => b"b",
        };
        if running.write(word).await.is_err() {
            return;
        }
    }
}
