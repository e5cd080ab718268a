//! What a killed run may have left, and what becomes of it. The journal is read as hostile: only what impound makes is touched.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::api::{Api, Refused};
use super::cinder::Volume;
use super::glance::Wait;
use super::{is_id, name_of, snapshot_name};
use crate::{BackendError, Undo};

/// The longest that a temporary volume is waited for: one that is being read cannot be removed.
const PATIENCE: Duration = Duration::from_secs(600);
/// Most disks of a server.
const DISKS_MAX: usize = 256;

/// An act, as the journal keeps it. `of` are the ids of volumes, or of the server itself for its own disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "undo", rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum OpenstackUndo {
    /// Snapshots and images of this run. They are evidence: recovery finds and lists them, and deletes nothing.
    Kept {
        /// The run.
        run: String,
        /// Of what.
        of: Vec<String>,
    },
    /// Volumes that the run made of its snapshots, to be read.
    Temporary {
        /// The run.
        run: String,
        /// Of what.
        of: Vec<String>,
    },
}

impl OpenstackUndo {
    pub(super) fn for_journal(&self) -> Undo {
        let say = match self {
            Self::Kept { run, .. } => format!("look for the snapshots and images of run {run}, which are kept"),
            Self::Temporary { run, .. } => format!("remove the temporary volumes of run {run}"),
        };
        Undo { say, holds_guest: false, how: serde_json::to_value(self).unwrap_or_default() }
    }

    fn from_journal(undo: &Undo) -> Result<Self, BackendError> {
        let refuse = |why: String| BackendError::corrupt("undo", &undo.say, "the journal", "an act of impound's", why);
        let read: Self = serde_json::from_value(undo.how.clone()).map_err(|error| refuse(error.to_string()))?;
        let (Self::Kept { run, of } | Self::Temporary { run, of }) = &read;
        let plain = run.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        let good = (1..=12).contains(&run.len()) && plain && of.len() <= DISKS_MAX && of.iter().all(|id| is_id(id));
        if good { Ok(read) } else { Err(refuse(format!("{read:?}"))) }
    }
}

/// Undoes all, last first. Answers what was done, a line each.
pub(super) async fn all(api: &Api, undo: &[Undo]) -> Result<Vec<String>, BackendError> {
    let mut did = Vec::new();
    for undo in undo.iter().rev() {
        match OpenstackUndo::from_journal(undo)? {
            OpenstackUndo::Kept { run, of } => {
                let found = kept(api, &run, &of).await?;
                if found.is_empty() {
                    did.push(format!("found neither snapshots nor images of run {run}"));
                }
                did.extend(found.iter().map(|kept| format!("kept {kept}")));
            }
            OpenstackUndo::Temporary { run, of } => did.extend(remove(api, &run, &of).await?),
        }
    }
    Ok(did)
}

/// What stays of a run, each with the command that takes it away, for the one who decides.
pub(super) async fn kept(api: &Api, run: &str, of: &[String]) -> Result<Vec<String>, Refused> {
    let mut lines = Vec::new();
    for id in of {
        for snapshot in api.snapshots_named(id, &snapshot_name(run)).await? {
            let delete = api.command(&format!("volume snapshot delete {}", snapshot.id));
            lines.push(format!("snapshot {} of volume {id}; to delete it: {delete}", snapshot.id));
        }
        for image in api.images_named(&name_of(run, id)).await? {
            let delete = api.command(&format!("image delete {}", image.id));
            lines.push(format!("image {} of {id}; to delete it: {delete}", image.id));
        }
    }
    Ok(lines)
}

/// Removes the temporary volumes of a run.
pub(super) async fn remove(api: &Api, run: &str, of: &[String]) -> Result<Vec<String>, Refused> {
    let mut did = Vec::new();
    for id in of {
        for volume in api.volumes_named(&name_of(run, id), run).await? {
            gone(api, &volume).await?;
            did.push(format!("removed the temporary volume {}", volume.id));
        }
    }
    Ok(did)
}

/// Removes a volume and waits until it is gone.
pub(super) async fn gone(api: &Api, volume: &Volume) -> Result<(), Refused> {
    let mut wait = Wait::within("remove the temporary volume", &volume.id, PATIENCE);
    let mut asked = false;
    loop {
        let now = api.volume(&volume.id).await?;
        match now.as_ref().map(|volume| volume.status.as_str()) {
            None => return Ok(()),
            Some("available" | "error") if !asked => {
                api.delete_volume(&volume.id).await?;
                asked = true;
            }
            Some("error_deleting" | "in-use" | "attaching") => {
                let why = format!("it is {}", now.map(|volume| volume.status).unwrap_or_default());
                return Err(BackendError::unsupported("remove the temporary volume", &volume.id, why).into());
            }
            Some(_) => wait.again().await?,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_journal_brings_back_what_it_was_given_and_nothing_else() {
        let of = vec!["0b7f9fb2-0000-4000-8000-000000000001".to_owned()];
        for undo in [
            OpenstackUndo::Kept { run: "a1b2".to_owned(), of: of.clone() },
            OpenstackUndo::Temporary { run: "a1b2".to_owned(), of },
        ] {
            assert_eq!(OpenstackUndo::from_journal(&undo.for_journal()).unwrap(), undo);
        }
        for how in [
            json!({ "undo": "temporary", "run": "*", "of": [] }),
            json!({ "undo": "temporary", "run": "a1", "of": ["../servers/1"] }),
            json!({ "undo": "temporary", "run": "a1", "of": vec!["1"; 257] }),
            json!({ "undo": "delete", "run": "a1", "of": ["1"] }),
        ] {
            let forged = Undo { say: "x".to_owned(), holds_guest: false, how: how.clone() };
            assert!(OpenstackUndo::from_journal(&forged).is_err(), "{how}");
        }
    }
}
