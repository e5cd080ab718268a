//! What ARM says and shows of a machine, as exhibits: its documents, the log of its serial console, a picture of its screen.
//!
//! Log and picture are there if boot diagnostics are enabled. ARM gives addresses of them that are secrets
//! ("Virtual Machines - Retrieve Boot Diagnostics Data").

use std::sync::Arc;

use serde_json::Value;

use super::api::{Api, COMPUTE, text};
use super::vm::Machine;
use crate::cloud::{DOCUMENT_MAX, Document, Documents, pretty};
use crate::wire::http::{Call, Method as Verb, Unsigned};
use crate::{BackendError, Item, ItemKind};

/// All of them.
pub(super) const ALL: Documents = Documents(&[
    ("screenshot", "retrieveBootDiagnosticsData"),
    ("console", "retrieveBootDiagnosticsData"),
    ("config", "describe"),
]);

/// What this machine offers.
pub(super) fn items(machine: &Machine) -> Vec<Item> {
    ALL.items(&machine.id, |name| machine.has_diagnostics() || name == "config")
}

/// What a plan says of it.
pub(super) fn command(item: &Item) -> Option<String> {
    (item.kind == ItemKind::Config).then(|| match item.name.as_str() {
        "config" => format!("GET {} with its disks and network interfaces", item.source),
        name => format!("POST {}/retrieveBootDiagnosticsData, GET {name}", item.source),
    })
}

/// One of them.
pub(super) async fn one(api: &Arc<Api>, id: &str, name: &str) -> Document {
    match name {
        "screenshot" => diagnostics(api, id, "take a picture of the screen", "/consoleScreenshotBlobUri").await,
        "console" => diagnostics(api, id, "read the serial console", "/serialConsoleLogBlobUri").await,
        _ => Ok(pretty(&Machine::open(api, id).await?.documents())),
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
    request.limit = DOCUMENT_MAX;
    let (asked, answer) = (request.clone(), api.http.send(Call::new(request, &Unsigned)).await?);
    if !answer.is_good() {
        return Err(answer.refused(&asked, answer.header("x-ms-error-code").unwrap_or_default(), ""));
    }
    if answer.body.is_empty() {
        return Err(BackendError::unsupported(purpose, id, "there is nothing in it yet"));
    }
    Ok(answer.body)
}
