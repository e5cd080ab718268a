//! A run's hold on one QEMU: the monitor, shared by all that capture, and the list of what has to be taken back.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};

use super::dial::{Dial, Dialled};
use super::machine::Machine;
use super::quiesce::Channel;
use super::undo::QemuUndo;
use crate::wire::qmp::{Event, Qmp};
use crate::{ActId, BackendError, Journal, Kind, Pause, WireLog};

/// How long a network may take to heal, and a monitor to be let go by a connection that broke.
const HEALS: Duration = Duration::from_secs(60);

/// The monitor as tasks share it.
pub(super) type Monitor = Arc<Mutex<Qmp>>;

/// A descriptor that QEMU was given.
pub(super) struct Added {
    /// The set it is in.
    pub(super) set: u64,
    /// Its number inside QEMU.
    pub(super) number: u64,
}

/// See the module.
pub(super) struct Session {
    pub(super) monitor: Monitor,
    /// Where QEMU runs, if no descriptor can be passed to it.
    pub(super) machine: Option<Machine>,
    /// The way to the guest's agent.
    pub(super) channel: Channel,
    dial: Dial,
    wire: Arc<dyn WireLog>,
    acts: Vec<(ActId, QemuUndo)>,
    events: Vec<Event>,
    /// What was written on another machine, in words.
    written: Vec<String>,
}

impl Session {
    pub(super) fn new(dialled: Dialled, dial: Dial, wire: Arc<dyn WireLog>) -> Self {
        let Dialled { qmp, machine } = dialled;
        Self {
            monitor: Arc::new(Mutex::new(qmp)),
            machine,
            channel: Channel::new(dial.clone(), Arc::clone(&wire)),
            dial,
            wire,
            acts: Vec::new(),
            events: Vec::new(),
            written: Vec::new(),
        }
    }

    /// The way to the monitor.
    #[cfg(feature = "ssh")]
    pub(super) fn dial(&self) -> &Dial {
        &self.dial
    }

    pub(super) async fn qmp(&self) -> MutexGuard<'_, Qmp> {
        self.monitor.lock().await
    }

    /// Takes a stop or a resumption into account that a monitor without events does not tell. By this machine's clock.
    pub(super) fn saw(&mut self, name: &str, at: Timestamp) {
        if self.dial.is_mute() {
            self.events.push(Event { name: name.to_owned(), at, data: Value::Null });
        }
    }

    /// Keeps in mind, for the manifest, what was written where nothing should be.
    pub(super) fn wrote(&mut self, what: String) {
        self.written.push(what);
    }

    /// What was written on another machine.
    pub(super) fn written(&self) -> &[String] {
        &self.written
    }

    /// Where exchanges are written down.
    pub(super) fn wire(&self) -> Arc<dyn WireLog> {
        Arc::clone(&self.wire)
    }

    /// Writes down that an act with this inverse comes next.
    pub(super) fn about_to(
        &mut self,
        journal: &mut dyn Journal,
        act: &str,
        undo: QemuUndo,
    ) -> Result<(), BackendError> {
        let id = journal
            .about_to(act, undo.for_journal())
            .map_err(|e| BackendError::io(format!("write down, before doing it: {act}"), "the case's journal", &e))?;
        self.acts.push((id, undo));
        Ok(())
    }

    /// Gives QEMU a descriptor, in a set of its own.
    pub(super) async fn add_fd(
        &mut self,
        act: &str,
        fd: BorrowedFd<'_>,
        journal: &mut dyn Journal,
    ) -> Result<Added, BackendError> {
        let sets = self.qmp().await.ask("query-fdsets", Value::Null).await?;
        let used = sets.as_array().into_iter().flatten().filter_map(|set| set.get("fdset-id")?.as_u64()).max();
        let set = used.map_or(1, |id| id.saturating_add(1));
        self.about_to(journal, act, QemuUndo::FdSet { id: set })?;
        let arguments = json!({ "fdset-id": set, "opaque": "impound" });
        let answer = self.qmp().await.ask_with_fd("add-fd", arguments, fd).await?;
        let number = answer.get("fd").and_then(Value::as_u64);
        let number = number
            .ok_or_else(|| BackendError::corrupt("add-fd", "QEMU", "the answer", "a descriptor's number", "none"))?;
        Ok(Added { set, number })
    }

    /// Takes one act back now, the last that fits.
    pub(super) async fn undo(
        &mut self,
        journal: &mut dyn Journal,
        fits: impl Fn(&QemuUndo) -> bool,
    ) -> Result<(), BackendError> {
        let Some(at) = self.acts.iter().rposition(|(_, undo)| fits(undo)) else { return Ok(()) };
        let Some((id, undo)) = self.acts.get(at).cloned() else { return Ok(()) };
        self.take_back(&undo).await?;
        self.acts.remove(at);
        journal.done(id).map_err(|e| {
            BackendError::io(format!("write down that this is done: {}", undo.say()), "the case's journal", &e)
        })
    }

    /// Takes an act back that may be another run's.
    pub(super) async fn take_back(&mut self, undo: &QemuUndo) -> Result<(), BackendError> {
        let mut qmp = self.monitor.lock().await;
        undo.apply(&mut qmp, self.machine.as_ref(), &mut self.channel).await
    }

    /// Is there an agent that can freeze the guest's file systems? Changes nothing.
    pub(super) async fn probe_agent(&mut self) -> Result<(), BackendError> {
        let mut qmp = self.monitor.lock().await;
        self.channel.probe(&mut qmp, self.machine.as_ref()).await
    }

    /// Lets the guest's file systems go, if they were frozen.
    pub(super) async fn thaw_file_systems(&mut self, journal: &mut dyn Journal) -> Result<(), BackendError> {
        let frozen = |undo: &QemuUndo| *undo == QemuUndo::FileSystems;
        // Without the monitor, which others may have just now.
        if self.acts.iter().any(|(_, undo)| frozen(undo)) && self.channel.thaw_at_once().await {
            self.forget(journal, frozen);
        }
        self.undo(journal, frozen).await
    }

    /// Forgets an act that turned out not to have happened.
    pub(super) fn forget(&mut self, journal: &mut dyn Journal, fits: impl Fn(&QemuUndo) -> bool) {
        if let Some(at) = self.acts.iter().rposition(|(_, undo)| fits(undo)) {
            let (id, _) = self.acts.remove(at);
            // If this is not written down, recovery asks for something that is already gone, which is fine.
            let _ = journal.done(id);
        }
    }

    /// Takes everything back, last first. Answers what could not be, and whether what holds the guest is among it.
    pub(super) async fn undo_all(&mut self, journal: &mut dyn Journal) -> (Vec<String>, bool) {
        let (mut problems, mut unsure) = (Vec::new(), false);
        if self.acts.is_empty() {
            return (problems, unsure);
        }
        let mut reached = self.revive(&mut problems).await;
        while let Some((id, undo)) = self.acts.pop() {
            let mut outcome = self.apply(&undo, reached).await;
            if reached && outcome.as_ref().is_err_and(|error| error.kind == Kind::Io) {
                // The monitor may break at any command, and each inverse may be applied twice.
                reached = self.revive(&mut problems).await;
                outcome = self.apply(&undo, reached).await;
            }
            if let Err(error) = outcome {
                unsure |= undo.holds_guest();
                problems.push(format!("could not {}: {}", undo.say(), error.why));
            } else if let Err(error) = journal.done(id) {
                problems.push(format!("could not write down that this is done: {}: {error}", undo.say()));
            }
        }
        (problems, unsure)
    }

    async fn apply(&mut self, undo: &QemuUndo, reached: bool) -> Result<(), BackendError> {
        if !reached {
            let on = self.qmp().await.name().to_owned();
            return Err(BackendError::new(Kind::Io, undo.say(), on, "the monitor cannot be reached"));
        }
        self.take_back(undo).await
    }

    /// Connects anew if the monitor broke, so that a lost socket does not leave the guest as it is. Tells whether there is a
    /// connection.
    async fn revive(&mut self, problems: &mut Vec<String>) -> bool {
        {
            let mut qmp = self.qmp().await;
            match qmp.ask("query-status", Value::Null).await {
                // QEMU may not have noticed that this connection is broken.
                Err(error) if error.kind == Kind::Io => qmp.hang_up(),
                _ => return true,
            }
        }
        let deadline = tokio::time::Instant::now() + if self.dial.is_far() { HEALS } else { Duration::ZERO };
        loop {
            match self.dial.dial().await {
                Ok(Dialled { qmp: fresh, machine }) => {
                    let mut qmp = self.monitor.lock().await;
                    let events = qmp.take_events();
                    *qmp = fresh;
                    drop(qmp);
                    self.events.extend(events);
                    self.machine = machine;
                    problems.push("the monitor broke and was connected again".to_owned());
                    return true;
                }
                Err(error) if tokio::time::Instant::now() >= deadline => {
                    problems.push(format!("the monitor broke and cannot be connected again: {error}"));
                    return false;
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
            }
        }
    }

    /// The stops of the guest seen so far.
    pub(super) async fn pauses(&mut self) -> Vec<Pause> {
        let fresh = self.qmp().await.take_events();
        self.events.extend(fresh);
        pauses(&self.events)
    }
}

fn pauses(events: &[Event]) -> Vec<Pause> {
    let mut pauses: Vec<Pause> = Vec::new();
    let mut stopped: Option<Timestamp> = None;
    for event in events {
        match event.name.as_str() {
            "STOP" => stopped = stopped.or(Some(event.at)),
            "RESUME" => {
                if let Some(stopped) = stopped.take() {
                    pauses.push(Pause { stopped, resumed: Some(event.at) });
                }
            }
            _ => {}
        }
    }
    pauses.extend(stopped.map(|stopped| Pause { stopped, resumed: None }));
    pauses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stops_and_resumes_pair_up() {
        let event = |name: &str, second| Event {
            name: name.to_owned(),
            at: Timestamp::from_second(second).unwrap(),
            data: Value::Null,
        };
        let seen = [event("STOP", 1), event("STOP", 2), event("RESUME", 3), event("RESUME", 4), event("STOP", 5)];
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(
            pauses(&seen),
            [Pause { stopped: at(1), resumed: Some(at(3)) }, Pause { stopped: at(5), resumed: None }]
        );
    }
}
