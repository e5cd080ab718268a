//! The actions of EC2 that are needed ("Amazon EC2 API Reference"), and what is read out of their answers.

use std::collections::BTreeMap;

use super::api::{Api, Refused};
use crate::BackendError;
use crate::wire::http::xml::Element;

/// Most pages of a list.
const PAGES_MAX: usize = 1000;
/// Most items of a list.
const ITEMS_MAX: usize = 100_000;
/// The tag with the run that made a snapshot.
pub(super) const RUN_TAG: &str = "impound:run";

/// A volume that hangs on an instance.
#[derive(Debug, Clone)]
pub(super) struct Volume {
    pub(super) id: String,
    /// `/dev/xvda`, in the instance's words.
    pub(super) device: String,
    /// In bytes.
    pub(super) len: u64,
    pub(super) root: bool,
    pub(super) encrypted: bool,
    pub(super) about: Element,
}

/// A snapshot of a volume.
#[derive(Debug, Clone)]
pub(super) struct Snapshot {
    pub(super) id: String,
    pub(super) volume: String,
    /// `pending`, `completed`, `error`, ….
    pub(super) state: String,
    /// In bytes.
    pub(super) len: u64,
    pub(super) about: Element,
}

impl Snapshot {
    fn read(about: &Element) -> Result<Self, BackendError> {
        let text = |name: &str| about.get(name).unwrap_or_default().to_owned();
        let size = about.get("volumeSize").and_then(|size| size.parse().ok());
        let state = about.get("status").or_else(|| about.get("state")).unwrap_or_default().to_owned();
        let id = text("snapshotId");
        if !is_id(&id, "snap-") {
            let why = "a snapshot with an id";
            return Err(BackendError::corrupt("read a snapshot", "EC2", "snapshotId", why, format!("`{id}`")));
        }
        Ok(Self { len: bytes(size, &id)?, volume: text("volumeId"), state, about: about.clone(), id })
    }

    /// Values of its tags by their keys.
    pub(super) fn tags(&self) -> BTreeMap<String, String> {
        tags(&self.about)
    }
}

/// `i-`, `vol-` or `snap-` and hexadecimal digits: ids get into paths and commands.
pub(super) fn is_id(id: &str, prefix: &str) -> bool {
    id.strip_prefix(prefix)
        .is_some_and(|rest| (8..=32).contains(&rest.len()) && rest.bytes().all(|c| c.is_ascii_hexdigit()))
}

/// GiB in bytes, within reason: no volume is larger than 64 TiB.
fn bytes(gib: Option<u64>, on: &str) -> Result<u64, BackendError> {
    gib.filter(|gib| (1..=64 << 10).contains(gib)).map(|gib| gib << 30).ok_or_else(|| {
        BackendError::corrupt(
            "read the size",
            on,
            "its size",
            "1 to 65536 GiB",
            gib.map_or("none".to_owned(), |n| n.to_string()),
        )
    })
}

/// Tags of anything.
pub(super) fn tags(about: &Element) -> BTreeMap<String, String> {
    let pairs = about
        .items("tagSet")
        .filter_map(|tag| Some((tag.get("key")?.to_owned(), tag.get("value").unwrap_or_default().to_owned())));
    pairs.collect()
}

pub(super) fn param(name: impl Into<String>, value: impl Into<String>) -> (String, String) {
    (name.into(), value.into())
}

fn filter(n: usize, name: &str, values: &[&str]) -> Vec<(String, String)> {
    let mut params = vec![param(format!("Filter.{n}.Name"), name)];
    params.extend((1..).zip(values).map(|(v, value)| param(format!("Filter.{n}.Value.{v}"), *value)));
    params
}

impl Api {
    /// All items of a list that comes in pages.
    async fn list(
        &self,
        purpose: &'static str,
        action: &str,
        params: &[(String, String)],
        set: &str,
    ) -> Result<Vec<Element>, Refused> {
        let (mut found, mut next) = (Vec::new(), None::<String>);
        for _ in 0..PAGES_MAX {
            let mut params = params.to_vec();
            params.extend(next.take().map(|token| param("NextToken", token)));
            let page = self.ec2(purpose, action, &params, false).await?;
            found.extend(page.items(set).cloned());
            next = page.get("nextToken").map(ToOwned::to_owned);
            if next.is_none() {
                return Ok(found);
            }
            if found.len() > ITEMS_MAX {
                break;
            }
        }
        let most = format!("a list that ends within {PAGES_MAX} pages and {ITEMS_MAX} items");
        Err(BackendError::corrupt(purpose, "EC2", "its end", most, "more").into())
    }

    /// Instances: all, or the one of this id.
    pub(super) async fn instances(&self, id: Option<&str>) -> Result<Vec<Element>, Refused> {
        let params: Vec<_> = id.map(|id| param("InstanceId.1", id)).into_iter().collect();
        let found = self.list("list the instances", "DescribeInstances", &params, "reservationSet").await?;
        let mut all = Vec::new();
        for reservation in found {
            let owner = Element {
                name: "ownerId".to_owned(),
                text: reservation.get("ownerId").unwrap_or_default().to_owned(),
                children: Vec::new(),
            };
            all.extend(reservation.items("instancesSet").cloned().map(|mut instance| {
                instance.children.push(owner.clone());
                instance
            }));
        }
        Ok(all)
    }

    /// The volumes of an instance, in the order in which it lists them.
    pub(super) async fn volumes(&self, instance: &Element) -> Result<Vec<Volume>, Refused> {
        let id = instance.get("instanceId").unwrap_or_default();
        let params = filter(1, "attachment.instance-id", &[id]);
        let found = self.list("list the volumes", "DescribeVolumes", &params, "volumeSet").await?;
        let root = instance.get("rootDeviceName").unwrap_or_default();
        let mut volumes = Vec::new();
        for mapping in instance.items("blockDeviceMapping") {
            let (Some(device), Some(volume)) = (mapping.get("deviceName"), mapping.get("ebs/volumeId")) else {
                continue;
            };
            let Some(about) = found.iter().find(|about| about.get("volumeId") == Some(volume)) else {
                let why = "it hangs on the instance, and EC2 does not list it";
                return Err(BackendError::unsupported("look at the volume", volume, why).into());
            };
            if !is_id(volume, "vol-") {
                return Err(BackendError::corrupt("list the volumes", id, "volumeId", "an id", volume).into());
            }
            volumes.push(Volume {
                id: volume.to_owned(),
                device: device.to_owned(),
                len: bytes(about.get("size").and_then(|size| size.parse().ok()), volume)?,
                root: device == root,
                encrypted: about.get("encrypted") == Some("true"),
                about: about.clone(),
            });
        }
        Ok(volumes)
    }

    /// Security groups by their ids, with their rules.
    pub(super) async fn groups(&self, ids: &[String]) -> Result<Vec<Element>, Refused> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let params: Vec<_> = (1..).zip(ids).map(|(n, id)| param(format!("GroupId.{n}"), id.as_str())).collect();
        self.list("list the security groups", "DescribeSecurityGroups", &params, "securityGroupInfo").await
    }

    /// Snapshots by their ids.
    pub(super) async fn snapshots(&self, ids: &[String]) -> Result<Vec<Snapshot>, Refused> {
        let params: Vec<_> = (1..).zip(ids).map(|(n, id)| param(format!("SnapshotId.{n}"), id.as_str())).collect();
        let found = self.list("look at the snapshots", "DescribeSnapshots", &params, "snapshotSet").await?;
        Ok(found.iter().map(Snapshot::read).collect::<Result<_, _>>()?)
    }

    /// Our own snapshots of a run.
    pub(super) async fn snapshots_of_run(&self, run: &str) -> Result<Vec<Snapshot>, Refused> {
        self.snapshots_with(RUN_TAG, &[run]).await
    }

    /// Our own snapshots with a tag that has one of these values.
    pub(super) async fn snapshots_with(&self, tag: &str, values: &[&str]) -> Result<Vec<Snapshot>, Refused> {
        let mut params = filter(1, &format!("tag:{tag}"), values);
        params.push(param("Owner.1", "self"));
        let found = self.list("look for the snapshots of a run", "DescribeSnapshots", &params, "snapshotSet").await?;
        Ok(found.iter().map(Snapshot::read).collect::<Result<_, _>>()?)
    }

    /// One snapshot of each volume of an instance, of one instant, but for those left out.
    pub(super) async fn create_snapshots(&self, params: &[(String, String)]) -> Result<Vec<Snapshot>, Refused> {
        let made = self.ec2("take the snapshots", "CreateSnapshots", params, true).await?;
        Ok(made.items("snapshotSet").map(Snapshot::read).collect::<Result<_, _>>()?)
    }
}

/// What `CreateSnapshots` is to be told: `left_out` are the volumes that are not wanted.
pub(super) fn snapshot_params(
    instance: &str,
    left_out: &[&Volume],
    description: &str,
    tags: &[(&str, String)],
) -> Vec<(String, String)> {
    let mut params = vec![param("InstanceSpecification.InstanceId", instance), param("Description", description)];
    if left_out.iter().any(|volume| volume.root) {
        params.push(param("InstanceSpecification.ExcludeBootVolume", "true"));
    }
    let data = left_out.iter().filter(|volume| !volume.root);
    params.extend(
        (1..)
            .zip(data)
            .map(|(n, volume)| param(format!("InstanceSpecification.ExcludeDataVolumeId.{n}"), volume.id.as_str())),
    );
    // Tags of the volumes are in the manifest; copied, one called `Name` would be there twice, and AWS refuses that.
    params.extend(tag_params(tags));
    params
}

/// Tags of a snapshot that is to be made.
pub(super) fn tag_params(tags: &[(&str, String)]) -> Vec<(String, String)> {
    let mut params = vec![param("TagSpecification.1.ResourceType", "snapshot")];
    for (n, (key, value)) in (1..).zip(tags) {
        params.push(param(format!("TagSpecification.1.Tag.{n}.Key"), *key));
        // A value has at most 256 characters.
        params.push(param(format!("TagSpecification.1.Tag.{n}.Value"), value.chars().take(256).collect::<String>()));
    }
    params
}
