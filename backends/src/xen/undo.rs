//! Every change impound makes on a Xen host has its inverse here; the end of a run and the recovery of a killed one take the
//! same way.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::reach::Reach;
use super::scripts::{END_READERS, RELEASE, REMOVE, UNPAUSE};
use super::survey::{Subject, Tool};
use super::{config, volumes};
use crate::wire::ssh::Command;
use crate::{ActId, BackendError, Journal, Kind, Undo};

/// In front of every name that impound makes on dom0. Recovery touches nothing else.
pub(super) const PREFIX: &str = "impound-";
/// What a script says of a domain that is not the one it was meant for.
const ANOTHER: i32 = 9;

/// One thing to take back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "undo", rename_all = "kebab-case")]
pub(super) enum XenUndo {
    /// Give the domain free for other runs, if it is still this holder that has it.
    Release { uuid: String, holder: String },
    /// Let the domain run again.
    Unpause { domain: u32, uuid: String },
    /// End what reads for the run.
    Readers { run: String },
    /// Remove a snapshot.
    Snapshot { group: String, name: String },
}

/// The link that marks a domain as taken.
pub(super) fn claim(uuid: &str) -> String {
    format!("/run/{PREFIX}{uuid}")
}

impl XenUndo {
    fn for_journal(&self) -> Undo {
        Undo {
            say: self.say(),
            holds_guest: matches!(self, Self::Unpause { .. }),
            how: serde_json::to_value(self).unwrap_or(Value::Null),
        }
    }

    /// Reads what a journal kept. It may be forged: only what impound itself could have made is accepted.
    fn from_journal(undo: &Undo) -> Result<Self, BackendError> {
        let refuse =
            |why: String| BackendError::corrupt("read the journal", &undo.say, "an act", "one of impound's", why);
        let read: Self = serde_json::from_value(undo.how.clone()).map_err(|e| refuse(e.to_string()))?;
        let plain = |run: &str| {
            (1..=12).contains(&run.len()) && run.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
        };
        let fits = match &read {
            Self::Release { uuid, .. } | Self::Unpause { uuid, .. } => config::uuid(uuid).as_deref() == Some(uuid),
            Self::Readers { run } => plain(run),
            Self::Snapshot { group, name } => {
                volumes::is_name(group) && volumes::is_name(name) && name.starts_with(PREFIX)
            }
        };
        if fits { Ok(read) } else { Err(refuse(undo.how.to_string())) }
    }

    fn say(&self) -> String {
        match self {
            Self::Release { .. } => "give the domain free for other runs".to_owned(),
            Self::Unpause { domain, .. } => format!("let domain {domain} run again"),
            Self::Readers { run } => format!("end what reads for run {run}"),
            Self::Snapshot { group, name } => format!("remove the snapshot {group}/{name}"),
        }
    }

    fn command(&self, tool: Tool) -> Command {
        match self {
            Self::Release { uuid, holder } => Command::script(RELEASE).arg(claim(uuid)).arg(holder),
            Self::Unpause { domain, uuid } => {
                Command::script(UNPAUSE).arg(tool.name()).arg(domain.to_string()).arg(uuid)
            }
            Self::Readers { run } => Command::script(END_READERS).arg(run),
            Self::Snapshot { group, name } => Command::script(REMOVE).arg(group).arg(name),
        }
    }

    /// Takes it back. What is already gone is fine.
    pub(super) async fn apply(&self, reach: &Reach, tool: Tool) -> Result<(), BackendError> {
        let said = reach.run(&self.command(tool)).await?;
        let gone = matches!(self, Self::Unpause { .. }) && said.ending.status == Some(ANOTHER);
        if said.ending.good() || gone {
            return Ok(());
        }
        Err(BackendError::new(Kind::Unsupported, self.say(), reach.name(), said.ending.told()))
    }
}

/// What a run has done and not yet taken back.
#[derive(Default)]
pub(super) struct Acts(Vec<(ActId, XenUndo)>);

impl Acts {
    /// Writes down that an act with this inverse comes next.
    pub(super) fn about_to(&mut self, journal: &mut dyn Journal, act: &str, undo: XenUndo) -> Result<(), BackendError> {
        let id = journal
            .about_to(act, undo.for_journal())
            .map_err(|e| BackendError::io(format!("write down, before doing it: {act}"), "the case's journal", &e))?;
        self.0.push((id, undo));
        Ok(())
    }

    /// Takes one act back now, the last that fits.
    pub(super) async fn undo(
        &mut self,
        (reach, tool): (&Reach, Tool),
        journal: &mut dyn Journal,
        fits: impl Fn(&XenUndo) -> bool,
    ) -> Result<(), BackendError> {
        let Some(at) = self.0.iter().rposition(|(_, undo)| fits(undo)) else { return Ok(()) };
        let Some((id, undo)) = self.0.get(at).cloned() else { return Ok(()) };
        undo.apply(reach, tool).await?;
        self.0.remove(at);
        journal.done(id).map_err(|e| {
            BackendError::io(format!("write down that this is done: {}", undo.say()), "the case's journal", &e)
        })
    }

    /// Forgets an act that turned out not to have happened.
    pub(super) fn forget(&mut self, journal: &mut dyn Journal, fits: impl Fn(&XenUndo) -> bool) {
        if let Some(at) = self.0.iter().rposition(|(_, undo)| fits(undo)) {
            let (id, _) = self.0.remove(at);
            // If this is not written down, recovery asks for something that is already gone, which is fine.
            let _ = journal.done(id);
        }
    }

    /// Takes everything back, last first. Answers what could not be, and whether the domain may still stand still.
    pub(super) async fn undo_all(
        &mut self,
        (reach, tool): (&mut Reach, Tool),
        journal: &mut dyn Journal,
    ) -> (Vec<String>, bool) {
        let (mut problems, mut unsure) = (Vec::new(), false);
        while let Some((id, undo)) = self.0.pop() {
            let mut outcome = undo.apply(reach, tool).await;
            if outcome.as_ref().is_err_and(|error| error.kind == Kind::Io) {
                outcome = match reach.again().await {
                    Ok(()) => {
                        problems.push("the connection to dom0 broke and was made again".to_owned());
                        undo.apply(reach, tool).await
                    }
                    Err(error) => Err(error),
                };
            }
            if let Err(error) = outcome {
                unsure |= matches!(undo, XenUndo::Unpause { .. });
                problems.push(format!("could not {}: {}", undo.say(), error.why));
            } else if let Err(error) = journal.done(id) {
                problems.push(format!("could not write down that this is done: {}: {error}", undo.say()));
            }
        }
        (problems, unsure)
    }
}

/// Undoes what the journal of a killed run says was begun, last first. Answers a line each.
pub(super) async fn recover(reach: &Reach, tool: Tool, undo: &[Undo]) -> Result<Vec<String>, BackendError> {
    let read = undo.iter().map(XenUndo::from_journal).collect::<Result<Vec<_>, _>>()?;
    let mut did = Vec::new();
    for undo in read.iter().rev() {
        undo.apply(reach, tool).await?;
        did.push(undo.say());
    }
    Ok(did)
}

/// The inverse of stopping `subject`.
pub(super) fn unpause(subject: &Subject) -> XenUndo {
    XenUndo::Unpause { domain: subject.id, uuid: subject.uuid.clone() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const UUID: &str = "83952bff-b85f-4fad-a4f3-608d48c1b056";

    #[test]
    fn a_journal_brings_back_what_it_was_given() {
        for undo in [
            XenUndo::Release { uuid: UUID.into(), holder: "me; $(id)".into() },
            XenUndo::Unpause { domain: 3, uuid: UUID.into() },
            XenUndo::Readers { run: "abc123".into() },
            XenUndo::Snapshot { group: "vg0".into(), name: "impound-abc123-xvda".into() },
        ] {
            let kept = undo.for_journal();
            assert_eq!(XenUndo::from_journal(&kept).unwrap(), undo);
            assert_eq!(kept.holds_guest, matches!(undo, XenUndo::Unpause { .. }));
        }
    }

    #[test]
    fn a_forged_journal_cannot_touch_what_is_not_impounds() {
        for how in [
            json!({ "undo": "snapshot", "group": "vg0", "name": "web01-root" }),
            json!({ "undo": "snapshot", "group": "vg0/x", "name": "impound-x" }),
            json!({ "undo": "snapshot", "group": "vg0", "name": "impound-x/../web01-root" }),
            json!({ "undo": "snapshot", "group": "-f", "name": "impound-x" }),
            json!({ "undo": "readers", "run": ".*" }),
            json!({ "undo": "readers", "run": "" }),
            json!({ "undo": "release", "uuid": "../etc/passwd", "holder": "x" }),
            json!({ "undo": "unpause", "domain": 0, "uuid": "" }),
            json!({ "undo": "destroy" }),
            json!("destroy"),
        ] {
            let forged = Undo { say: "x".to_owned(), holds_guest: false, how: how.clone() };
            assert!(XenUndo::from_journal(&forged).is_err(), "{how}");
        }
    }
}
