//! From a snapshot to pieces: a temporary volume, an image of it, and the bytes of that image.
//!
//! Each step looks first whether an earlier run has done it, so that a copy that broke off goes on where it was. Where no answer
//! came to what was asked for, it may have been done all the same: the name of the run tells.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

use super::api::{Api, Refused};
use super::cinder::{Snapshot, Volume};
use super::glance::{Image, Wait};
use super::take::Taken;
use super::{fetch, name_of, undo};
use crate::wire::http::spans;
use crate::{BackendError, Kind, PieceStream, Witness};

/// How often it is asked for something that was not made.
const TRIES: u32 = 4;

/// Who is told of the image; closed when nobody waits for it any more.
pub(super) type Heard = mpsc::Sender<Result<Image, BackendError>>;

/// What a disk is read from.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// It is there, whole.
    Image(Image),
    /// Cinder makes it, of a volume that was asked for by an earlier run perhaps.
    Snapshot(Snapshot),
}

/// A disk to be read.
pub(super) struct Work {
    pub(super) api: Arc<Api>,
    /// The item's name.
    pub(super) item: String,
    /// The id of its volume, or of the server.
    pub(super) of: String,
    /// In bytes.
    pub(super) len: u64,
    /// Byte to begin with.
    pub(super) from: u64,
    /// The run in whose name it was begun.
    pub(super) run: String,
    pub(super) notes: Arc<Mutex<Notes>>,
}

/// What the streams have to tell in the end.
#[derive(Debug, Default)]
pub(super) struct Notes {
    pub(super) witnesses: Vec<Witness>,
    pub(super) problems: Vec<String>,
}

impl Work {
    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Begins. The task makes the image, and ends soon after nobody waits for it any more, but never between asking for something
/// and hearing of it.
pub(super) fn start(work: Work, from: Taken, room: &Arc<Semaphore>) -> (PieceStream, JoinHandle<()>) {
    let work = Arc::new(work);
    let (tell, mut hear) = mpsc::channel(1);
    let maker = Arc::clone(&work);
    let making = tokio::spawn(async move {
        let made = match from {
            Ok(source) => made(&maker, source, &tell).await.map_err(BackendError::from),
            Err(error) => Err(error),
        };
        // Nobody waits for it any more, if it cannot be sent.
        let _ = tell.send(made).await;
    });
    let pieces = spans::start(room, Arc::default(), move |mut spans| async move {
        let gone = || BackendError::new(Kind::Io, "make the image", &work.of, "whoever made it ended");
        let image = hear.recv().await.ok_or_else(gone)??;
        fetch::image(&work.api, &image, work.from, &mut spans).await?;
        work.notes().witness(&work.item, &image);
        Ok(spans)
    });
    (pieces, making)
}

/// The image, as large as it must be.
async fn made(work: &Work, source: Source, heard: &Heard) -> Result<Image, Refused> {
    let image = match source {
        Source::Image(image) => image,
        Source::Snapshot(snapshot) => of_snapshot(work, &snapshot, heard).await?,
    };
    if image.size == Some(work.len) {
        return Ok(image);
    }
    let found = image.size.unwrap_or_default();
    Err(BackendError::corrupt("read the image", &image.id, "size", work.len, found).into())
}

impl Notes {
    /// What Glance says of the image's bytes, to be compared with ours; or a word that it says nothing of use.
    fn witness(&mut self, item: &str, image: &Image) {
        let by = format!("Glance, of image {}", image.id);
        let digest = image.os_hash_value.as_deref().unwrap_or_default().to_ascii_lowercase();
        let is_hex = |len: usize| digest.len() == len && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
        match image.os_hash_algo.as_deref() {
            Some("sha256") if is_hex(64) => self.witnesses.push(Witness::sha256(item, by, digest)),
            Some("sha512") if is_hex(128) => self.witnesses.push(Witness::sha512(item, by, digest)),
            other => {
                let algorithm: String =
                    other.unwrap_or("nothing").chars().filter(char::is_ascii_graphic).take(40).collect();
                self.problems
                    .push(format!("{item}: {by}, there is a digest by {algorithm}, with which nothing was compared"));
            }
        }
    }
}

/// The image of a volume made of this snapshot.
async fn of_snapshot(work: &Work, snapshot: &Snapshot, heard: &Heard) -> Result<Image, Refused> {
    let name = name_of(&work.run, &work.of);
    let id = if let Some(image) = found(&work.api, &name).await? {
        image.id
    } else {
        until_available(work, snapshot, heard).await?;
        let volume = temporary(work, snapshot, &name).await?;
        until_readable(work, &volume, heard).await?;
        upload(&work.api, &volume.id, &name).await?
    };
    let image = work.api.until_active(&id, Some(heard)).await?;
    // It has served, and costs as much as its source. What fails here is tried again in the end.
    let _ = undo::remove(&work.api, &work.run, std::slice::from_ref(&work.of)).await;
    if image.is_raw() {
        return Ok(image);
    }
    let found = image.disk_format.clone().unwrap_or_default();
    Err(BackendError::corrupt("read the image", &image.id, "disk_format", "raw, as was asked for", found).into())
}

/// An image of this name that is there or on its way.
pub(super) async fn found(api: &Api, name: &str) -> Result<Option<Image>, Refused> {
    let of_use = |image: &Image| matches!(image.status.as_str(), "active" | "queued" | "saving" | "uploading");
    let mut found: Vec<_> = api.images_named(name).await?.into_iter().filter(of_use).collect();
    if found.len() > 1 {
        let why = "there are several of this name, and no way to tell which it was";
        return Err(BackendError::unsupported("go on with the image", name, why).into());
    }
    Ok(found.pop())
}

async fn until_available(work: &Work, snapshot: &Snapshot, heard: &Heard) -> Result<(), Refused> {
    let mut wait = Wait::new("wait for the snapshot", &snapshot.id).while_heard(heard);
    loop {
        let now = work.api.snapshot(&snapshot.id).await?;
        match now.as_ref().map(|snapshot| snapshot.status.as_str()) {
            Some("available") => return Ok(()),
            Some("creating") => wait.again().await?,
            other => {
                let why = format!("it is {}", other.unwrap_or("gone"));
                return Err(BackendError::unsupported("wait for the snapshot", &snapshot.id, why).into());
            }
        }
    }
}

/// A volume made of the snapshot.
async fn temporary(work: &Work, snapshot: &Snapshot, name: &str) -> Result<Volume, Refused> {
    let mut tries = 0;
    loop {
        if let Some(volume) = work.api.volumes_named(name, &work.run).await?.pop() {
            return Ok(volume);
        }
        tries += 1;
        match work.api.create_volume(&snapshot.id, work.len, name, &work.run).await {
            Err(refused) if refused.is_unsure() && tries < TRIES => {}
            made => return made,
        }
    }
}

async fn until_readable(work: &Work, volume: &Volume, heard: &Heard) -> Result<(), Refused> {
    let mut wait = Wait::new("wait for the temporary volume", &volume.id).while_heard(heard);
    loop {
        let now = work.api.volume(&volume.id).await?;
        match now.as_ref().map(|volume| volume.status.as_str()) {
            Some("available") => return Ok(()),
            Some("creating" | "downloading" | "uploading") => wait.again().await?,
            other => {
                let why = format!("it is {}", other.unwrap_or("gone"));
                return Err(BackendError::unsupported("wait for the temporary volume", &volume.id, why)
                    .advise("is there room in the quota for another volume of this size?")
                    .into());
            }
        }
    }
}

async fn upload(api: &Api, volume: &str, name: &str) -> Result<String, Refused> {
    let mut tries = 0;
    loop {
        tries += 1;
        match api.upload(volume, name).await {
            Err(refused) if refused.is_unsure() && tries < TRIES => {
                if let Some(image) = found(api, name).await? {
                    return Ok(image.id);
                }
            }
            made => return made,
        }
    }
}
