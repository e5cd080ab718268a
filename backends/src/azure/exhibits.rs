//! What ARM says and shows of a machine, as exhibits: its documents, the log of its serial console, a picture of its screen.
//!
//! Log and picture are there if boot diagnostics are enabled. ARM gives addresses of them that are secrets
//! ("Virtual Machines - Retrieve Boot Diagnostics Data").

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::api::{Api, COMPUTE, text};
use super::credentials::Caller;
use super::target::provenance;
use super::vm::Machine;
use crate::wire::http::{Call, Method as Verb, Unsigned};
use crate::{BackendError, Capture, Consistency, Item, ItemKind, Method, Piece, Region};

/// The most that one of them takes, in bytes, and far more than any is documented to.
pub(super) const MOST: u64 = 16 << 20;
/// How long one of them may hold up the snapshots.
const WITHIN: Duration = Duration::from_secs(20);
/// Names, in the order in which they are taken: what lasts least comes first.
const ALL: &[&str] = &["screenshot", "console", "config"];

/// What this machine offers.
pub(super) fn items(machine: &Machine) -> Vec<Item> {
    let offered = ALL.iter().filter(|name| machine.has_diagnostics() || **name == "config");
    let item = |name: &&str| Item {
        kind: ItemKind::Config,
        name: (*name).to_owned(),
        len: None,
        source: machine.id.clone(),
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

fn action(name: &str) -> &'static str {
    if name == "config" { "describe" } else { "retrieveBootDiagnosticsData" }
}

/// What a plan says of it.
pub(super) fn command(item: &Item) -> Option<String> {
    (item.kind == ItemKind::Config).then(|| match item.name.as_str() {
        "config" => format!("GET {} with its disks and network interfaces", item.source),
        name => format!("POST {}/retrieveBootDiagnosticsData, GET {name}", item.source),
    })
}

/// A document, or why there is none.
pub(super) type Document = Result<Bytes, BackendError>;

/// Takes all that are wanted, none of which may hold up the snapshots for long.
pub(super) async fn take(api: &Arc<Api>, id: &str, wanted: &[Item]) -> BTreeMap<String, Document> {
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

async fn one(api: &Arc<Api>, id: &str, name: &str) -> Document {
    match name {
        "screenshot" => diagnostics(api, id, "take a picture of the screen", "/consoleScreenshotBlobUri").await,
        "console" => diagnostics(api, id, "read the serial console", "/serialConsoleLogBlobUri").await,
        _ => {
            let documents = Machine::open(api, id).await?.documents();
            Ok(serde_json::to_vec_pretty(&documents).unwrap_or_default().into())
        }
    }
}

async fn diagnostics(api: &Api, id: &str, purpose: &'static str, which: &str) -> Document {
    let path = format!("{id}/retrieveBootDiagnosticsData");
    let mut request = api.request(purpose, Verb::Post, &path, COMPUTE)?;
    request.answer_is_secret = true;
    let place = request.place();
    let came: Value = api.ask(request).await?.json(purpose, &place)?;
    if text(&came, which).is_empty() {
        return Err(BackendError::unsupported(purpose, id, "Azure keeps none for this machine"));
    }
    let mut request = api.shared(purpose, text(&came, which))?.request(purpose, Verb::Get);
    request.limit = MOST;
    let (asked, answer) = (request.clone(), api.http.send(Call::new(request, &Unsigned)).await?);
    if !answer.is_good() {
        return Err(answer.refused(&asked, answer.header("x-ms-error-code").unwrap_or_default(), ""));
    }
    if answer.body.is_empty() {
        return Err(BackendError::unsupported(purpose, id, "there is nothing in it yet"));
    }
    Ok(answer.body)
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
