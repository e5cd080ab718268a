//! Fixing the instant: all that is to be made is asked for at once, and then waited for.
//!
//! Volumes of one generic group become one snapshot of the group if they are all that is asked for of Cinder; whether that is of one
//! instant, Cinder says of the group's type. Else each volume has its own snapshot, asked for side by side.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;

use super::api::{Api, Refused};
use super::cinder::{Snapshot, Volume};
use super::copy::{self, Source};
use super::disks::{Disk, Of};
use super::{name_of, snapshot_name};
use crate::{BackendError, How, Kind};

/// How often it is asked for something that was not made, and how often and after what time it is looked for.
const TRIES: u32 = 4;
const LOOKS: u32 = 5;
const LOOK_AGAIN: Duration = Duration::from_millis(700);

/// What a disk is read from, or why it cannot be.
pub(super) type Taken = Result<Source, BackendError>;

/// What a plan says of it.
pub(super) fn commands(chosen: &[(Disk, Option<String>)]) -> Vec<String> {
    let mut commands = Vec::new();
    let new: Vec<_> = chosen.iter().filter(|(_, begun_by)| begun_by.is_none()).map(|(disk, _)| disk).collect();
    if let Some(group) = common_group(&new) {
        commands.push(format!("cinder create a snapshot of the group {group}; it stays"));
    }
    for disk in &new {
        match &disk.of {
            Of::Server { id, .. } => commands.push(format!("nova createImage of {id}; the image stays")),
            Of::Volume(volume) if common_group(&new).is_none() => {
                commands.push(format!("cinder create a snapshot of {}, in use or not; it stays", volume.id));
            }
            Of::Volume(_) => {}
        }
    }
    if chosen.iter().any(|(disk, _)| disk.volume().is_some()) {
        commands.push(
            "cinder create a volume of each snapshot, os-volume_upload_image of it (the image stays), delete it"
                .to_owned(),
        );
    }
    commands.push("glance GET /v2/images/ID/file, once they are there".to_owned());
    commands
}

/// The group that all the volumes are in, if there is more than one.
fn common_group(disks: &[&Disk]) -> Option<String> {
    let volumes: Vec<&Volume> = disks.iter().filter_map(|disk| disk.volume()).collect();
    let group = volumes.first()?.group.as_ref()?;
    let all = volumes.len() > 1 && volumes.iter().all(|volume| volume.group.as_ref() == Some(group));
    all.then(|| group.clone())
}

/// What Cinder promises of the group that the volumes are in, if they are.
pub(super) async fn promise(api: &Api, disks: &[Disk]) -> Option<String> {
    let group = common_group(&disks.iter().collect::<Vec<_>>())?;
    let says = match api.is_consistent(&group).await {
        Some(true) => "and its type promises one instant",
        Some(false) => "and its type does not promise one instant",
        None => "and nobody told these credentials whether that is of one instant",
    };
    Some(format!("the volumes are in group {group}: taken together they are one snapshot of it, {says}"))
}

/// Takes all disks, by item name: those of an earlier run as they are, the others anew.
pub(super) async fn all(api: &Arc<Api>, chosen: &[(Disk, Option<String>)], how: &How) -> BTreeMap<String, Taken> {
    let (mut taken, mut tasks) = (BTreeMap::new(), JoinSet::new());
    let new: Vec<_> = chosen.iter().filter(|(_, begun_by)| begun_by.is_none()).map(|(disk, _)| disk).collect();
    if let Some(group) = common_group(&new) {
        let made = group_snapshot(api, &group, &new, how).await;
        for disk in new.iter().filter(|disk| disk.volume().is_some()) {
            let found = match &made {
                Ok(()) => of_group(api, disk.id(), &how.run).await.map_err(BackendError::from),
                Err(why) => Err(BackendError::unsupported("take a snapshot of the group", &group, why)),
            };
            taken.insert(disk.name.clone(), found);
        }
    }
    for (disk, begun_by) in chosen.iter().filter(|(disk, _)| !taken.contains_key(&disk.name)) {
        let (api, disk, begun_by) = (Arc::clone(api), disk.clone(), begun_by.clone());
        let (run, by) = (how.run.clone(), how.holder.clone());
        tasks.spawn(async move {
            let made = match begun_by {
                Some(run) => of_run(&api, &disk, &run).await,
                None => anew(&api, &disk, &run, &by).await,
            };
            (disk.name, made.map_err(BackendError::from))
        });
    }
    while let Some(done) = tasks.join_next().await {
        if let Ok((name, made)) = done {
            taken.insert(name, made);
        }
    }
    for (disk, _) in chosen {
        let ended = || Err(BackendError::new(Kind::Io, "take the disk", &disk.name, "who takes it stopped"));
        taken.entry(disk.name.clone()).or_insert_with(ended);
    }
    taken
}

/// What is there already of a run.
async fn of_run(api: &Api, disk: &Disk, run: &str) -> Result<Source, Refused> {
    let image = copy::found(api, &name_of(run, disk.id())).await?;
    if let Some(image) = image {
        // Of a volume's image Cinder has promised what it will be; of a server's only the image itself tells.
        return Ok(Source::Image(match disk.volume() {
            Some(_) if image.status != "active" => return of_volume(api, disk.id(), run).await,
            _ => api.until_active(&image.id, None).await?,
        }));
    }
    match &disk.of {
        Of::Volume(volume) => of_volume(api, &volume.id, run).await,
        Of::Server { id, .. } => Err(lost(id, run, "the image is not there any more")),
    }
}

async fn of_volume(api: &Api, volume: &str, run: &str) -> Result<Source, Refused> {
    let mut found = api.snapshots_named(volume, &snapshot_name(run)).await?;
    match (found.pop(), found.len()) {
        (Some(snapshot), 0) => Ok(Source::Snapshot(snapshot)),
        (Some(_), _) => Err(lost(volume, run, "there are several, and no way to tell which it was")),
        (None, _) => Err(lost(volume, run, "the snapshot is not there any more")),
    }
}

fn lost(of: &str, run: &str, why: &str) -> Refused {
    let error = BackendError::unsupported("go on with the snapshot", format!("{of} of run {run}"), why);
    error.advise("begin anew, without --resume: half of one instant and half of another is of no instant").into()
}

/// A disk that is taken now.
async fn anew(api: &Api, disk: &Disk, run: &str, by: &str) -> Result<Source, Refused> {
    match &disk.of {
        Of::Volume(volume) => snapshot(api, &volume.id, run, by).await.map(Source::Snapshot),
        Of::Server { id, .. } => {
            let image = image(api, id, run).await?;
            Ok(Source::Image(api.until_active(&image, None).await?))
        }
    }
}

/// Where no answer came, or one of a service that broke, it may have been made all the same: its name tells, and only if
/// nothing is found it is asked for again.
async fn snapshot(api: &Api, volume: &str, run: &str, by: &str) -> Result<Snapshot, Refused> {
    let mut tries = 0;
    loop {
        tries += 1;
        match api.create_snapshot(volume, &snapshot_name(run), run, by).await {
            Err(refused) if refused.is_unsure() && tries < TRIES => {
                if let Some(found) = look(api, volume, run).await? {
                    return Ok(found);
                }
            }
            made => return made,
        }
    }
}

/// The snapshot of a volume that this run has made, perhaps a moment ago.
async fn look(api: &Api, volume: &str, run: &str) -> Result<Option<Snapshot>, Refused> {
    for _ in 0..LOOKS {
        if let Some(found) = api.snapshots_named(volume, &snapshot_name(run)).await?.pop() {
            return Ok(Some(found));
        }
        sleep(LOOK_AGAIN).await;
    }
    Ok(None)
}

/// One snapshot of all volumes of the group, or why not.
async fn group_snapshot(api: &Api, group: &str, disks: &[&Disk], how: &How) -> Result<(), String> {
    let Some(first) = disks.iter().find_map(|disk| disk.volume()) else { return Ok(()) };
    let mut tries = 0;
    loop {
        tries += 1;
        match api.create_group_snapshot(group, &snapshot_name(&how.run), &how.holder).await {
            Err(refused) if refused.is_unsure() && tries < TRIES => {
                if look(api, &first.id, &how.run).await.is_ok_and(|found| found.is_some()) {
                    return Ok(());
                }
            }
            made => return made.map_err(|refused| refused.error.why),
        }
    }
}

/// The part of the group's snapshot that is this volume's.
async fn of_group(api: &Api, volume: &str, run: &str) -> Result<Source, Refused> {
    let found = look(api, volume, run).await?;
    found.map(Source::Snapshot).ok_or_else(|| lost(volume, run, "the snapshot of the group has none of it"))
}

async fn image(api: &Api, server: &str, run: &str) -> Result<String, Refused> {
    let name = name_of(run, server);
    let mut tries = 0;
    loop {
        tries += 1;
        match api.create_image(server, &name, run).await {
            Err(refused) if refused.is_unsure() && tries < TRIES => {
                for _ in 0..LOOKS {
                    if let Some(image) = copy::found(api, &name).await? {
                        return Ok(image.id);
                    }
                    sleep(LOOK_AGAIN).await;
                }
            }
            made => return made,
        }
    }
}
