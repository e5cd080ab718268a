//! What can be known of a Xen host and one of its domains without changing anything.

use serde_json::{Value, json};

use super::config::{self, Domain};
use super::list::{self, State};
use super::reach::Reach;
use super::scripts::LOOK;
use super::volumes::{self, Place};
use crate::wire::ssh::Command;
use crate::{BackendError, Facts, Kind, TargetSummary};

/// The program that speaks with Xen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tool {
    /// Since Xen 4.1.
    Xl,
    /// Before that: lists and dumps, and no more here.
    Xm,
}

impl Tool {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Xl => "xl",
            Self::Xm => "xm",
        }
    }

    fn command(self) -> Command {
        Command::new(self.name())
    }
}

/// A Xen host.
#[derive(Clone)]
pub(super) struct Dom0 {
    pub(super) reach: Reach,
    pub(super) tool: Tool,
    pub(super) info: String,
}

/// Which domain a script acts on: by number, and only while that is this domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Subject {
    pub(super) id: u32,
    pub(super) uuid: String,
}

impl Dom0 {
    pub(super) async fn at(reach: Reach) -> Result<Self, BackendError> {
        let found = reach.run(&Command::script("command -v xl || command -v xm")).await?;
        let tool = match found.text().trim().rsplit('/').next() {
            Some("xl") => Tool::Xl,
            Some("xm") => Tool::Xm,
            _ => {
                let why = "neither xl nor xm is there";
                return Err(BackendError::unsupported("look for Xen", reach.name(), why)
                    .advise("is it dom0, and is /usr/sbin in the PATH of a login without a terminal?"));
            }
        };
        let said = reach.run(&tool.command().arg("info")).await?;
        if !said.ending.good() {
            return Err(BackendError::new(Kind::Unsupported, "speak with Xen", reach.name(), said.ending.told())
                .advise("log in as root on dom0"));
        }
        Ok(Self { info: said.text(), reach, tool })
    }

    pub(super) fn version(&self) -> &str {
        list::info(&self.info, "xen_version").unwrap_or("unknown")
    }

    /// All domains but dom0, with the state of each.
    pub(super) async fn domains(&self) -> Result<Vec<(Domain, Option<State>)>, BackendError> {
        let rows = list::rows(&self.reach.must("list the domains", &self.tool.command().arg("list")).await?.text());
        let domains = match self.tool {
            Tool::Xl => config::domains(&self.configuration().await?)?,
            Tool::Xm => self.by_rows(&rows).await?,
        };
        let state = |id| rows.iter().rfind(|row| row.id == id).map(|row| row.state.clone());
        Ok(domains.into_iter().map(|domain| (domain.clone(), state(domain.id))).collect())
    }

    pub(super) async fn configuration(&self) -> Result<Vec<u8>, BackendError> {
        let command = self.tool.command().args(["list", "-l"]);
        Ok(self.reach.must("read the domains' configuration", &command).await?.output)
    }

    async fn by_rows(&self, rows: &[list::Row]) -> Result<Vec<Domain>, BackendError> {
        let mut domains = Vec::new();
        for row in rows.iter().filter(|row| row.id != 0) {
            let command = Command::new("xenstore-read").arg(format!("/local/domain/{}/vm", row.id));
            let said = self.reach.run(&command).await?.text();
            let Some(uuid) = said.trim().strip_prefix("/vm/").and_then(config::uuid) else { continue };
            domains.push(Domain {
                id: row.id,
                uuid,
                name: row.name.clone(),
                kind: "unknown".to_owned(),
                cpus: Some(row.cpus),
                memory: row.memory.checked_mul(1 << 20),
                disks: Vec::new(),
                passed: Vec::new(),
            });
        }
        Ok(domains)
    }

    pub(super) async fn targets(&self) -> Result<Vec<TargetSummary>, BackendError> {
        let summary = |(domain, state): (Domain, Option<State>)| TargetSummary {
            name: domain.name,
            id: Some(domain.uuid),
            state: state.map_or("unknown", |state| state.words()).to_owned(),
            memory: domain.memory,
            cpus: domain.cpus,
        };
        Ok(self.domains().await?.into_iter().map(summary).collect())
    }

    /// Finds a domain by its name or UUID, and looks at its disks.
    pub(super) async fn survey(self, vm: Option<&str>) -> Result<Survey, BackendError> {
        let configuration = self.configuration().await?;
        let all = match self.tool {
            Tool::Xl => config::domains(&configuration)?,
            Tool::Xm => self.domains().await?.into_iter().map(|(domain, _)| domain).collect(),
        };
        let domain = choose(all, vm, &self.reach.name())?;
        let ask = self.tool.command().arg("list").arg(domain.id.to_string());
        let rows = self.reach.must("ask for the domain's state", &ask).await?.text();
        let state = list::row_of(&rows, domain.id)?.state;
        let places = match domain.disks.as_slice() {
            [] => Vec::new(),
            disks => {
                let command = Command::script(LOOK).args(disks.iter().map(|disk| disk.path.clone()));
                let text = self.reach.must("look at the domain's disks", &command).await?.text();
                volumes::places(&text, disks)
            }
        };
        let told = match config::part_of(&configuration, domain.id) {
            Some(part) => part,
            None => Value::String(String::from_utf8_lossy(&configuration).into_owned()),
        };
        Ok(Survey { dom0: self, domain, state, places, told })
    }
}

fn choose(all: Vec<Domain>, vm: Option<&str>, host: &str) -> Result<Domain, BackendError> {
    let names: Vec<_> = all.iter().map(|domain| format!("`{}`", domain.name.escape_debug())).collect();
    let known =
        if names.is_empty() { "there is none but dom0".to_owned() } else { format!("there are: {}", names.join(", ")) };
    let mut found: Vec<_> =
        all.into_iter().filter(|domain| vm.is_none_or(|vm| domain.name == vm || domain.uuid == vm)).collect();
    let refuse = |why: String| BackendError::caller("open the domain", host, why).advise(known.clone());
    match (found.pop(), found.pop(), vm) {
        (Some(domain), None, _) => Ok(domain),
        (Some(_), Some(_), Some(vm)) => {
            Err(refuse(format!("several are called `{}`: name one by its UUID", vm.escape_debug())))
        }
        (Some(_), Some(_), None) => Err(refuse("there are several: name one behind #".to_owned())),
        (None, _, Some(vm)) => Err(refuse(format!("no domain is called `{}`", vm.escape_debug()))),
        (None, _, None) => Err(refuse("it runs no domain".to_owned())),
    }
}

/// One domain, as it was when it was looked at.
pub(super) struct Survey {
    pub(super) dom0: Dom0,
    pub(super) domain: Domain,
    pub(super) state: State,
    /// Of each disk of the configuration.
    pub(super) places: Vec<Place>,
    /// Its configuration, as it was told.
    pub(super) told: Value,
}

impl Survey {
    pub(super) fn subject(&self) -> Subject {
        Subject { id: self.domain.id, uuid: self.domain.uuid.clone() }
    }

    /// It runs, and so has to be held still.
    pub(super) fn runs(&self) -> bool {
        !self.state.paused() && !self.state.ended()
    }

    pub(super) fn facts(&self) -> Facts {
        Facts {
            name: self.domain.name.clone(),
            id: Some(self.domain.uuid.clone()),
            hypervisor: "Xen".to_owned(),
            version: self.dom0.version().to_owned(),
            state: self.state.words().to_owned(),
            cpus: self.domain.cpus,
            memory: self.domain.memory,
            clocks: None,
            warnings: self.warnings(),
            details: json!({
                "type": self.domain.kind,
                "shown": [["vm", "type", self.domain.kind]],
                "domid": self.domain.id,
                "toolstack": self.dom0.tool.name(),
                "capabilities": list::info(&self.dom0.info, "xen_caps"),
                "configuration": self.told,
            }),
        }
    }

    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        match self.domain.kind.as_str() {
            "pv" => {}
            "pvh" => warnings.push(
                "it is a PVH domain: xl tries every frame of its address space, of 4 GiB at least, which takes long"
                    .to_owned(),
            ),
            "hvm" => warnings.push("it is an HVM domain: dumping such was not tested".to_owned()),
            other => {
                warnings.push(format!("it is a domain of the kind {}, which was not tested", other.escape_debug()));
            }
        }
        if self.dom0.tool == Tool::Xm {
            warnings.push("this host has xm only, which was not tested; disks are not taken".to_owned());
        }
        if self.state.ended() {
            warnings.push(format!("it is {}: what it has in memory is what it ended with", self.state.words()));
        }
        if !self.domain.passed.is_empty() {
            let passed = self.domain.passed.join(", ");
            warnings.push(format!("hardware is passed through to it ({passed}), which may write while it is paused"));
        }
        for (disk, place) in self.domain.disks.iter().zip(&self.places) {
            if let Place::Unusable(why) = place
                && !disk.removable
            {
                warnings.push(format!("the disk {} cannot be taken: {why}", disk.vdev.escape_debug()));
            }
        }
        warnings
    }
}
