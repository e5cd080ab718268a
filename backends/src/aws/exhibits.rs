//! What EC2 says and shows of an instance, as exhibits: everything it tells, the console's log, a picture of the screen.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::api::Api;
use super::ec2::param;
use crate::cloud::{Document, Documents, pretty};
use crate::wire::http::xml::Element;
use crate::{BackendError, Item, ItemKind};

/// All of them.
pub(super) const ALL: Documents =
    Documents(&[("screenshot", "GetConsoleScreenshot"), ("config", "describe"), ("console", "GetConsoleOutput")]);

/// What this instance offers. A screen is there while it runs, and never on bare metal.
pub(super) fn items(id: &str, about: &Element) -> Vec<Item> {
    let screen = about.get("instanceState/name") == Some("running")
        && !about.get("instanceType").unwrap_or_default().contains(".metal");
    ALL.items(id, |name| screen || name != "screenshot")
}

/// Refuses what there is not.
pub(super) fn known(item: &Item, about: &Element) -> Result<(), BackendError> {
    if items("", about).iter().any(|known| known.name == item.name) {
        return Ok(());
    }
    Err(BackendError::caller("capture", &item.source, format!("it has no `{}`", item.name)))
}

/// What a plan says of it.
pub(super) fn command(item: &Item, id: &str) -> Option<String> {
    (item.kind == ItemKind::Config).then(|| format!("ec2 {} {id}", ALL.method(&item.name)))
}

/// One of them.
pub(super) async fn one(api: &Api, id: &str, name: &str) -> Document {
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
        .map_err(|error| BackendError::corrupt(ALL.method(name), id, "the answer", "base64", error))?;
    if document.is_empty() {
        return Err(BackendError::unsupported(ALL.method(name), id, "EC2 keeps none for this instance"));
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
    Ok(pretty(&all))
}
