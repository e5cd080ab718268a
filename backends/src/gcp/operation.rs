//! Acts that Google's cloud ends in its own time: looked at again and again, ever more seldom, and not for ever.
//!
//! After "Handling API responses" of Compute Engine: an operation is `DONE` in the end, and then says whether it failed.

use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::api::{Api, Refused, Service, clip, text};
use super::{Place, is_name, last};
use crate::BackendError;

/// The longest that anything is waited for. Large disks take hours to be copied.
pub(super) const WITHIN: Duration = Duration::from_secs(25 * 3600);
/// How long to wait before something is looked at again: at first, and at most.
const POLL: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));

/// Looks again and again.
pub(super) struct Wait {
    purpose: &'static str,
    on: String,
    next: Duration,
    until: Instant,
}

impl Wait {
    pub(super) fn new(purpose: &'static str, on: &str) -> Self {
        Self { purpose, on: on.to_owned(), next: POLL.0, until: Instant::now() + WITHIN }
    }

    /// # Errors
    /// If it took too long.
    pub(super) async fn again(&mut self) -> Result<(), BackendError> {
        if Instant::now() >= self.until {
            return Err(BackendError::unsupported(self.purpose, &self.on, "it took more than a day")
                .advise("go on with --resume later"));
        }
        sleep(self.next).await;
        self.next = (self.next * 2).min(POLL.1);
        Ok(())
    }
}

/// Follows an operation of Compute Engine to its end.
pub(super) async fn end(api: &Api, purpose: &'static str, place: &Place, mut operation: Value) -> Result<(), Refused> {
    let path = path(purpose, place, &operation)?;
    let mut wait = Wait::new(purpose, &path);
    loop {
        match text(&operation, "/status") {
            "DONE" => return outcome(purpose, &path, &operation).map_err(Refused::from),
            "PENDING" | "RUNNING" => wait.again().await?,
            other => {
                let found = format!("{:?}", clip(other, 40));
                return Err(BackendError::corrupt(purpose, path, "status", "that of an operation", found).into());
            }
        }
        operation = api.get("follow the operation", Service::Compute, &path).await?;
    }
}

/// Where an operation is: of a zone, of a region, or of the whole project.
fn path(purpose: &'static str, place: &Place, operation: &Value) -> Result<String, BackendError> {
    let name = text(operation, "/name");
    let wrong = || BackendError::corrupt(purpose, &place.project, "the answer", "an operation", "none");
    let part = |key: &str| Some(last(text(operation, key))).filter(|part| !part.is_empty());
    let below = match (part("/zone"), part("/region")) {
        (Some(zone), _) => format!("zones/{}", Some(zone).filter(|zone| is_name(zone)).ok_or_else(wrong)?),
        (None, Some(region)) => format!("regions/{}", Some(region).filter(|region| is_name(region)).ok_or_else(wrong)?),
        (None, None) => "global".to_owned(),
    };
    if !is_name(name) {
        return Err(wrong());
    }
    Ok(format!("/projects/{}/{below}/operations/{name}", place.project))
}

/// An operation that failed is an error, with its words.
fn outcome(purpose: &'static str, path: &str, operation: &Value) -> Result<(), BackendError> {
    let failed = operation.get("error").is_some_and(|error| !error.is_null());
    let status = operation.get("httpErrorStatusCode").and_then(Value::as_u64).unwrap_or(0);
    if !failed && status < 400 {
        return Ok(());
    }
    let code = clip(text(operation, "/error/errors/0/code"), 100);
    let message = clip(text(operation, "/error/errors/0/message"), 600);
    Err(BackendError::unsupported(purpose, path, format!("it failed: {code}: {message}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_operation_says_where_it_is_and_does_not_climb() {
        let place = Place { project: "lab".to_owned(), zone: "z".to_owned() };
        let of = |operation: Value| path("x", &place, &operation);
        let zone = "https://www.googleapis.com/compute/v1/projects/lab/zones/z-1";
        assert_eq!(of(json!({ "name": "op-1", "zone": zone })).unwrap(), "/projects/lab/zones/z-1/operations/op-1");
        assert_eq!(of(json!({ "name": "op-1", "region": "r" })).unwrap(), "/projects/lab/regions/r/operations/op-1");
        assert_eq!(of(json!({ "name": "op-1" })).unwrap(), "/projects/lab/global/operations/op-1");
        for bad in [
            json!(null),
            json!([]),
            json!({}),
            json!({ "name": 5 }),
            json!({ "name": "a/../b" }),
            json!({ "name": "a", "zone": "a/.." }),
        ] {
            assert!(of(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_operation_that_failed_is_an_error() {
        let of = |operation: Value| outcome("x", "y", &operation);
        assert!(of(json!({})).is_ok() && of(json!({ "error": null })).is_ok());
        for bad in [
            json!({ "error": { "errors": [{ "code": "QUOTA_EXCEEDED", "message": "m" }] } }),
            json!({ "error": {} }),
            json!({ "error": "damaged" }),
            json!({ "httpErrorStatusCode": 403 }),
        ] {
            assert!(of(bad.clone()).is_err(), "{bad}");
        }
    }
}
