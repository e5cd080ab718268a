//! Glance: images, found by id or by name, and waited for.
//!
//! After the Image service API v2 reference.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::api::{Api, Ask, Refused, Service};
use super::copy::Heard;
use super::{is_id, text};
use crate::BackendError;

/// The longest that anything is waited for: large volumes are copied twice before their image is there.
pub(super) const WITHIN: Duration = Duration::from_secs(24 * 3600);
/// How long to wait before something is looked at again: at first, and at most.
const POLL: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));

/// An image.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Image {
    pub(super) id: String,
    pub(super) status: String,
    #[serde(default)]
    pub(super) size: Option<u64>,
    #[serde(default)]
    pub(super) disk_format: Option<String>,
    #[serde(default)]
    pub(super) container_format: Option<String>,
    #[serde(default)]
    pub(super) os_hash_algo: Option<String>,
    #[serde(default)]
    pub(super) os_hash_value: Option<String>,
    /// All of it.
    #[serde(skip)]
    pub(super) about: Value,
}

fn image(about: Value) -> Result<Image, Refused> {
    let wrong = || BackendError::corrupt("read what Glance says", "an image", "the answer", "an image", "another");
    let read: Image = serde_json::from_value(about.clone()).map_err(|_| wrong())?;
    if is_id(&read.id) { Ok(Image { about, ..read }) } else { Err(wrong().into()) }
}

impl Image {
    /// Is it a disk's bytes as the guest sees them?
    pub(super) fn is_raw(&self) -> bool {
        let (disk, container) = (self.disk_format.as_deref(), self.container_format.as_deref());
        matches!(disk, Some("raw" | "iso")) && matches!(container, None | Some("bare"))
    }
}

impl Api {
    /// An image; none if there is none of that id.
    pub(super) async fn image(&self, id: &str) -> Result<Option<Image>, Refused> {
        match self.json(Ask::get(Service::Glance, "describe the image", format!("/images/{id}"))).await {
            Err(refused) if refused.status == 404 => Ok(None),
            answer => image(answer?).map(Some),
        }
    }

    /// Images of this name that belong to the caller's own project: anybody may call an image so and share it.
    pub(super) async fn images_named(&self, name: &str) -> Result<Vec<Image>, Refused> {
        let project = self.who().await?.project;
        let ask = Ask::get(Service::Glance, "look for images", "/images").query("name", name);
        let mut answer: Value = self.json(ask).await?;
        let Some(Value::Array(found)) = answer.get_mut("images").map(Value::take) else {
            let why = "another";
            return Err(BackendError::corrupt("look for images", name, "the answer", "a list of images", why).into());
        };
        let ours = found
            .into_iter()
            .filter(|about| text(about, "name") == name && text(about, "owner") == text(&project, "id"));
        ours.map(image).collect()
    }

    /// Waits until an image is there, whole; no longer than `heard` listens.
    pub(super) async fn until_active(&self, id: &str, heard: Option<&Heard>) -> Result<Image, Refused> {
        let wait = Wait::new("wait for the image", id);
        let mut wait = match heard {
            Some(heard) => wait.while_heard(heard),
            None => wait,
        };
        loop {
            let found = self.image(id).await?;
            match found.as_ref().map(|image| image.status.as_str()) {
                Some("active") => {}
                Some("queued" | "saving" | "uploading" | "importing") => {
                    wait.again().await?;
                    continue;
                }
                other => {
                    let why = format!("it is {}: whoever made it did not bring it to its end", other.unwrap_or("gone"));
                    return Err(BackendError::unsupported("wait for the image", id, why).into());
                }
            }
            let sized = found.filter(|image| image.size.is_some_and(|size| size > 0));
            return sized
                .ok_or_else(|| BackendError::corrupt("wait for the image", id, "size", "a length", "none").into());
        }
    }
}

/// Looks again and again, ever more seldom, and not for ever.
pub(super) struct Wait {
    purpose: &'static str,
    on: String,
    next: Duration,
    until: Instant,
    heard: Option<Heard>,
}

impl Wait {
    pub(super) fn new(purpose: &'static str, on: &str) -> Self {
        Self::within(purpose, on, WITHIN)
    }

    pub(super) fn within(purpose: &'static str, on: &str, within: Duration) -> Self {
        Self { purpose, on: on.to_owned(), next: POLL.0, until: Instant::now() + within, heard: None }
    }

    /// Ends also when nobody listens to this any more.
    pub(super) fn while_heard(self, heard: &Heard) -> Self {
        Self { heard: Some(heard.clone()), ..self }
    }

    /// # Errors
    /// If it took too long, or for nobody.
    pub(super) async fn again(&mut self) -> Result<(), BackendError> {
        if Instant::now() >= self.until {
            return Err(BackendError::unsupported(self.purpose, &self.on, "it took too long"));
        }
        match &self.heard {
            None => sleep(self.next).await,
            Some(heard) => tokio::select! {
                () = sleep(self.next) => {}
                () = heard.closed() => {
                    return Err(BackendError::unsupported(self.purpose, &self.on, "nobody waits for it any more"));
                }
            },
        }
        self.next = (self.next * 2).min(POLL.1);
        Ok(())
    }
}
