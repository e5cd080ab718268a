//! `--isolate GROUP`: after the capture, the instance's security groups are replaced by one that lets nothing through.
//!
//! What was there before stands in the journal, in the manifest and in the command that puts it back. Connections that are tracked
//! already may live on: security groups keep state, as the VPC User Guide says ("Security group connection tracking").

use super::api::Api;
use super::ec2::param;
use super::undo::AwsUndo;
use crate::cloud;
use crate::wire::http::xml::Element;
use crate::{BackendError, How, Journal};

/// Its name among the options.
pub(super) const OPTION: &str = "isolate";

/// Which group, instead of which.
#[derive(Debug, Clone)]
pub(super) struct Isolation {
    group: String,
    before: Vec<String>,
}

/// Ids of the instance's groups.
pub(super) fn groups_of(about: &Element) -> Vec<String> {
    about.items("groupSet").filter_map(|group| group.get("groupId")).map(ToOwned::to_owned).collect()
}

/// `sg-` and hexadecimal digits.
pub(super) fn is_group(id: &str) -> bool {
    super::ec2::is_id(id, "sg-")
}

impl Isolation {
    /// What is asked for, if anything.
    pub(super) fn of(how: &How, about: &Element) -> Result<Option<Self>, BackendError> {
        let Some(group) = how.options.get(OPTION) else { return Ok(None) };
        let refuse = |why: &str| BackendError::caller("isolate the instance", group, why.to_owned());
        if !is_group(group) {
            return Err(refuse("this is the id of no security group").advise("write --isolate sg-0123456789abcdef0"));
        }
        let before = groups_of(about);
        let cards = about.items("networkInterfaceSet").count();
        if cards > 1 {
            return Err(refuse(&format!(
                "the instance has {cards} network interfaces, and the groups of one only can be replaced this way"
            )));
        }
        if before.is_empty() || !before.iter().all(|id| is_group(id)) {
            return Err(refuse("EC2 does not say which groups the instance has now"));
        }
        Ok(Some(Self { group: group.clone(), before }))
    }

    /// The line of a plan.
    pub(super) fn command(&self, id: &str) -> String {
        format!(
            "after the capture: ec2 ModifyInstanceAttribute {id}, groups {} instead of {}",
            self.group,
            self.before.join(", ")
        )
    }

    /// Would it be allowed? Asked before anything is done.
    pub(super) async fn check(&self, api: &Api, id: &str) -> Result<(), BackendError> {
        if self.group_lets_through(api).await? {
            let why = "it has rules that let something in or out";
            return Err(BackendError::caller("isolate the instance", &self.group, why)
                .advise("name a group without any rule, inbound or outbound"));
        }
        let mut params = swap_params(id, std::slice::from_ref(&self.group));
        params.push(param("DryRun", "true"));
        match api.ec2("try whether the instance can be isolated", "ModifyInstanceAttribute", &params, false).await {
            Err(refused) if refused.code != "DryRunOperation" => Err(refused.into()),
            _ => Ok(()),
        }
    }

    async fn group_lets_through(&self, api: &Api) -> Result<bool, BackendError> {
        let found = api.groups(std::slice::from_ref(&self.group)).await?;
        let group = found.first().ok_or_else(|| {
            BackendError::caller("isolate the instance", &self.group, "EC2 does not list this security group")
        })?;
        Ok(group.items("ipPermissions").next().is_some() || group.items("ipPermissionsEgress").next().is_some())
    }
}

fn swap_params(id: &str, groups: &[String]) -> Vec<(String, String)> {
    let mut params = vec![param("InstanceId", id)];
    params.extend((1..).zip(groups).map(|(n, group)| param(format!("GroupId.{n}"), group.as_str())));
    params
}

/// Gives the instance these groups and no others.
pub(super) async fn set(api: &Api, id: &str, groups: &[String]) -> Result<(), BackendError> {
    api.ec2("replace the security groups", "ModifyInstanceAttribute", &swap_params(id, groups), false).await?;
    Ok(())
}

/// Isolates, and says how to undo it.
pub(super) async fn swap(
    api: &Api,
    id: &str,
    isolation: &Isolation,
    journal: &mut dyn Journal,
) -> Result<String, BackendError> {
    let undo = AwsUndo::Groups { groups: isolation.before.clone() };
    let act = cloud::note(journal, "isolate the instance", undo.for_journal())?;
    set(api, id, std::slice::from_ref(&isolation.group)).await?;
    cloud::ended(journal, act)?;
    let (group, before) = (&isolation.group, isolation.before.join(" "));
    Ok(format!(
        "{id} is isolated by {group}; to undo it: aws ec2 modify-instance-attribute --region {} --instance-id {id} --groups {before}",
        api.region
    ))
}
