//! What a killed run may have left, and what becomes of it. The journal is read as hostile: only what impound makes is touched.

use serde::{Deserialize, Serialize};

use super::api::{Api, Refused, clip, text};
use super::chosen::is_bucket;
use super::{Place, bucket, build, image, is_number, name_of, snapshot};
use crate::{BackendError, Undo};

/// Most disks of a machine.
const DISKS_MAX: usize = 256;

/// An act, as the journal keeps it. `of` are the numbers of disks, or of a snapshot that was there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "undo", rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum GcpUndo {
    /// Snapshots and exported files of this run. They are evidence: recovery finds and lists them, and deletes nothing.
    Kept {
        /// The run.
        run: String,
        /// Where the files are.
        bucket: String,
        /// Of what.
        of: Vec<String>,
    },
    /// Images that the run made of its snapshots, and exports that are on their way.
    Temporary {
        /// The run.
        run: String,
        /// Of what.
        of: Vec<String>,
    },
}

impl GcpUndo {
    pub(super) fn for_journal(&self) -> Undo {
        let say = match self {
            Self::Kept { run, .. } => format!("look for the snapshots and exported files of run {run}, which are kept"),
            Self::Temporary { run, .. } => format!("end the exports of run {run} and remove its images"),
        };
        Undo { say, holds_guest: false, how: serde_json::to_value(self).unwrap_or_default() }
    }

    fn from_journal(undo: &Undo) -> Result<Self, BackendError> {
        let refuse = |why: String| BackendError::corrupt("undo", &undo.say, "the journal", "an act of impound's", why);
        let read: Self = serde_json::from_value(undo.how.clone()).map_err(|error| refuse(error.to_string()))?;
        let (run, of) = match &read {
            Self::Kept { run, of, .. } | Self::Temporary { run, of } => (run, of),
        };
        let plain = run.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        let bucket = match &read {
            Self::Kept { bucket, .. } => is_bucket(bucket),
            Self::Temporary { .. } => true,
        };
        let good = bucket
            && (1..=12).contains(&run.len())
            && plain
            && of.len() <= DISKS_MAX
            && of.iter().all(|id| is_number(id));
        if good { Ok(read) } else { Err(refuse(format!("{read:?}"))) }
    }
}

/// Undoes all, last first. Answers what was done, a line each.
pub(super) async fn all(api: &Api, place: &Place, undo: &[Undo]) -> Result<Vec<String>, BackendError> {
    let mut did = Vec::new();
    for undo in undo.iter().rev() {
        match GcpUndo::from_journal(undo)? {
            GcpUndo::Kept { run, bucket, of } => {
                let found = kept(api, place, &run, &bucket, &of).await?;
                if found.is_empty() {
                    did.push(format!("found neither snapshots nor exported files of run {run}"));
                }
                did.extend(found.iter().map(|kept| format!("kept {kept}")));
            }
            GcpUndo::Temporary { run, of } => did.extend(remove(api, place, &run, &of).await?),
        }
    }
    Ok(did)
}

/// What stays of a run, each with the command that takes it away, for the one who decides.
pub(super) async fn kept(
    api: &Api,
    place: &Place,
    run: &str,
    bucket: &str,
    of: &[String],
) -> Result<Vec<String>, Refused> {
    let mut lines = Vec::new();
    for id in of {
        let name = name_of(run, id);
        let found = snapshot::find(api, place, &name).await?;
        lines.extend(found.map(|snapshot| snapshot.left(place)));
        lines.extend(bucket::left(api, bucket, &name).await?);
    }
    Ok(lines)
}

/// Ends what is on its way, and removes the images of a run.
pub(super) async fn remove(api: &Api, place: &Place, run: &str, of: &[String]) -> Result<Vec<String>, Refused> {
    let mut did = Vec::new();
    for id in of {
        let name = name_of(run, id);
        for build in build::under_way(api, place, &name).await? {
            build::cancel(api, place, &build).await?;
            did.push(format!(
                "ended the export {} ({}); what its temporary machine may have left: gcloud compute instances list --project {} --filter labels.gce-image-export-build-id={}",
                build.id, clip(text(&build.about, "/status"), 40), place.project, build.id
            ));
        }
        if image::remove(api, place, &name, run).await? {
            did.push(format!("removed the image {name}"));
        }
    }
    Ok(did)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_journal_brings_back_what_it_was_given_and_nothing_else() {
        let of = vec!["4711".to_owned()];
        for undo in [
            GcpUndo::Kept { run: "a1b2".to_owned(), bucket: "evidence-1".to_owned(), of: of.clone() },
            GcpUndo::Temporary { run: "a1b2".to_owned(), of },
        ] {
            assert_eq!(GcpUndo::from_journal(&undo.for_journal()).unwrap(), undo);
        }
        for how in [
            json!(null),
            json!({ "undo": "temporary", "run": "*", "of": [] }),
            json!({ "undo": "temporary", "run": "a1", "of": ["../images/1"] }),
            json!({ "undo": "temporary", "run": "a1", "of": vec!["1"; 257] }),
            json!({ "undo": "kept", "run": "a1", "bucket": "../x", "of": ["1"] }),
            json!({ "undo": "kept", "run": "a1", "of": ["1"] }),
            json!({ "undo": "delete", "run": "a1", "of": ["1"] }),
        ] {
            let forged = Undo { say: "x".to_owned(), holds_guest: false, how: how.clone() };
            assert!(GcpUndo::from_journal(&forged).is_err(), "{how}");
        }
    }
}
