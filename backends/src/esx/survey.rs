//! What is known of a VM: asked once when it is opened and again before it is touched.

use serde_json::{Value as Json, json};

use super::disks::{self, Disk};
use super::files::{FileAt, path_of, volume_of};
use super::listing::{self, Snapshot, Volume, field};
use super::shell::Shell;
use super::text::Value;
use super::undo::power_state;
use super::{VmId, command, snapshot};
use crate::{BackendError, Facts};

/// Tools of the host that are of use, and what for.
pub(super) const TOOLS: &[(&str, &str)] = &[
    ("vim-cmd", "asks for VMs, takes snapshots"),
    ("esxcli", "lists datastores"),
    ("stat", "measures files"),
    ("dd", "reads files"),
    ("sha256sum", "a second witness of each file"),
];

/// What a VM says of itself in few words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Summary {
    pub(super) id: VmId,
    pub(super) name: String,
    pub(super) uuid: Option<String>,
    pub(super) instance_uuid: Option<String>,
    /// `[datastore] web/web.vmx`
    pub(super) vmx: String,
    pub(super) state: String,
    pub(super) guest: String,
    pub(super) cpus: Option<u32>,
    /// Bytes.
    pub(super) memory: Option<u64>,
}

impl Summary {
    /// Reads `vim.vm.Summary`, which names the VM that it is of.
    pub(super) fn of(id: VmId, read: &Value) -> Result<Self, String> {
        let text = |path: &str| read.text(path).filter(|text| !text.is_empty()).map(str::to_owned);
        if read.text("vm") != Some(&format!("vim.VirtualMachine:{id}")) {
            return Err(format!("expected the summary of VM {id}"));
        }
        Ok(Self {
            id,
            name: text("config.name").ok_or("expected a name")?,
            uuid: text("config.uuid"),
            instance_uuid: text("config.instanceUuid"),
            vmx: text("config.vmPathName").ok_or("expected a path of its .vmx file")?,
            state: text("runtime.powerState").ok_or("expected a power state")?,
            guest: text("guest.guestFullName").or(text("config.guestFullName")).unwrap_or_default(),
            cpus: read.number("config.numCpu").and_then(|cpus| u32::try_from(cpus).ok()),
            memory: read.number("config.memorySizeMB").and_then(|mib| mib.checked_mul(1 << 20)),
        })
    }

    /// Asks for the one with this id; none if there is none, which a forged row of the list comes to.
    pub(super) async fn ask(shell: &Shell, id: VmId) -> Result<Option<Self>, BackendError> {
        let command = command::summary(id);
        match shell.object(&command).await {
            Ok(read) => Self::of(id, &read).map(Some).map_err(|why| shell.unread(&command, &why)),
            Err(error) if error.why.contains("vim.fault.NotFound") || error.why.contains("ManagedObjectNotFound") => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Survey {
    pub(super) vm: Summary,
    /// `Powered on`, `Powered off`, `Suspended`.
    pub(super) state: String,
    pub(super) version: String,
    pub(super) volumes: Vec<Volume>,
    pub(super) disks: Vec<Disk>,
    pub(super) snapshots: Vec<Snapshot>,
    /// Path of the `.vmx` file.
    pub(super) vmx: String,
    pub(super) settings: Settings,
    pub(super) tools: Vec<String>,
    /// The files in its folders as they were.
    pub(super) files: Vec<FileAt>,
}

/// What of the `.vmx` file matters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Settings {
    /// The VM's files are encrypted.
    pub encrypted: bool,
    /// It has a virtual TPM, whose secrets are in the `.nvram` file.
    pub tpm: bool,
    /// Folder of its snapshots, if it is not that of the `.vmx` file.
    pub working: Option<String>,
}

/// Reads a `.vmx` file: `key = "value"` a line, keys in any case; line breaks inside values are escaped as `|0A`.
pub(super) fn settings(text: &str) -> Settings {
    let mut found = Settings::default();
    for line in text.lines().take(100_000) {
        let Some((key, value)) = line.split_once('=') else { continue };
        let value = value.trim().trim_matches('"');
        match key.trim().to_ascii_lowercase().as_str() {
            "encryption.keysafe" => found.encrypted = true,
            "vtpm.present" if value.eq_ignore_ascii_case("true") => found.tpm = true,
            "workingdir" if !value.is_empty() && value != "." => found.working = Some(value.to_owned()),
            _ => {}
        }
    }
    found
}

impl Survey {
    pub(super) async fn of(shell: &Shell, id: VmId) -> Result<Self, BackendError> {
        let vm = Summary::ask(shell, id).await?.ok_or_else(|| {
            BackendError::caller("look at a VM", shell.name(), format!("there is no VM with the number {id} any more"))
        })?;
        let volumes = shell.volumes().await?;
        let vmx = path_of(&volumes, &vm.vmx)
            .map_err(|why| BackendError::unsupported("find the VM's files", shell.name(), why))?;
        let settings = settings(&String::from_utf8_lossy(&shell.small(&vmx).await?));
        let devices = shell.object(&command::devices(id)).await?;
        let mut survey = Self {
            state: power_state(shell, id).await?,
            version: version(shell).await,
            disks: disks::of(shell, &devices, &volumes).await?,
            snapshots: snapshot::list(shell, id).await?,
            tools: tools(shell).await?,
            vm,
            volumes,
            vmx,
            settings,
            files: Vec::new(),
        };
        survey.files = survey.list(shell).await?;
        Ok(survey)
    }

    /// The files in the folders of the VM as they are now.
    pub(super) async fn list(&self, shell: &Shell) -> Result<Vec<FileAt>, BackendError> {
        let mut files = shell.folder(self.folder()).await?;
        let working = self.working();
        if working != self.folder() {
            files.extend(shell.folder(&working).await?);
        }
        Ok(files)
    }

    /// Those of `now` that were not there.
    pub(super) fn fresh<'a>(&self, now: &'a [FileAt]) -> Vec<&'a FileAt> {
        now.iter().filter(|file| !self.files.iter().any(|old| old.path == file.path)).collect()
    }

    pub(super) fn runs(&self) -> bool {
        self.state == "Powered on"
    }

    /// Folder of the `.vmx` file.
    pub(super) fn folder(&self) -> &str {
        self.vmx.rsplit_once('/').map_or("", |(folder, _)| folder)
    }

    /// Folder where snapshots go.
    pub(super) fn working(&self) -> String {
        let named = self.settings.working.as_deref();
        named
            .and_then(|name| super::files::path_beside(&self.volumes, &self.vmx, name).ok())
            .unwrap_or_else(|| self.folder().to_owned())
    }

    /// The datastore of a path.
    pub(super) fn volume(&self, path: &str) -> Option<&Volume> {
        volume_of(&self.volumes, path)
    }

    pub(super) fn has(&self, tool: &str) -> bool {
        self.tools.iter().any(|known| known == tool)
    }

    /// For the manifest and for `show`.
    pub(super) fn facts(&self) -> Facts {
        let vm = &self.vm;
        let snapshots: Vec<_> =
            self.snapshots.iter().map(|one| json!({ "id": one.id, "name": one.name, "about": one.about })).collect();
        Facts {
            name: vm.name.clone(),
            id: vm.uuid.clone(),
            hypervisor: "VMware ESXi".to_owned(),
            version: self.version.clone(),
            state: self.state.clone(),
            cpus: vm.cpus,
            memory: vm.memory,
            clocks: None,
            warnings: self.warnings(),
            details: json!({
                "vmid": vm.id.0, "instance_uuid": vm.instance_uuid, "vmx": vm.vmx, "guest": vm.guest, "disks": self.disks,
                "snapshots": snapshots, "encrypted": self.settings.encrypted, "vtpm": self.settings.tpm, "tools": self.tools,
                "datastores": self.stores(), "shown": self.shown(),
            }),
        }
    }

    /// The datastores that hold something of this VM.
    fn stores(&self) -> Vec<Json> {
        let paths = self.disks.iter().flat_map(|disk| disk.parts.iter().map(|part| part.file.path.as_str()));
        let mut used: Vec<&Volume> = Vec::new();
        for volume in std::iter::once(self.vmx.as_str()).chain(paths).filter_map(|path| self.volume(path)) {
            if !used.contains(&volume) {
                used.push(volume);
            }
        }
        used.into_iter()
            .map(|v| json!({ "name": v.name, "type": v.kind, "mount": v.mount, "free": v.free, "size": v.size }))
            .collect()
    }

    /// Rows of `show`: what, name, value.
    fn shown(&self) -> Vec<[String; 3]> {
        let row = |what: &str, name: &str, value: String| [what.to_owned(), name.to_owned(), value];
        let mut rows = vec![row("vm", "number", self.vm.id.to_string()), row("vm", "file", self.vm.vmx.clone())];
        rows.push(row("vm", "guest", self.vm.guest.clone()));
        for store in self.stores() {
            let text = |key: &str| store.get(key).and_then(Json::as_str).unwrap_or_default().to_owned();
            let free = store.get("free").and_then(Json::as_u64).unwrap_or(0) >> 20;
            rows.push(row("datastore", &text("name"), format!("{}, {free} MiB free", text("type"))));
        }
        for disk in &self.disks {
            rows.push(row(
                "backing",
                &disk.name,
                format!("{}: {}, {}, {}", disk.label, disk.file, disk.backing, disk.mode),
            ));
        }
        for one in &self.snapshots {
            let id = one.id.map_or("no id".to_owned(), |id| format!("id {id}"));
            rows.push(row("snapshot", &one.name, format!("{id}, level {}", one.level)));
        }
        rows
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.settings.encrypted {
            warnings.push(
                "the VM is encrypted (encryption.keySafe): what is taken of it is ciphertext without its keys"
                    .to_owned(),
            );
        }
        if self.settings.tpm {
            warnings
                .push("it has a virtual TPM: what the guest sealed there is in the .nvram file, encrypted".to_owned());
        }
        for disk in &self.disks {
            if let Some(why) = &disk.refused {
                warnings.push(format!("{} is not covered: {why}", disk.name));
            } else if disk.independent {
                warnings.push(format!("{} is {}: no snapshot covers it while the VM runs", disk.name, disk.mode));
            }
        }
        if self.state == "Powered off" {
            warnings.push("it is powered off: there is no memory".to_owned());
        }
        if !self.has("sha256sum") {
            warnings.push("the host has no sha256sum: nothing but our own digest says what was captured".to_owned());
        }
        warnings
    }
}

async fn version(shell: &Shell) -> String {
    let text = shell.text(&command::version()).await.unwrap_or_default();
    let part = |name: &str| field(&text, name).unwrap_or_default().to_owned();
    format!("{} {}", part("Version"), part("Build")).trim().to_owned()
}

/// Which of [`TOOLS`] are there.
pub(super) async fn tools(shell: &Shell) -> Result<Vec<String>, BackendError> {
    let names: Vec<_> = TOOLS.iter().map(|(name, _)| *name).collect();
    let text = shell.text(&command::tools(&names)).await?;
    Ok(names.into_iter().filter(|name| text.lines().any(|line| line == *name)).map(str::to_owned).collect())
}

/// A VM that is there, and what it says of itself.
pub(super) struct Listed {
    pub(super) id: VmId,
    pub(super) summary: Result<Summary, BackendError>,
}

impl Listed {
    /// Asks for the one with this id; none if there is none.
    pub(super) async fn ask(shell: &Shell, id: VmId) -> Result<Option<Self>, BackendError> {
        match Summary::ask(shell, id).await {
            Ok(summary) => Ok(summary.map(|summary| Self { id, summary: Ok(summary) })),
            Err(error) if error.kind == crate::Kind::Corrupt => Ok(Some(Self { id, summary: Err(error) })),
            Err(error) => Err(error),
        }
    }
}

/// All VMs of the host, or those whose row holds `wanted`.
pub(super) async fn vms(shell: &Shell, wanted: Option<&str>) -> Result<Vec<Listed>, BackendError> {
    let command = command::all_vms();
    let ids = listing::vm_ids(&shell.text(&command).await?, wanted).map_err(|why| shell.unread(&command, &why))?;
    let mut found = Vec::new();
    for id in ids {
        found.extend(Listed::ask(shell, VmId(id)).await?);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_in_any_case_and_the_guest_cannot_add_any() {
        let text =
            "encryption.keySafe = \"vmware:key/list/(pair...)\"\nVTPM.present = \"TRUE\"\nworkingDir = \"snaps\"\n";
        assert_eq!(settings(text), Settings { encrypted: true, tpm: true, working: Some("snaps".to_owned()) });
        assert_eq!(
            settings("guestinfo.x = \"a|0Aencryption.keySafe = |22x|22\"\nvtpm.present = \"FALSE\"\n"),
            Settings::default()
        );
    }

    #[test]
    fn a_summary_is_of_the_vm_that_was_asked_for() {
        let text = |id: u32| {
            format!(
                "Listsummary:\n\n(vim.vm.Summary) {{\n   vm = 'vim.VirtualMachine:{id}', \n   runtime = (R) {{\n      powerState = \"poweredOn\", \n   \
                 }}, \n   config = (C) {{\n      name = \"web\", \n      vmPathName = \"[ds] w/w.vmx\", \n      memorySizeMB = 4096, \n   }}, \n}}\n"
            )
        };
        let read = |id| super::super::text::parse(&text(id)).unwrap();
        let summary = Summary::of(VmId(5), &read(5)).unwrap();
        assert_eq!((summary.name.as_str(), summary.memory, summary.uuid), ("web", Some(4 << 30), None));
        assert!(Summary::of(VmId(5), &read(6)).is_err());
    }
}
