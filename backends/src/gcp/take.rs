//! From what is wanted to files that are copied: snapshots at the same moment, and of each an image, an export, an object.
//!
//! What an earlier run made is found by its names, which hold that run's id and the number of the disk, and nothing is made twice. Once
//! bytes were copied, only the file that they came from is gone on with: another export of the same snapshot is another file.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use tokio::task::JoinSet;

use super::api::{Api, Refused, clip, text};
use super::bucket::{self, Object};
use super::build::{self, Build};
use super::chosen::Chosen;
use super::machine::Disk;
use super::snapshot::{self, Snapshot};
use super::{Place, image, name_of};
use crate::{BackendError, How, Kind};

/// What is to be taken.
#[derive(Debug, Clone)]
pub(super) enum Of {
    /// A disk, by a snapshot that is made of it.
    Disk(Disk),
    /// A snapshot that is there already.
    Snapshot(Snapshot),
}

/// One item on its way.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    /// The item's name.
    pub(super) item: String,
    pub(super) of: Of,
    /// The run in whose name it is made, and whether that is this one.
    pub(super) run: String,
    pub(super) anew: bool,
    /// Byte to go on with.
    pub(super) from: u64,
}

impl Wanted {
    /// One item of a capture.
    pub(super) fn new(item: &str, of: Of, how: &How) -> Self {
        let begun_by = how.begun_by.get(item).filter(|run| **run != how.run);
        Self {
            item: item.to_owned(),
            of,
            run: begun_by.unwrap_or(&how.run).clone(),
            anew: begun_by.is_none(),
            from: how.start_at.get(item).copied().unwrap_or(0),
        }
    }

    /// The number that is in its names.
    pub(super) fn id(&self) -> &str {
        match &self.of {
            Of::Disk(disk) => &disk.id,
            Of::Snapshot(snapshot) => &snapshot.id,
        }
    }

    /// What everything is called that is made for it.
    pub(super) fn name(&self) -> String {
        name_of(&self.run, self.id())
    }
}

/// A file to be copied, and what it is of.
#[derive(Debug, Clone)]
pub(super) struct Exported {
    pub(super) snapshot: Snapshot,
    pub(super) object: Object,
    /// What Cloud Build says of the export.
    pub(super) build: Value,
}

/// Why there is none.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) error: Box<BackendError>,
    /// There is a snapshot, so that it can be gone on with.
    pub(super) fixed: bool,
}

/// What a plan says of it.
pub(super) fn commands(place: &Place, bucket: &str, wanted: &Wanted) -> Vec<String> {
    let name = wanted.name();
    let mut commands = Vec::new();
    let source = match &wanted.of {
        Of::Disk(disk) => {
            if wanted.anew {
                commands.push(format!("POST {}/createSnapshot, {name}; it stays", disk.path));
            }
            &name
        }
        Of::Snapshot(snapshot) => &snapshot.name,
    };
    commands.push(format!("POST {}, {name} of snapshot {source}; it is removed in the end", place.global("images")));
    commands.push(format!("Cloud Build: gce_vm_image_export {}", build::arguments(place, bucket, &name).join(" ")));
    commands.push(format!("GET gs://{bucket}/{}, pinned to its generation", bucket::object_of(&name)));
    commands
}

/// Takes all at the same moment, by item name.
pub(super) async fn all(
    api: &Arc<Api>,
    place: &Place,
    chosen: &Chosen,
    wanted: &[Wanted],
    how: &How,
) -> BTreeMap<String, Result<Exported, Failed>> {
    let mut tasks = JoinSet::new();
    for one in wanted {
        let (api, place, chosen, one, how) = (Arc::clone(api), place.clone(), chosen.clone(), one.clone(), how.clone());
        tasks.spawn(async move {
            let taken = taken(&api, &place, &chosen, &one, &how).await;
            (one.item, taken)
        });
    }
    let mut all = BTreeMap::new();
    while let Some(done) = tasks.join_next().await {
        if let Ok((item, taken)) = done {
            all.insert(item, taken);
        }
    }
    for one in wanted {
        let stopped = || BackendError::new(Kind::Io, "take the disk", &one.item, "who takes it stopped");
        all.entry(one.item.clone()).or_insert_with(|| Err(Failed { error: Box::new(stopped()), fixed: true }));
    }
    all
}

async fn taken(api: &Api, place: &Place, chosen: &Chosen, wanted: &Wanted, how: &How) -> Result<Exported, Failed> {
    let snapshot = snapshot(api, place, wanted, how).await;
    // Whether one was made by a call that failed in the end, only its name tells.
    let snapshot = match snapshot {
        Ok(snapshot) => snapshot,
        Err(refused) => {
            let there = snapshot::find(api, place, &wanted.name()).await;
            return Err(Failed { error: refused.error, fixed: !matches!(there, Ok(None)) });
        }
    };
    let file = file(api, place, chosen, wanted, &snapshot).await;
    let (object, build) = file.map_err(|refused| Failed { error: refused.error, fixed: true })?;
    Ok(Exported { snapshot, object, build })
}

/// The snapshot: the one that is there, the one that the run made before, or a new one.
async fn snapshot(api: &Api, place: &Place, wanted: &Wanted, how: &How) -> Result<Snapshot, Refused> {
    let (name, run) = (wanted.name(), wanted.run.as_str());
    let disk = match &wanted.of {
        Of::Snapshot(snapshot) => return Ok(snapshot.clone()),
        Of::Disk(disk) => disk,
    };
    if !wanted.anew {
        match snapshot::of_run(api, place, disk, &name, run).await? {
            Some(snapshot) => return Ok(snapshot),
            None if wanted.from > 0 => return Err(lost(&name, "the snapshot is not there any more")),
            // It was killed before it came to that.
            None => {}
        }
    }
    snapshot::create(api, place, disk, &name, run, how).await
}

fn lost(name: &str, why: &str) -> Refused {
    BackendError::unsupported("go on with what was exported", name, why)
        .advise("begin anew, without --resume: half of one file and half of another is no file")
        .into()
}

/// The file in the bucket, exported unless it is there; and what Cloud Build said.
async fn file(
    api: &Api,
    place: &Place,
    chosen: &Chosen,
    wanted: &Wanted,
    snapshot: &Snapshot,
) -> Result<(Object, Value), Refused> {
    let name = wanted.name();
    // Of a run that is new, nothing is there.
    let builds = if wanted.anew { Vec::new() } else { build::tagged(api, place, &name).await? };
    let well = builds.iter().find(|build| build.went_well()).cloned();
    let there = match &well {
        Some(_) => bucket::find(api, &chosen.bucket, &name).await?,
        None => None,
    };
    if let (Some(build), Some(object)) = (well, there) {
        return checked(object, build);
    }
    if wanted.from > 0 {
        return Err(lost(&name, "the exported file is not there any more"));
    }
    let build = if let Some(build) = builds.into_iter().find(Build::is_under_way) {
        build
    } else {
        image::ensure(api, place, snapshot, &name, &wanted.run).await?;
        build::create(api, place, &chosen.bucket, &name).await?
    };
    let build = build::until_done(api, place, build).await?;
    // It has served, and costs money. What fails here is tried again in the end.
    let _ = image::remove(api, place, &name, &wanted.run).await;
    let object = bucket::find(api, &chosen.bucket, &name).await?;
    let object = object.ok_or_else(|| {
        let why = format!("Cloud Build says that {} went well, and there is no such object", build.id);
        let on = format!("gs://{}/{}", chosen.bucket, bucket::object_of(&name));
        BackendError::unsupported("look for the exported file", on, why)
    })?;
    checked(object, build)
}

/// Refuses what is no file of bytes as they lie there, or not the one that this export made.
fn checked(object: Object, build: Build) -> Result<(Object, Value), Refused> {
    let created = text(&object.about, "/timeCreated");
    if !build.can_have_made(created) {
        let why = format!("it was created at {}, after its export had ended: somebody replaced it", clip(created, 40));
        return Err(BackendError::unsupported("read the exported file", object.address(), why)
            .advise("who writes into this bucket? take it again, without --resume")
            .into());
    }
    let encoding = text(&object.about, "/contentEncoding");
    if object.size > 0 && encoding.is_empty() {
        return Ok((object, build.about));
    }
    let found =
        if object.size == 0 { "nothing".to_owned() } else { format!("what is encoded as {}", clip(encoding, 40)) };
    Err(BackendError::corrupt("read the exported file", object.address(), "the object", "a file", found).into())
}
