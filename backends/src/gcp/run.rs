//! What captures of machines and of single snapshots have in common: what the journal is told, the streams, and how it ends.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::Place;
use super::api::{Api, text};
use super::chosen::Chosen;
use super::credentials::Caller;
use super::fetch::{Copy, UNDER_WAY};
use super::take::{self, Exported, Failed, Wanted};
use super::undo::{self, GcpUndo};
use super::{bucket, last};
use crate::cloud;
use crate::{ActId, BackendError, Capture, Finished, HostFile, How, Item, Journal, Method, Witness};

/// The only way to take a disk.
pub(super) const METHOD: &str = "snapshot";

/// See the module.
pub(super) struct Run {
    pub(super) api: Arc<Api>,
    pub(super) caller: Caller,
    pub(super) place: Place,
    /// What the journal says was begun; ended by `finish`.
    begun: Vec<(ActId, GcpUndo)>,
    /// Name of the item, of all that was made for it, and the file.
    copies: Vec<(String, String, Arc<Copy>)>,
    room: Arc<Semaphore>,
    /// Files that came whole are to be taken away.
    remove: bool,
}

impl Run {
    pub(super) fn new(api: Arc<Api>, caller: Caller, place: Place) -> Self {
        let room = Arc::new(Semaphore::new(UNDER_WAY));
        Self { api, caller, place, begun: Vec::new(), copies: Vec::new(), room, remove: false }
    }

    /// Makes files of all that is wanted. An error if of nothing there is even a snapshot.
    pub(super) async fn begin(
        &mut self,
        wanted: &[Wanted],
        how: &How,
        journal: &mut dyn Journal,
    ) -> Result<BTreeMap<String, Result<Exported, Failed>>, BackendError> {
        if wanted.is_empty() {
            return Ok(BTreeMap::new());
        }
        let chosen = Chosen::of(how)?;
        self.remove = chosen.remove;
        let mut runs = BTreeMap::<&str, Vec<String>>::new();
        for one in wanted {
            runs.entry(&one.run).or_default().push(one.id().to_owned());
        }
        for (run, of) in runs {
            let kept = GcpUndo::Kept { run: run.to_owned(), bucket: chosen.bucket.clone(), of: of.clone() };
            let temporary = GcpUndo::Temporary { run: run.to_owned(), of };
            for (act, undo) in [("take snapshots and export them", kept), ("make images of the snapshots", temporary)] {
                self.begun.push((cloud::note(journal, act, undo.for_journal())?, undo));
            }
        }
        let mut taken = take::all(&self.api, &self.place, &chosen, wanted, how).await;
        if taken.values().all(|taken| matches!(taken, Err(Failed { fixed: false, .. })))
            && let Some((_, Err(failed))) = taken.pop_first()
        {
            return Err(*failed.error);
        }
        Ok(taken)
    }

    /// One capture of a file in the bucket, or why there is none.
    pub(super) fn capture(&mut self, item: &Item, wanted: &Wanted, taken: Result<Exported, Failed>) -> Capture {
        let exported = match taken {
            Ok(exported) => exported,
            Err(failed) => return self.failed(item, *failed.error),
        };
        let name = wanted.name();
        let mut item = item.clone();
        item.len = Some(exported.object.size);
        item.file = Some(HostFile { path: exported.object.name.clone(), wrapping: "qcow2".to_owned(), of: None });
        let mut facts = provenance(&self.caller);
        let snapshot = &exported.snapshot;
        add(
            &mut facts,
            json!({
                "run": wanted.run,
                "instant": text(&snapshot.about, "/creationTimestamp"),
                "snapshot": snapshot.about,
                "disk_len": snapshot.len,
                "export": { "format": "qcow2", "object": exported.object.address(), "answer": exported.object.about, "build": exported.build },
                "started_at": wanted.from,
            }),
        );
        let len = exported.object.size;
        let copy = Copy::new(&self.api, exported.object, wanted.from);
        let pieces = copy.start(&self.room);
        self.copies.push((item.name.clone(), name, copy));
        cloud::disk(item, METHOD, len, facts, pieces)
    }

    /// A stream that says only why there is nothing. How long the file would have been, nobody knows.
    pub(super) fn failed(&self, item: &Item, error: BackendError) -> Capture {
        cloud::disk(item.clone(), METHOD, 0, provenance(&self.caller), cloud::nothing(error))
    }

    /// What is temporary is removed, what is evidence is listed.
    pub(super) async fn finish(&mut self, finished: &mut Finished, journal: &mut dyn Journal) {
        for (item, name, copy) in std::mem::take(&mut self.copies) {
            finished.witnesses.push(witness(&item, &copy));
            if copy.object.crc32c.is_none() {
                finished.problems.push(format!("{item}: Cloud Storage says no CRC32C of {}", copy.object.address()));
            }
            if self.remove {
                finished.problems.extend(self.taken_away(&name, &copy).await);
            }
        }
        for (act, undo) in std::mem::take(&mut self.begun).into_iter().rev() {
            let done = match &undo {
                GcpUndo::Kept { run, bucket, of } => undo::kept(&self.api, &self.place, run, bucket, of).await,
                GcpUndo::Temporary { run, of } => undo::remove(&self.api, &self.place, run, of).await,
            };
            let lines = match done {
                Ok(lines) => lines,
                Err(refused) => {
                    finished.problems.push(refused.error.to_string());
                    continue;
                }
            };
            match undo {
                GcpUndo::Kept { .. } => finished.left.extend(lines),
                // That an image was removed is as it should be, and stands in the log.
                GcpUndo::Temporary { .. } => {
                    finished.problems.extend(lines.into_iter().filter(|line| line.starts_with("ended")));
                }
            }
            finished.problems.extend(cloud::ended(journal, act).err().map(|error| error.to_string()));
        }
    }

    /// Takes a file out of the bucket, if all of it came. Answers why not.
    async fn taken_away(&self, name: &str, copy: &Copy) -> Option<String> {
        if !copy.is_proved() {
            let address = copy.object.address();
            return Some(format!(
                "{address} was not removed: not all of it came in this run with the CRC32C that Cloud Storage says"
            ));
        }
        let removed = bucket::remove(&self.api, &copy.object, name).await;
        removed.err().map(|refused| refused.error.to_string())
    }
}

/// What Cloud Storage says of the file's bytes, to be compared with ours.
fn witness(item: &str, copy: &Copy) -> Witness {
    let object = &copy.object;
    Witness {
        item: item.to_owned(),
        by: format!("Cloud Storage, of {} (generation {})", object.address(), object.generation),
        md5: object.md5.clone(),
        crc32c: object.crc32c.clone(),
        ..Witness::default()
    }
}

/// How every snapshot is.
pub(super) fn method(refused: Option<&str>) -> Method {
    let pause =
        "none: Compute Engine keeps the disk as it is at the instant; what the guest holds back in memory is not in it";
    Method { unusable: refused.map(ToOwned::to_owned), ..cloud::snapshot(METHOD, pause) }
}

/// What every exhibit says of where it came from.
pub(super) fn provenance(caller: &Caller) -> Value {
    json!({ "provider": "Google Cloud", "caller": caller })
}

/// The kind of a machine or the like, by the end of its address.
pub(super) fn kind(about: &Value, path: &str) -> String {
    last(text(about, path)).to_owned()
}

fn add(facts: &mut Value, more: Value) {
    if let (Some(facts), Value::Object(more)) = (facts.as_object_mut(), more) {
        facts.extend(more);
    }
}
