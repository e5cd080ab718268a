//! What EC2 says and shows of an instance, as exhibits: everything it tells, the console's log, a picture of the screen.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::Caller;
use super::api::Api;
use super::ec2::param;
use super::target::provenance;
use crate::wire::http::xml::Element;
use crate::{BackendError, Capture, Consistency, Item, ItemKind, Method, Piece, Region};

/// The most that one of them takes, in bytes, and far more than any was seen to.
pub(super) const MOST: u64 = 16 << 20;
/// How long one of them may hold up the snapshots.
const WITHIN: Duration = Duration::from_secs(20);

/// Names, in the order in which they are taken: what lasts least comes first.
const ALL: &[&str] = &["screenshot", "config", "console"];

/// What this instance offers. A screen is there while it runs, and never on bare metal.
pub(super) fn items(id: &str, about: &Element) -> Vec<Item> {
    let screen = about.get("instanceState/name") == Some("running")
        && !about.get("instanceType").unwrap_or_default().contains(".metal");
    let offered = ALL.iter().filter(|name| screen || **name != "screenshot");
    let item = |name: &&str| Item {
        kind: ItemKind::Config,
        name: (*name).to_owned(),
        len: None,
        source: id.to_owned(),
        resumable: false,
        file: None,
        methods: vec![Method {
            name: action(name).to_owned(),
            consistency: Consistency::Live,
            pause: "none".to_owned(),
            holds_guest: false,
            unusable: None,
        }],
    };
    offered.map(item).collect()
}

/// Refuses what there is not.
pub(super) fn known(item: &Item, about: &Element) -> Result<(), BackendError> {
    if items("", about).iter().any(|known| known.name == item.name) {
        return Ok(());
    }
    Err(BackendError::caller("capture", &item.source, format!("it has no `{}`", item.name)))
}

fn action(name: &str) -> &'static str {
    match name {
        "screenshot" => "GetConsoleScreenshot",
        "console" => "GetConsoleOutput",
        _ => "describe",
    }
}

/// What a plan says of it.
pub(super) fn command(item: &Item, id: &str) -> Option<String> {
    (item.kind == ItemKind::Config).then(|| format!("ec2 {} {id}", action(&item.name)))
}

/// A document, or why there is none.
pub(super) type Document = Result<Bytes, BackendError>;

/// Takes all that are wanted, none of which may hold up the snapshots for long.
pub(super) async fn take(api: &Api, id: &str, wanted: &[Item]) -> BTreeMap<String, Document> {
    let mut documents = BTreeMap::new();
    for name in ALL.iter().filter(|name| wanted.iter().any(|item| item.kind == ItemKind::Config && item.name == **name))
    {
        let late = || {
            let why = format!("no answer within {} s, and the disks could not wait", WITHIN.as_secs());
            Err(BackendError::unsupported(action(name), id, why))
        };
        let document = timeout(WITHIN, one(api, id, name)).await.unwrap_or_else(|_| late());
        documents.insert((*name).to_owned(), document);
    }
    documents
}

async fn one(api: &Api, id: &str, name: &str) -> Document {
    let params = [param("InstanceId", id)];
    let encoded = match name {
        "screenshot" => api
            .ec2("take a picture of the screen", "GetConsoleScreenshot", &params, false)
            .await?
            .get("imageData")
            .map(ToOwned::to_owned),
        "console" => {
            // The latest output is kept for some types only; what there is otherwise is that of the last start.
            let latest = [params[0].clone(), param("Latest", "true")];
            let answer = match api.ec2("read the console", "GetConsoleOutput", &latest, false).await {
                Err(refused) if refused.code == "UnsupportedOperation" => {
                    api.ec2("read the console", "GetConsoleOutput", &params, false).await?
                }
                answer => answer?,
            };
            answer.get("output").map(ToOwned::to_owned)
        }
        _ => return config(api, id).await,
    };
    let encoded: String = encoded.unwrap_or_default().split_whitespace().collect();
    let document = STANDARD
        .decode(encoded)
        .map_err(|error| BackendError::corrupt(action(name), id, "the answer", "base64", error))?;
    if document.is_empty() {
        return Err(BackendError::unsupported(action(name), id, "EC2 keeps none for this instance"));
    }
    Ok(document.into())
}

/// Everything EC2 says of the instance, its volumes and its network, as one JSON document.
async fn config(api: &Api, id: &str) -> Document {
    let gone = || BackendError::unsupported("describe the instance", id, "EC2 does not list it any more");
    let about = api.instances(Some(id)).await?.pop().ok_or_else(gone)?;
    let volumes: Vec<_> = api.volumes(&about).await?.iter().map(|volume| volume.about.to_json()).collect();
    let groups = super::isolate::groups_of(&about);
    let rules: Vec<_> = api.groups(&groups).await?.iter().map(Element::to_json).collect();
    let all = json!({ "instance": about.to_json(), "volumes": volumes, "security_groups": rules });
    Ok(serde_json::to_vec_pretty(&all).unwrap_or_default().into())
}

/// A document as a capture of one piece.
pub(super) fn capture(item: &Item, document: Option<Document>, caller: &Caller) -> Capture {
    let missing = || Err(BackendError::caller("capture", &item.source, format!("`{}` was not asked for", item.name)));
    let document = document.unwrap_or_else(missing);
    let len = document.as_ref().map_or(0, |bytes| bytes.len() as u64);
    let (to, pieces) = mpsc::channel(1);
    // One piece fits into an empty channel of one.
    let _ = to.try_send(document.map(|bytes| Piece::Data { at: 0, bytes }));
    let region = Region { at: 0, len, name: item.name.clone() };
    Capture {
        method: action(&item.name),
        item: item.clone(),
        len,
        regions: (len > 0).then_some(region).into_iter().collect(),
        consistency: Consistency::Live,
        holds_guest: false,
        facts: provenance(caller),
        pieces,
    }
}
