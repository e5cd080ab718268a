//! `--bucket NAME`: where exports go; `--remove-export`: whether they are taken away once they were copied and found to be whole.

use super::api::{Api, Service, is_missing, rows};
use crate::wire::http::Method;
use crate::{BackendError, How};

/// Names among the options.
pub(super) const BUCKET: &str = "bucket";
pub(super) const REMOVE: &str = "remove-export";

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Chosen {
    pub(super) bucket: String,
    pub(super) remove: bool,
}

impl Chosen {
    /// What is asked for.
    pub(super) fn of(how: &How) -> Result<Self, BackendError> {
        let refuse = |on: &str, why: &str| {
            Err(BackendError::caller("choose the bucket", on, why.to_owned()).advise(
                "write --bucket NAME with a bucket of Cloud Storage that may hold evidence, best one near the machine",
            ))
        };
        let Some(named) = how.options.get(BUCKET) else {
            return refuse("no bucket", "Compute Engine gives a snapshot's bytes to nobody but a bucket");
        };
        let bucket = named.strip_prefix("gs://").unwrap_or(named).trim_end_matches('/');
        if !is_bucket(bucket) {
            return refuse(named, "no bucket has such a name; files lie at its top");
        }
        Ok(Self { bucket: bucket.to_owned(), remove: how.options.contains_key(REMOVE) })
    }

    /// Is it there, and may the caller read (and take away) what comes into it? Asked before anything is done.
    pub(super) async fn check(&self, api: &Api) -> Result<(), BackendError> {
        const CHECK: &str = "ask for permissions on the bucket";
        let mut wanted = vec!["storage.objects.get", "storage.objects.list"];
        wanted.extend(self.remove.then_some("storage.objects.delete"));
        let path = format!("/b/{}/iam/testPermissions", self.bucket);
        let mut request = api.request(CHECK, Method::Get, Service::Storage, &path);
        for permission in &wanted {
            request = request.query("permissions", *permission);
        }
        let came = match api.json(request).await {
            Err(refused) if is_missing(&refused) => {
                return Err(BackendError::caller(CHECK, &self.bucket, "there is no such bucket"));
            }
            came => came?,
        };
        let given: Vec<_> = rows(&came, "/permissions").filter_map(serde_json::Value::as_str).collect();
        let missing: Vec<_> = wanted.into_iter().filter(|permission| !given.contains(permission)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let why = format!("these are missing: {}", missing.join(", "));
        Err(BackendError::unsupported(CHECK, &self.bucket, why).advise(format!(
            "gcloud storage buckets add-iam-policy-binding gs://{} --member WHO --role roles/storage.objectAdmin",
            self.bucket
        )))
    }
}

/// Could this be the name of a bucket ("Bucket naming guidelines")? It is put into paths.
pub(super) fn is_bucket(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    (3..=222).contains(&bytes.len())
        && name.bytes().all(plain)
        && ends(bytes.first())
        && ends(bytes.last())
        && !name.contains("..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_has_a_name_that_divides_no_path() {
        for good in ["evidence-2026", "a_b.example.com", "abc"] {
            assert!(is_bucket(good), "{good}");
        }
        for bad in ["", "ab", "a/b", "../..", "a..b", "-abc", "abc-", "Abc", "a?b", &"a".repeat(223)] {
            assert!(!is_bucket(bad), "{bad}");
        }
    }
}
