//! The image between a snapshot and its export: made of the snapshot, and removed again.
//!
//! After `images.insert`, `images.get` and `images.delete` of the Compute Engine API v1. Only what bears the run's label is removed.

use serde_json::{Value, json};

use super::Place;
use super::api::{Api, Refused, Service, clip, exists, is_missing, text, with_body};
use super::operation::{self, Wait};
use super::snapshot::{RUN_LABEL, Snapshot, run_of};
use crate::BackendError;
use crate::wire::http::Method;

fn path(place: &Place, name: &str) -> String {
    place.global(&format!("images/{name}"))
}

/// The image of a snapshot, of this name, made unless it is there already; waits until it is whole.
pub(super) async fn ensure(
    api: &Api,
    place: &Place,
    snapshot: &Snapshot,
    name: &str,
    run: &str,
) -> Result<(), Refused> {
    const CREATE: &str = "make an image of the snapshot";
    let body = json!({
        "name": name,
        "description": format!("for the export of {}; removed in the end", snapshot.name),
        "sourceSnapshot": format!("projects/{}/global/snapshots/{}", place.project, snapshot.name),
        "labels": { RUN_LABEL: run },
    });
    let request = api.request(CREATE, Method::Post, Service::Compute, &place.global("images"));
    match api.json(with_body(request, &body)).await {
        // By a run that was killed, or nobody heard the answer.
        Err(refused) if exists(&refused) => {}
        operation => operation::end(api, CREATE, place, operation?).await?,
    }
    let about = until_ready(api, place, name).await?;
    if run_of(&about) == run && text(&about, "/sourceSnapshotId") == snapshot.id {
        return Ok(());
    }
    let why = "there is one of this name that this run did not make of this snapshot";
    Err(BackendError::unsupported(CREATE, name, why).into())
}

async fn until_ready(api: &Api, place: &Place, name: &str) -> Result<Value, Refused> {
    const WAIT: &str = "wait for the image";
    let mut wait = Wait::new(WAIT, name);
    loop {
        let about = api.get(WAIT, Service::Compute, &path(place, name)).await?;
        match text(&about, "/status") {
            "READY" => return Ok(about),
            "PENDING" => wait.again().await?,
            other => {
                let why = format!("its status is {:?}", clip(other, 40));
                return Err(BackendError::unsupported(WAIT, name, why).into());
            }
        }
    }
}

/// Removes the image of this name that a run made. Answers whether there was one.
pub(super) async fn remove(api: &Api, place: &Place, name: &str, run: &str) -> Result<bool, Refused> {
    const REMOVE: &str = "remove the image";
    let about = match api.get("look for the image", Service::Compute, &path(place, name)).await {
        Err(refused) if is_missing(&refused) => return Ok(false),
        about => about?,
    };
    if run_of(&about) != run {
        let why = "it does not bear the label of the run, so it is somebody else's";
        return Err(BackendError::unsupported(REMOVE, name, why).into());
    }
    match api.json(api.request(REMOVE, Method::Delete, Service::Compute, &path(place, name))).await {
        Err(refused) if is_missing(&refused) => {}
        operation => operation::end(api, REMOVE, place, operation?).await?,
    }
    Ok(true)
}
