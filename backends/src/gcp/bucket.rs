//! Objects in the bucket: what Cloud Storage says of them, which a run made, and how they are taken away when that is asked for.
//!
//! After `objects.get` and `objects.list` of the Cloud Storage JSON API v1, "Delete object" of its XML API, and "Object metadata":
//! `generation` changes whenever an object is replaced, `crc32c` is that of all its bytes, `md5Hash` too, and composite objects have none.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::api::{Api, Refused, Service, clip, is_missing, number, text};
use crate::BackendError;
use crate::wire::hex;
use crate::wire::http::Method;

/// Most objects that an export leaves.
const OBJECTS_MAX: usize = 10_000;

/// The file that an export makes.
pub(super) fn object_of(name: &str) -> String {
    format!("{name}.qcow2")
}

/// The folder for all else that the tool writes.
pub(super) fn folder_of(name: &str) -> String {
    format!("{name}.work/")
}

/// An object.
#[derive(Debug, Clone)]
pub(super) struct Object {
    pub(super) bucket: String,
    pub(super) name: String,
    pub(super) generation: u64,
    /// In bytes.
    pub(super) size: u64,
    /// In hex, if it is there.
    pub(super) md5: Option<String>,
    /// In hex, its first digit that of the highest power.
    pub(super) crc32c: Option<String>,
    pub(super) about: Value,
}

impl Object {
    fn of(bucket: &str, about: Value) -> Result<Self, BackendError> {
        let wrong =
            |what: &str| BackendError::corrupt("read what Cloud Storage says", bucket, "an object", what, "none");
        let name = text(&about, "/name").to_owned();
        if name.is_empty() || name.chars().any(char::is_control) || name.split('/').any(|part| part == "..") {
            return Err(wrong("its name"));
        }
        let size = number(&about, "/size").ok_or_else(|| wrong("its size"))?;
        let generation = number(&about, "/generation").ok_or_else(|| wrong("its generation"))?;
        let digest = |path: &str, len: usize| {
            let bytes = STANDARD.decode(text(&about, path)).ok().filter(|bytes| bytes.len() == len)?;
            Some(hex(&bytes))
        };
        let (md5, crc32c) = (digest("/md5Hash", 16), digest("/crc32c", 4));
        Ok(Self { bucket: bucket.to_owned(), name, generation, size, md5, crc32c, about })
    }

    /// As tools name it.
    pub(super) fn address(&self) -> String {
        format!("gs://{}/{}", self.bucket, clip(&self.name, 1024))
    }

    /// The command that takes it away, for the one who decides.
    fn left(&self) -> String {
        let address = self.address();
        format!(
            "object {address} (generation {}, {} bytes); to delete it: gcloud storage rm {address}",
            self.generation, self.size
        )
    }
}

/// The file of an export, if it is there.
pub(super) async fn find(api: &Api, bucket: &str, name: &str) -> Result<Option<Object>, Refused> {
    let path = format!("/b/{bucket}/o/{}", object_of(name));
    match api.get("describe the exported file", Service::Storage, &path).await {
        Err(refused) if is_missing(&refused) => Ok(None),
        about => Ok(Some(Object::of(bucket, about?)?)),
    }
}

/// All that an export of this name left.
async fn all(api: &Api, bucket: &str, name: &str) -> Result<Vec<Object>, Refused> {
    let request = api.request("list what the export left", Method::Get, Service::Storage, &format!("/b/{bucket}/o"));
    let listed = api.list(request.query("prefix", format!("{name}.")), "items").await?;
    if listed.len() > OBJECTS_MAX {
        let found = listed.len();
        return Err(BackendError::corrupt(
            "list what the export left",
            bucket,
            "the list",
            format!("at most {OBJECTS_MAX}"),
            found,
        )
        .into());
    }
    let objects: Result<Vec<_>, _> = listed.into_iter().map(|about| Object::of(bucket, about)).collect();
    let ours = |object: &Object| object.name == object_of(name) || object.name.starts_with(&folder_of(name));
    Ok(objects?.into_iter().filter(ours).collect())
}

/// A line for the file, and one for all else.
pub(super) async fn left(api: &Api, bucket: &str, name: &str) -> Result<Vec<String>, Refused> {
    let (file, rest): (Vec<_>, Vec<_>) =
        all(api, bucket, name).await?.into_iter().partition(|object| object.name == object_of(name));
    let mut lines: Vec<_> = file.iter().map(Object::left).collect();
    if !rest.is_empty() {
        let folder = format!("gs://{bucket}/{}", folder_of(name));
        lines.push(format!(
            "{} objects of the export below {folder}; to delete them: gcloud storage rm --recursive {folder}",
            rest.len()
        ));
    }
    Ok(lines)
}

/// Takes all of it away, if the file is still the one that was copied.
pub(super) async fn remove(api: &Api, copied: &Object, name: &str) -> Result<(), Refused> {
    const REMOVE: &str = "remove the exported file";
    for object in all(api, &copied.bucket, name).await? {
        let replaced = object.name == copied.name && object.generation != copied.generation;
        if replaced {
            return Err(
                BackendError::unsupported(REMOVE, object.address(), "it was replaced after it was copied").into()
            );
        }
        let request = api.object(REMOVE, Method::Delete, &object.bucket, &object.name);
        let request = request.header("x-goog-if-generation-match", object.generation.to_string());
        match api.ask(request, false).await {
            Err(refused) if is_missing(&refused) => {}
            answer => drop(answer?),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_object_is_read_or_refused() {
        let of = |about: Value| Object::of("b-1", about);
        let good = json!({ "name": "a.qcow2", "size": "5", "generation": "17", "crc32c": "mnG7TA==", "md5Hash": "XUFAKrxLKna5cZ2REBfFkg==" });
        let object = of(good).unwrap();
        assert_eq!(
            (object.crc32c.as_deref(), object.md5.as_deref()),
            (Some("9a71bb4c"), Some("5d41402abc4b2a76b9719d911017c592"))
        );
        assert!(object.left().ends_with("gcloud storage rm gs://b-1/a.qcow2"));
        // Digests that are none are as good as absent ones.
        let odd = of(json!({ "name": "a", "size": 5, "generation": 1, "crc32c": "AAA=", "md5Hash": 7 })).unwrap();
        assert!(odd.crc32c.is_none() && odd.md5.is_none());
        for bad in [
            json!(null),
            json!({ "name": "a", "size": "5" }),
            json!({ "name": "a", "generation": "5" }),
            json!({ "name": "a", "size": "-5", "generation": "1" }),
            json!({ "name": "", "size": "5", "generation": "1" }),
            json!({ "name": "a/../b", "size": "5", "generation": "1" }),
            json!({ "name": "a\n", "size": "5", "generation": "1" }),
        ] {
            assert!(of(bad.clone()).is_err(), "{bad}");
        }
    }
}
