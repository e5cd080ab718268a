//! What Compute Engine says and shows of a machine, as exhibits: a picture of its screen, what it wrote to its serial ports, the firewall
//! rules that hold for it, its documents.
//!
//! After `instances.getScreenshot`, `instances.getSerialPortOutput`, `instances.getEffectiveFirewalls`, `instances.get` and
//! `projects.get` of the Compute Engine API v1.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::api::{Api, Service, number, text};
use super::machine::Machine;
use super::{Place, last};
use crate::cloud::{DOCUMENT_MAX, Document, Documents, pretty};
use crate::wire::http::Method as Verb;
use crate::{BackendError, Item, ItemKind};

/// All of them.
pub(super) const ALL: Documents = Documents(&[
    ("screenshot", "getScreenshot"),
    ("console", "getSerialPortOutput"),
    ("serial", "getSerialPortOutput"),
    ("firewalls", "getEffectiveFirewalls"),
    ("config", "describe"),
]);
/// Most answers of one serial port. Each holds up to a megabyte, and no more is kept.
const PARTS_MAX: usize = 64;

/// What this machine offers.
pub(super) fn items(machine: &Machine) -> Vec<Item> {
    ALL.items(&machine.path, |name| machine.has_screen() || name != "screenshot")
}

/// What a plan says of it.
pub(super) fn command(item: &Item) -> Option<String> {
    (item.kind == ItemKind::Config).then(|| match item.name.as_str() {
        "config" => format!("GET {} with its disks, and what the project's metadata say", item.source),
        "serial" => format!("GET {}/serialPort, ports 2 to 4", item.source),
        "console" => format!("GET {}/serialPort, port 1", item.source),
        "firewalls" => format!("GET {}/getEffectiveFirewalls, each network interface", item.source),
        name => format!("GET {}/{name}", item.source),
    })
}

/// One of them.
pub(super) async fn one(api: &Api, place: &Place, machine: &Machine, name: &str) -> Document {
    match name {
        "screenshot" => screenshot(api, &machine.path).await,
        "console" => {
            let log = serial(api, &machine.path, 1).await?;
            if log.is_empty() {
                return Err(BackendError::unsupported(
                    "read the serial console",
                    &machine.path,
                    "there is nothing in it",
                ));
            }
            Ok(log.into())
        }
        "serial" => ports(api, &machine.path).await,
        "firewalls" => firewalls(api, machine).await,
        _ => config(api, place, machine).await,
    }
}

async fn screenshot(api: &Api, path: &str) -> Document {
    const TAKE: &str = "take a picture of the screen";
    let came = api.get(TAKE, Service::Compute, &format!("{path}/screenshot")).await?;
    let picture = STANDARD.decode(text(&came, "/contents")).unwrap_or_default();
    if picture.is_empty() {
        return Err(BackendError::corrupt(TAKE, path, "contents", "a picture, as Base64", "none"));
    }
    Ok(picture.into())
}

/// All that is kept of what was written to a serial port.
async fn serial(api: &Api, path: &str, port: u32) -> Result<String, BackendError> {
    const READ: &str = "read the serial port";
    let (mut log, mut next) = (String::new(), 0_u64);
    for _ in 0..PARTS_MAX {
        let request = api.request(READ, Verb::Get, Service::Compute, &format!("{path}/serialPort"));
        let part = api.json(request.query("port", port.to_string()).query("start", next.to_string())).await?;
        let contents = text(&part, "/contents");
        log.push_str(contents);
        let to = number(&part, "/next").unwrap_or(next);
        if contents.is_empty() || to <= next || log.len() as u64 > DOCUMENT_MAX {
            break;
        }
        next = to;
    }
    Ok(log)
}

/// The other ports, each as text. What cannot be read is said.
async fn ports(api: &Api, path: &str) -> Document {
    let mut all = Map::new();
    for port in 2..=4 {
        let read = serial(api, path, port).await;
        all.insert(port.to_string(), read.map_or_else(|error| json!({ "absent": error.why }), Value::String));
    }
    Ok(pretty(&Value::Object(all)))
}

/// The rules that hold for each interface, wherever they come from.
async fn firewalls(api: &Api, machine: &Machine) -> Document {
    let mut all = Map::new();
    for name in machine.interfaces() {
        let path = format!("{}/getEffectiveFirewalls", machine.path);
        let request = api.request("ask for the firewall rules", Verb::Get, Service::Compute, &path);
        let rules = api.json(request.query("networkInterface", name.as_str())).await;
        all.insert(name, rules.unwrap_or_else(|refused| json!({ "absent": refused.error.why })));
    }
    Ok(pretty(&Value::Object(all)))
}

/// Everything that Compute Engine says of the machine now, and the metadata that it gets from its project.
async fn config(api: &Api, place: &Place, machine: &Machine) -> Document {
    let mut all = Machine::open(api, place, last(&machine.path)).await?.documents();
    let project = api.get("describe the project", Service::Compute, &format!("/projects/{}", place.project)).await;
    let metadata = project.map(|project| project.get("commonInstanceMetadata").cloned().unwrap_or_default());
    let metadata = metadata.unwrap_or_else(|refused| json!({ "absent": refused.error.why }));
    if let Some(all) = all.as_object_mut() {
        all.insert("projectMetadata".to_owned(), metadata);
    }
    Ok(pretty(&all))
}
