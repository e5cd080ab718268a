//! The export of an image to a bucket, by Cloud Build: what `gcloud compute images export --export-format qcow2` asks for.
//!
//! After `projects.builds.create`, `.get`, `.list` and `.cancel` of the Cloud Build API v1, and the flags of `gce_vm_image_export`
//! (README of that tool, GoogleCloudPlatform/compute-image-import). A build cannot be named; a tag with the run's id finds it again.
//! What the tool writes besides, as its logs, goes below a folder of its own in the same bucket.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::Place;
use super::api::{Api, Refused, Service, clip, is_unsure, rows, text, with_body};
use super::operation::Wait;
use crate::BackendError;
use crate::wire::http::Method;

/// The program that makes the export, as gcloud names it.
const TOOL: &str = "gcr.io/compute-image-tools/gce_vm_image_export:release";
/// How long a build may take, in seconds: the longest that Cloud Build allows. The tool itself ends a little earlier, in order.
const LASTS: (u32, u32) = (86400, 86100);
/// How often it is asked for a build of which nothing was heard.
const TRIES: u32 = 4;

/// A build.
#[derive(Debug, Clone)]
pub(super) struct Build {
    pub(super) id: String,
    pub(super) about: Value,
}

impl Build {
    fn of(about: &Value) -> Result<Self, BackendError> {
        let id = text(about, "/id");
        let plain = (1..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !plain {
            return Err(BackendError::corrupt("read what Cloud Build says", "a build", "the answer", "its id", "none"));
        }
        Ok(Self { id: id.to_owned(), about: about.clone() })
    }

    /// Did it end well?
    pub(super) fn went_well(&self) -> bool {
        text(&self.about, "/status") == "SUCCESS"
    }

    /// Can it have made what Cloud Storage says was created at this time? What came after its end, somebody else put there.
    pub(super) fn can_have_made(&self, created: &str) -> bool {
        let time = |text: &str| text.parse::<Timestamp>().ok();
        time(created).zip(time(text(&self.about, "/finishTime"))).is_some_and(|(created, ended)| created <= ended)
    }

    /// Is it on its way?
    pub(super) fn is_under_way(&self) -> bool {
        matches!(text(&self.about, "/status"), "PENDING" | "QUEUED" | "WORKING")
    }
}

/// What the tool is told. `name` is that of the image, and of all that is made of it.
pub(super) fn arguments(place: &Place, bucket: &str, name: &str) -> Vec<String> {
    vec![
        "-client_id=api".to_owned(),
        format!("-destination_uri=gs://{bucket}/{}", super::bucket::object_of(name)),
        "-format=qcow2".to_owned(),
        format!("-scratch_bucket_gcs_path=gs://{bucket}/{}", super::bucket::folder_of(name)),
        format!("-source_image={name}"),
        format!("-timeout={}s", LASTS.1),
        format!("-zone={}", place.zone),
    ]
}

fn path(place: &Place, rest: &str) -> String {
    format!("/v1/projects/{}/builds{rest}", place.project)
}

/// Builds of this tag, the newest first.
pub(super) async fn tagged(api: &Api, place: &Place, tag: &str) -> Result<Vec<Build>, Refused> {
    let request = api.request("look for the export", Method::Get, Service::Build, &path(place, ""));
    let found = api.list(request.query("filter", format!("tags=\"{tag}\"")).query("pageSize", "100"), "builds").await?;
    let ours = found.iter().filter(|about| rows(about, "/tags").any(|one| one.as_str() == Some(tag)));
    let builds: Result<Vec<_>, _> = ours.map(Build::of).collect();
    Ok(builds?)
}

/// Those that are on their way.
pub(super) async fn under_way(api: &Api, place: &Place, tag: &str) -> Result<Vec<Build>, Refused> {
    Ok(tagged(api, place, tag).await?.into_iter().filter(Build::is_under_way).collect())
}

/// Begins an export. If no answer comes, it may have begun all the same: its tag tells.
pub(super) async fn create(api: &Api, place: &Place, bucket: &str, name: &str) -> Result<Build, Refused> {
    const CREATE: &str = "export the image";
    let body = json!({
        "steps": [{ "name": TOOL, "args": arguments(place, bucket, name) }],
        "tags": ["gce-daisy", "gce-daisy-image-export", name],
        "timeout": format!("{}s", LASTS.0),
    });
    let mut tries = 0;
    loop {
        tries += 1;
        let request = with_body(api.request(CREATE, Method::Post, Service::Build, &path(place, "")), &body);
        match api.ask(request.clone(), true).await {
            Err(refused) if is_unsure(&refused) && tries < TRIES => {
                if let Some(build) = under_way(api, place, name).await?.into_iter().next() {
                    return Ok(build);
                }
            }
            answer => {
                let operation: Value = answer?.json(CREATE, &request.place())?;
                let about = operation.pointer("/metadata/build").unwrap_or(&Value::Null);
                return Ok(Build::of(about)?);
            }
        }
    }
}

/// Waits for the end of one, which has to be a good one.
pub(super) async fn until_done(api: &Api, place: &Place, build: Build) -> Result<Build, Refused> {
    const WAIT: &str = "wait for the export";
    let mut wait = Wait::new(WAIT, &build.id);
    loop {
        let now = Build::of(&api.get(WAIT, Service::Build, &path(place, &format!("/{}", build.id))).await?)?;
        if now.is_under_way() {
            wait.again().await?;
            continue;
        }
        if now.went_well() {
            return Ok(now);
        }
        let status = text(&now.about, "/status");
        let detail = [text(&now.about, "/statusDetail"), text(&now.about, "/failureInfo/detail")].join(" ");
        let why = format!("Cloud Build ended it with {}: {}", clip(status, 40), clip(detail.trim(), 600));
        return Err(BackendError::unsupported(WAIT, &build.id, why)
            .advise(format!(
                "its log is at {}; impound doctor says which roles Cloud Build's own account needs",
                clip(text(&now.about, "/logUrl"), 300)
            ))
            .into());
    }
}

/// Ends one that is on its way.
pub(super) async fn cancel(api: &Api, place: &Place, build: &Build) -> Result<(), Refused> {
    let request =
        api.request("end the export", Method::Post, Service::Build, &path(place, &format!("/{}:cancel", build.id)));
    api.ask(with_body(request, &json!({})), false).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_is_read_or_refused() {
        assert!(Build::of(&json!({ "id": "a-1", "status": "WORKING" })).unwrap().is_under_way());
        assert!(!Build::of(&json!({ "id": "a-1", "status": "SUCCESS" })).unwrap().is_under_way());
        assert!(!Build::of(&json!({ "id": "a-1", "status": 5 })).unwrap().is_under_way());
        let ended = Build::of(&json!({ "id": "a", "finishTime": "2026-01-01T00:00:10.123456Z" })).unwrap();
        assert!(ended.can_have_made("2026-01-01T00:00:10.123Z") && !ended.can_have_made("2026-01-01T00:00:10.124Z"));
        assert!(
            !ended.can_have_made("")
                && !Build::of(&json!({ "id": "a" })).unwrap().can_have_made("2026-01-01T00:00:11Z")
        );
        for bad in [json!(null), json!({}), json!({ "id": "a/b" }), json!({ "id": "" }), json!({ "id": 5 })] {
            assert!(Build::of(&bad).is_err(), "{bad}");
        }
    }
}
