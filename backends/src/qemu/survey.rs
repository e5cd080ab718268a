//! What a VM is, asked of its QEMU without changing anything.

use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;

use jiff::{Timestamp, civil, tz::TimeZone};
use serde_json::{Map, Value, json};

use super::flatview::MemoryMap;
use super::quiesce;
use crate::wire::qmp::Qmp;
use crate::{BackendError, Clocks, Facts};

/// The answer that holds what libvirt knows of its domain, where it is one.
pub(super) const DOMAIN_XML: &str = "libvirt-domain-xml";

/// The questions whose answers go into the manifest as they are.
const QUESTIONS: &[&str] = &[
    "query-name",
    "query-uuid",
    "query-version",
    "query-status",
    "query-cpus-fast",
    "query-memdev",
    "query-memory-size-summary",
    "query-memory-devices",
    "query-block",
    "query-named-block-nodes",
    "query-block-exports",
    "query-jobs",
    "query-chardev",
    "query-pci",
    "query-rx-filter",
    "query-vnc",
    "query-spice",
    "query-current-machine",
    "query-kvm",
    "query-dump-guest-memory-capability",
    "query-migrate",
    "query-migrate-capabilities",
];

/// A disk as the guest sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DiskFound {
    /// The item's name: the device's id, made safe.
    pub(super) name: String,
    /// The block node the guest writes to.
    pub(super) node: String,
    /// The file behind it, as QEMU names it.
    pub(super) file: String,
    /// The files that the image builds on, nearest first, each with its format.
    pub(super) backing: Vec<String>,
    /// `raw`, `qcow2`, ….
    pub(super) format: String,
    /// Size the guest sees, in bytes.
    pub(super) size: u64,
    /// Bytes that its file takes, as far as QEMU knows.
    pub(super) allocated: u64,
    /// The guest cannot write to it.
    pub(super) read_only: bool,
}

impl DiskFound {
    /// The file of the disk, where this machine can read it.
    pub(super) fn reachable(&self) -> Option<PathBuf> {
        let path = PathBuf::from(&self.file);
        let kind = path.metadata().ok()?.file_type();
        (path.is_absolute() && (kind.is_file() || kind.is_block_device())).then_some(path)
    }
}

/// Everything asked, and what follows from it.
#[derive(Debug, Clone)]
pub(super) struct Survey {
    pub(super) answers: Map<String, Value>,
    pub(super) name: String,
    pub(super) state: String,
    pub(super) running: bool,
    /// Names of the RAM back ends.
    pub(super) main_memory: Vec<String>,
    pub(super) map: Result<MemoryMap, String>,
    pub(super) disks: Vec<DiskFound>,
    /// Thread of each virtual CPU on this host.
    pub(super) cpu_threads: Vec<i32>,
    /// Why QEMU refuses migrations, and so snapshots of memory.
    pub(super) blockers: Vec<String>,
    /// Memory encryption that hides the guest's memory from the host.
    pub(super) encrypted: Option<String>,
    pub(super) clocks: Option<Clocks>,
    pub(super) version: (u32, u32, u32),
    /// The distributor's name of the build.
    pub(super) package: String,
    /// `pc-i440fx-10.0`, ….
    pub(super) machine: Option<String>,
    /// Whether its file systems could be frozen, in words.
    pub(super) agent: String,
    /// Where QEMU runs, if no descriptor can be passed to it.
    pub(super) place: Option<String>,
    /// That is another machine: its files are not here.
    pub(super) elsewhere: bool,
    /// What the way there brings with it that a responder must know.
    pub(super) of_the_way: Vec<String>,
}

impl Survey {
    /// Does libvirt know it?
    pub(super) fn is_behind_libvirt(&self) -> bool {
        self.answers.contains_key(DOMAIN_XML)
    }

    /// Asks. Questions that this QEMU does not know are left out.
    pub(super) async fn make(qmp: &mut Qmp) -> Result<Self, BackendError> {
        let mut answers = Map::new();
        for question in QUESTIONS {
            match qmp.ask(question, Value::Null).await {
                Ok(answer) => drop(answers.insert((*question).to_owned(), answer)),
                Err(error) if error.kind == crate::Kind::Unsupported => {}
                Err(error) => return Err(error),
            }
        }
        let main_memory = strings(answers.get("query-memdev"), "id");
        let map = match qmp.human("info mtree -f").await {
            Ok(text) => MemoryMap::parse(&text, &main_memory).map_err(|e| e.why),
            Err(error) => Err(error.why),
        };
        let clocks = clocks(qmp).await;
        let machine = qmp.ask("qom-get", json!({ "path": "/machine", "property": "type" })).await.ok();
        let machine = machine.and_then(|name| name.as_str().map(|name| name.trim_end_matches("-machine").to_owned()));
        let encrypted = encryption(qmp).await;
        let agent = quiesce::presence(qmp).await;
        let at = |question: &str, key: &str| answers.get(question).and_then(|a| a.get(key)).cloned();
        let text = |value: Option<Value>| value.and_then(|v| v.as_str().map(ToOwned::to_owned));
        let id = text(at("query-uuid", "UUID")).filter(|id| id != "00000000-0000-0000-0000-000000000000");
        Ok(Self {
            name: text(at("query-name", "name")).or(id).unwrap_or_else(|| "vm".to_owned()),
            state: text(at("query-status", "status")).unwrap_or_default(),
            running: at("query-status", "running") == Some(Value::Bool(true)),
            disks: disks(answers.get("query-block")),
            cpu_threads: cpu_threads(answers.get("query-cpus-fast")),
            blockers: at("query-migrate", "blocked-reasons")
                .and_then(|list| serde_json::from_value(list).ok())
                .unwrap_or_default(),
            version: qmp.version(),
            package: qmp.package().to_owned(),
            machine,
            agent,
            place: None,
            elsewhere: false,
            of_the_way: Vec::new(),
            main_memory,
            map,
            encrypted,
            clocks,
            answers,
        })
    }

    /// A UUID other than none at all.
    pub(super) fn uuid(&self) -> Option<String> {
        let id = self.answers.get("query-uuid")?.get("UUID")?.as_str()?;
        (id != "00000000-0000-0000-0000-000000000000").then(|| id.to_owned())
    }

    /// Names of NBD exports and background jobs that somebody runs.
    pub(super) fn busy_with(&self) -> (Vec<String>, Vec<String>) {
        (strings(self.answers.get("query-block-exports"), "id"), strings(self.answers.get("query-jobs"), "id"))
    }

    pub(super) fn cpus(&self) -> Option<u32> {
        let list = self.answers.get("query-cpus-fast")?.as_array()?;
        u32::try_from(list.len()).ok()
    }

    pub(super) fn memory(&self) -> Option<u64> {
        let summary = self.answers.get("query-memory-size-summary")?;
        let size = |key: &str| summary.get(key).and_then(Value::as_u64).unwrap_or(0);
        Some(size("base-memory").saturating_add(size("plugged-memory")))
    }

    pub(super) fn version_text(&self) -> String {
        let (major, minor, micro) = self.version;
        format!("{major}.{minor}.{micro} {}", self.package).trim().to_owned()
    }

    /// What a responder must know first.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some(kind) = &self.encrypted {
            warnings.push(format!("the guest's memory is encrypted ({kind}): the host reads ciphertext"));
        }
        warnings.extend(self.blockers.iter().map(|why| format!("QEMU refuses memory snapshots: {why}")));
        if let Err(why) = &self.map {
            warnings.push(format!("the memory map cannot be read, so memory cannot be captured: {why}"));
        }
        let (exports, jobs) = self.busy_with();
        if !exports.is_empty() {
            warnings.push(format!("somebody exports disks over NBD: {}", exports.join(", ")));
        }
        if !jobs.is_empty() {
            warnings.push(format!("background jobs are running: {}", jobs.join(", ")));
        }
        warnings.extend(self.of_the_way.iter().cloned());
        if !self.running {
            warnings.push(format!("the guest is not running ({}) and will be left so", self.state));
        }
        warnings
    }

    /// For the manifest.
    pub(super) fn facts(&self) -> Facts {
        let map = match &self.map {
            Ok(map) => json!({
                "length": map.len,
                "ranges": map.ranges.iter().map(range_json).collect::<Vec<_>>(),
                "left_out": map.left_out.iter().map(range_json).collect::<Vec<_>>(),
            }),
            Err(why) => json!({ "unreadable": why }),
        };
        let mut details = self.answers.clone();
        details.insert("memory-map".to_owned(), map);
        details.insert("machine".to_owned(), json!(self.machine));
        details.insert("guest-agent".to_owned(), json!(self.agent));
        Facts {
            name: self.name.clone(),
            id: self.uuid(),
            hypervisor: "QEMU".to_owned(),
            version: self.version_text(),
            state: self.state.clone(),
            cpus: self.cpus(),
            memory: self.memory(),
            clocks: self.clocks.clone(),
            warnings: self.warnings(),
            details: Value::Object(details),
        }
    }
}

fn range_json(range: &super::flatview::Range) -> Value {
    json!({ "at": format!("{:#x}", range.at), "len": range.len, "kind": range.kind, "name": range.name })
}

fn strings(list: Option<&Value>, key: &str) -> Vec<String> {
    let list = list.and_then(Value::as_array).into_iter().flatten();
    list.filter_map(|entry| entry.get(key)?.as_str().map(ToOwned::to_owned)).collect()
}

pub(super) fn cpu_threads(list: Option<&Value>) -> Vec<i32> {
    let list = list.and_then(Value::as_array).into_iter().flatten();
    list.filter_map(|cpu| i32::try_from(cpu.get("thread-id")?.as_i64()?).ok()).collect()
}

/// The disks with a medium that a device of the guest uses.
fn disks(list: Option<&Value>) -> Vec<DiskFound> {
    let mut found: Vec<DiskFound> = Vec::new();
    for entry in list.and_then(Value::as_array).into_iter().flatten() {
        let Some(mut disk) = disk(entry) else { continue };
        let plain = disk.name.clone();
        let mut count = 1;
        while found.iter().any(|other| other.name == disk.name) {
            count += 1;
            disk.name = format!("{plain}-{count}");
        }
        found.push(disk);
    }
    found
}

fn disk(entry: &Value) -> Option<DiskFound> {
    let inserted = entry.get("inserted")?;
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (device, qdev) = (text(entry, "device"), text(entry, "qdev"));
    if qdev.is_empty() {
        return None;
    }
    let node = text(inserted, "node-name");
    // `/machine/peripheral/disk0/virtio-backend`: the id that the operator gave.
    let given = qdev.strip_prefix("/machine/peripheral/").and_then(|rest| rest.split('/').next());
    let name = [device.as_str(), given.unwrap_or_default(), node.as_str()].into_iter().find(|n| !n.is_empty())?;
    Some(DiskFound {
        name: safe_name(name),
        node,
        file: text(inserted, "file"),
        backing: backing(inserted.get("image")),
        format: text(inserted, "drv"),
        size: inserted.get("image")?.get("virtual-size")?.as_u64()?,
        allocated: inserted.get("image").and_then(|image| image.get("actual-size")?.as_u64()).unwrap_or(0),
        read_only: inserted.get("ro") == Some(&Value::Bool(true)),
    })
}

/// The chain of backing images. Cut at 64: QEMU itself has no limit, and a name in it may be anything.
fn backing(image: Option<&Value>) -> Vec<String> {
    let mut chain = Vec::new();
    let mut next = image.and_then(|image| image.get("backing-image"));
    while let (Some(image), true) = (next, chain.len() < 64) {
        let text = |key: &str| image.get(key).and_then(Value::as_str).unwrap_or("unknown");
        chain.push(format!("{} ({})", text("filename"), text("format")));
        next = image.get("backing-image");
    }
    chain
}

/// `[a-z0-9._-]+`, never a name that means a folder.
pub(super) fn safe_name(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' };
    let name: String = name.to_ascii_lowercase().chars().take(64).map(plain).collect();
    let name = name.trim_matches(['-', '.']).to_owned();
    if name.is_empty() { "unnamed".to_owned() } else { name }
}

/// The guest's real-time clock beside ours.
async fn clocks(qmp: &mut Qmp) -> Option<Clocks> {
    let tm = qmp.ask("qom-get", json!({ "path": "/machine", "property": "rtc-time" })).await.ok()?;
    let host = Timestamp::now();
    let part = |key: &str| tm.get(key).and_then(Value::as_i64);
    let date = civil::DateTime::new(
        i16::try_from(part("tm_year")?.checked_add(1900)?).ok()?,
        i8::try_from(part("tm_mon")?.checked_add(1)?).ok()?,
        i8::try_from(part("tm_mday")?).ok()?,
        i8::try_from(part("tm_hour")?).ok()?,
        i8::try_from(part("tm_min")?).ok()?,
        i8::try_from(part("tm_sec")?).ok()?,
        0,
    );
    let guest = TimeZone::UTC.to_timestamp(date.ok()?).ok()?;
    Some(Clocks { host, guest, offset_seconds: guest.as_second().saturating_sub(host.as_second()) })
}

/// The kind of memory encryption the machine was started with, if any.
async fn encryption(qmp: &mut Qmp) -> Option<String> {
    let ask = json!({ "path": "/machine", "property": "confidential-guest-support" });
    let object = qmp.ask("qom-get", ask).await.ok()?;
    let path = object.as_str().filter(|path| !path.is_empty())?.to_owned();
    let kind = qmp.ask("qom-get", json!({ "path": path, "property": "type" })).await.ok();
    Some(kind.and_then(|kind| kind.as_str().map(ToOwned::to_owned)).unwrap_or(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_named_after_their_device_and_never_alike() {
        let entry = |device: &str, qdev: &str| {
            json!({ "device": device, "qdev": qdev, "inserted": {
                "node-name": "#block1", "file": "/x", "drv": "qcow2", "ro": false, "image": { "virtual-size": 5 } } })
        };
        let list = json!([
            entry("d0", "/machine/peripheral-anon/device[0]/virtio-backend"),
            entry("", "/machine/peripheral/System Disk/virtio-backend"),
            entry("D0", "/machine/x"),
            entry("../../etc", "/machine/x"),
            { "device": "ide1-cd0", "qdev": "/machine/unattached/device[5]" },
            entry("unused", ""),
        ]);
        let names: Vec<_> = disks(Some(&list)).into_iter().map(|disk| disk.name).collect();
        assert_eq!(names, ["d0", "system-disk", "d0-2", "etc"]);
    }
}
