//! Nova: servers, what is attached to them, their console, and an image of a server's own disk.
//!
//! After the Compute API reference, version 2.47.

use serde::Deserialize;
use serde_json::{Value, json};

use super::api::{Api, Ask, Refused, Service};
use super::{is_id, text};
use crate::BackendError;

/// Servers on a page, and the most pages that are read.
const PAGE: usize = 500;
const PAGES_MAX: usize = 200;
/// The key, in images, snapshots and volumes, that names the run which made them.
pub(super) const RUN_KEY: &str = "impound_run";

/// A volume that is attached.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Attachment {
    #[serde(default)]
    pub(super) device: Option<String>,
    #[serde(rename = "volumeId")]
    pub(super) volume: String,
}

fn corrupt(purpose: &str, on: &str, expected: &str) -> BackendError {
    BackendError::corrupt(purpose, on, "the answer", expected, "another")
}

impl Api {
    /// All servers of the project.
    pub(super) async fn servers(&self) -> Result<Vec<Value>, Refused> {
        const PURPOSE: &str = "list the servers";
        let (mut found, mut marker) = (Vec::new(), None::<String>);
        for _ in 0..PAGES_MAX {
            let mut ask = Ask::get(Service::Nova, PURPOSE, "/servers/detail").query("limit", PAGE.to_string());
            if let Some(marker) = &marker {
                ask = ask.query("marker", marker.clone());
            }
            let mut page: Value = self.json(ask).await?;
            let Some(Value::Array(servers)) = page.get_mut("servers").map(Value::take) else {
                return Err(corrupt(PURPOSE, "Nova", "a list of servers").into());
            };
            let more = page.get("servers_links").and_then(Value::as_array).is_some_and(|links| !links.is_empty());
            let last = servers.last().map(|server| text(server, "id").to_owned());
            found.extend(servers);
            match last.filter(|_| more) {
                Some(next) if marker.as_ref() != Some(&next) => marker = Some(next),
                _ => return Ok(found),
            }
        }
        let why = format!("there are more than {} servers", PAGE * PAGES_MAX);
        Err(BackendError::unsupported(PURPOSE, "Nova", why).advise("name the server by its id").into())
    }

    /// Everything Nova says of one.
    pub(super) async fn server(&self, id: &str) -> Result<Value, Refused> {
        let mut answer: Value =
            self.json(Ask::get(Service::Nova, "describe the server", format!("/servers/{id}"))).await?;
        let server = answer.get_mut("server").map(Value::take).unwrap_or_default();
        if text(&server, "id") != id {
            return Err(corrupt("describe the server", id, "that server").into());
        }
        Ok(server)
    }

    /// A part of what Nova knows of a server.
    pub(super) async fn of_server(&self, id: &str, part: &str) -> Result<Value, Refused> {
        self.json(Ask::get(Service::Nova, "ask about the server", format!("/servers/{id}/{part}"))).await
    }

    /// The volumes that are attached to a server, in Nova's order.
    pub(super) async fn attachments(&self, id: &str) -> Result<Vec<Attachment>, Refused> {
        #[derive(Deserialize)]
        struct Answered {
            #[serde(rename = "volumeAttachments")]
            all: Vec<Attachment>,
        }
        let ask =
            Ask::get(Service::Nova, "list the volumes of the server", format!("/servers/{id}/os-volume_attachments"));
        let found = self.json::<Answered>(ask).await?.all;
        match found.iter().find(|attached| !is_id(&attached.volume)) {
            Some(_) => Err(corrupt("list the volumes of the server", id, "ids of volumes").into()),
            None => Ok(found),
        }
    }

    /// The console's log.
    pub(super) async fn console(&self, id: &str) -> Result<String, Refused> {
        #[derive(Deserialize)]
        struct Answered {
            output: String,
        }
        let body = json!({ "os-getConsoleOutput": {} });
        let ask = Ask::post(Service::Nova, "read the console", format!("/servers/{id}/action"), body);
        Ok(self.json::<Answered>(ask).await?.output)
    }

    /// Has an image made of the server's own disk (`createImage`). Answers its id; it is not there yet.
    pub(super) async fn create_image(&self, id: &str, name: &str, run: &str) -> Result<String, Refused> {
        #[derive(Deserialize)]
        struct Answered {
            image_id: String,
        }
        let body = json!({ "createImage": { "name": name, "metadata": { RUN_KEY: run } } });
        let ask = Ask::post(Service::Nova, "have an image of the server made", format!("/servers/{id}/action"), body);
        let made = self.json::<Answered>(ask).await?.image_id;
        if is_id(&made) {
            Ok(made)
        } else {
            Err(corrupt("have an image of the server made", id, "the id of an image").into())
        }
    }
}
