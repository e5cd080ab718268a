//! What can be captured of a VM, and which method of reading memory fits.

use serde_json::Value;

use super::survey::{DiskFound, Survey};
use crate::{BackendError, Consistency, How, Item, ItemKind, Method};

/// Copy rate assumed for methods that hold the guest, in bytes a second: the slow end of what was measured.
const HELD_RATE: u64 = 700 << 20;
/// What a snapshot stops a guest for, in milliseconds: a constant, and so much a GiB for protecting its pages.
const SNAPSHOT_PAUSE: (u64, u64) = (30, 10);

/// A way to read memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MemoryMethod {
    Snapshot,
    Paused,
    Pmemsave,
    Live,
}

impl MemoryMethod {
    /// Best first.
    const ALL: [Self; 4] = [Self::Snapshot, Self::Paused, Self::Pmemsave, Self::Live];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Paused => "paused",
            Self::Pmemsave => "pmemsave",
            Self::Live => "live",
        }
    }

    pub(super) fn consistency(self) -> Consistency {
        match self {
            Self::Snapshot => Consistency::QuasiInstantaneous,
            Self::Paused | Self::Pmemsave => Consistency::Instantaneous,
            Self::Live => Consistency::Live,
        }
    }

    pub(super) fn holds_guest(self) -> bool {
        matches!(self, Self::Paused | Self::Pmemsave)
    }

    /// Milliseconds that the guest is expected to stand still for, for so many bytes.
    pub(super) fn expected_pause(self, bytes: u64) -> u64 {
        match self {
            Self::Snapshot => SNAPSHOT_PAUSE.0.saturating_add((bytes >> 30).saturating_mul(SNAPSHOT_PAUSE.1)),
            Self::Paused | Self::Pmemsave => bytes.saturating_mul(1000) / HELD_RATE,
            Self::Live => 0,
        }
    }

    fn pause(self, bytes: u64) -> String {
        let millis = self.expected_pause(bytes);
        match self {
            Self::Snapshot => format!("about {millis} ms, then single writes wait"),
            Self::Paused | Self::Pmemsave => format!("about {millis} ms: the whole copy"),
            Self::Live => "none as a whole; QEMU's devices wait for each 4 MiB".to_owned(),
        }
    }

    /// Why it cannot be used on this VM.
    fn unusable(self, survey: &Survey) -> Option<String> {
        if let Err(why) = &survey.map {
            return Some(format!("the memory map cannot be read: {why}"));
        }
        match self {
            Self::Snapshot => no_snapshot(survey),
            Self::Paused => survey
                .answers
                .get("query-dump-guest-memory-capability")
                .is_none()
                .then(|| "this QEMU has no dump-guest-memory".to_owned()),
            Self::Pmemsave | Self::Live => survey
                .place
                .as_ref()
                .map(|place| format!("QEMU writes it into a descriptor only, and none can be passed to it on {place}")),
        }
    }
}

fn no_snapshot(survey: &Survey) -> Option<String> {
    let known = survey.answers.get("query-migrate-capabilities").and_then(Value::as_array).into_iter().flatten();
    let known = known.into_iter().any(|c| c.get("capability").and_then(Value::as_str) == Some("background-snapshot"));
    if !known {
        return Some("this QEMU has no background-snapshot (needs 6.0)".to_owned());
    }
    if let Some(why) = survey.blockers.first() {
        return Some(format!("QEMU refuses migrations: {why}"));
    }
    let status = survey.answers.get("query-migrate").and_then(|m| m.get("status")).and_then(Value::as_str);
    if let Some(
        status @ ("setup" | "active" | "device" | "postcopy-active" | "postcopy-paused" | "pre-switchover"
        | "wait-unplug"),
    ) = status
    {
        return Some(format!("another migration is under way ({status})"));
    }
    // Before 9.0 a background snapshot starts the guest at its end, whatever it was before.
    if !survey.running && survey.version < (9, 0, 0) {
        return Some("the guest is stopped, and this QEMU (before 9.0) would start it".to_owned());
    }
    None
}

/// The method asked for, or the best that fits.
pub(super) fn choose(survey: &Survey, how: &How) -> Result<MemoryMethod, BackendError> {
    let Some(name) = &how.memory_method else { return first(survey, how, &[]) };
    let names = MemoryMethod::ALL.map(MemoryMethod::name).join(", ");
    let method = MemoryMethod::ALL.into_iter().find(|method| method.name() == name);
    let method = method.ok_or_else(|| {
        BackendError::caller("choose a memory method", name, "QEMU has no such method")
            .advise(format!("choose one of {names}"))
    })?;
    match refusal(survey, how, method) {
        None => Ok(method),
        Some(why) => Err(BackendError::unsupported(format!("take memory by `{name}`"), &survey.name, why)),
    }
}

/// The next best, after QEMU itself has refused the snapshot.
pub(super) fn without_snapshot(
    survey: &Survey,
    how: &How,
    refused: &BackendError,
) -> Result<MemoryMethod, BackendError> {
    first(survey, how, &[(MemoryMethod::Snapshot, refused.why.clone())])
}

fn first(survey: &Survey, how: &How, refused: &[(MemoryMethod, String)]) -> Result<MemoryMethod, BackendError> {
    let mut reasons = Vec::new();
    // A live copy is of no instant: it is taken only when it is asked for.
    for method in [MemoryMethod::Snapshot, MemoryMethod::Paused, MemoryMethod::Pmemsave] {
        let known = refused.iter().find(|(m, _)| *m == method).map(|(_, why)| why.clone());
        match known.or_else(|| refusal(survey, how, method)) {
            None => return Ok(method),
            Some(why) => reasons.push(format!("{}: {why}", method.name())),
        }
    }
    Err(BackendError::unsupported("choose a memory method", &survey.name, reasons.join("; "))
        .advise("allow a longer pause (--max-pause), or name a method (--memory-method live is of no single instant)"))
}

fn refusal(survey: &Survey, how: &How, method: MemoryMethod) -> Option<String> {
    if let Some(why) = method.unusable(survey) {
        return Some(why);
    }
    if method.consistency() > how.require {
        return Some(format!("it is {}, and {} is required", method.consistency().name(), how.require.name()));
    }
    // A guest that stands still already does not notice.
    let pause = method.expected_pause(survey.memory().unwrap_or(0));
    match how.max_pause {
        Some(max) if survey.running && u128::from(pause) > max.as_millis() => {
            Some(format!("it is expected to stop the guest for {pause} ms, and {} ms are allowed", max.as_millis()))
        }
        _ => None,
    }
}

/// What can be captured.
pub(super) fn items(survey: &Survey) -> Vec<Item> {
    let memory = survey.memory().unwrap_or(0);
    let method = |m: MemoryMethod| Method {
        name: m.name().to_owned(),
        consistency: m.consistency(),
        pause: m.pause(memory),
        holds_guest: m.holds_guest(),
        unusable: m.unusable(survey),
    };
    let mut items = vec![Item {
        kind: ItemKind::Memory,
        name: "memory".to_owned(),
        len: survey.map.as_ref().ok().map(|map| map.len),
        source: survey.main_memory.join(", "),
        resumable: false,
        methods: MemoryMethod::ALL.map(method).to_vec(),
        file: None,
    }];
    for disk in &survey.disks {
        items.push(Item {
            kind: ItemKind::Disk,
            name: disk.name.clone(),
            len: Some(disk.size),
            source: disk_source(disk),
            resumable: false,
            methods: vec![disk_method(disk.read_only)],
            file: None,
        });
    }
    for disk in survey.disks.iter().filter(|_| !survey.elsewhere) {
        if let Some(path) = disk.reachable() {
            items.push(Item {
                kind: ItemKind::Container,
                name: format!("{}-container", disk.name),
                len: path.metadata().ok().map(|meta| meta.len()),
                source: path.display().to_string(),
                resumable: false,
                methods: vec![Method {
                    name: "copy".to_owned(),
                    consistency: if survey.running { Consistency::Live } else { Consistency::Instantaneous },
                    pause: "none".to_owned(),
                    holds_guest: false,
                    unusable: None,
                }],
                file: None,
            });
        }
    }
    items.push(Item {
        kind: ItemKind::Config,
        name: "config".to_owned(),
        len: None,
        source: "QMP".to_owned(),
        resumable: false,
        methods: vec![Method {
            name: "query".to_owned(),
            consistency: Consistency::Live,
            pause: "none".to_owned(),
            holds_guest: false,
            unusable: None,
        }],
        file: None,
    });
    items
}

/// The file, its format, what it builds on, and the node that QEMU calls it.
fn disk_source(disk: &DiskFound) -> String {
    let chain = disk.backing.iter().fold(String::new(), |chain, file| chain + " on " + file);
    let read_only = if disk.read_only { ", read-only" } else { "" };
    format!("{} ({}){chain}, node {}{read_only}", disk.file, disk.format, disk.node)
}

fn disk_method(read_only: bool) -> Method {
    Method {
        name: if read_only { "export" } else { "fleece" }.to_owned(),
        consistency: if read_only { Consistency::Instantaneous } else { Consistency::QuasiInstantaneous },
        pause: "with memory: none of its own".to_owned(),
        holds_guest: false,
        unusable: None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Map, json};

    use super::*;
    use crate::qemu::flatview::{MemoryMap, Range};

    /// A VM of 4 GiB as this QEMU would tell of it.
    fn survey(version: (u32, u32, u32), running: bool, migrate: &Value) -> Survey {
        let mut answers = Map::new();
        answers.insert("query-migrate-capabilities".to_owned(), json!([{ "capability": "background-snapshot" }]));
        answers.insert("query-dump-guest-memory-capability".to_owned(), json!({ "formats": ["elf"] }));
        answers.insert("query-memory-size-summary".to_owned(), json!({ "base-memory": 4u64 << 30 }));
        answers.insert("query-migrate".to_owned(), migrate.clone());
        let blockers = migrate.get("blocked-reasons").and_then(|list| serde_json::from_value(list.clone()).ok());
        let ram = Range { at: 0, len: 4 << 30, kind: "ram".to_owned(), name: "pc.ram".to_owned(), offset: 0 };
        Survey {
            answers,
            name: "vm".to_owned(),
            state: if running { "running" } else { "paused" }.to_owned(),
            running,
            main_memory: vec!["pc.ram".to_owned()],
            map: Ok(MemoryMap { ranges: vec![ram], left_out: Vec::new(), len: 4 << 30 }),
            disks: Vec::new(),
            cpu_threads: Vec::new(),
            blockers: blockers.unwrap_or_default(),
            encrypted: None,
            clocks: None,
            version,
            package: String::new(),
            machine: None,
            agent: String::new(),
            place: None,
            elsewhere: false,
            of_the_way: Vec::new(),
        }
    }

    fn how() -> How {
        How {
            memory_method: None,
            require: Consistency::Live,
            max_pause: None,
            scratch: "/".into(),
            scratch_there: None,
            holder: String::new(),
            run: "x".to_owned(),
            start_at: std::collections::BTreeMap::new(),
            begun_by: std::collections::BTreeMap::new(),
            options: std::collections::BTreeMap::new(),
            since: std::collections::BTreeMap::new(),
        }
    }

    #[test]
    fn the_best_method_that_fits_is_chosen() {
        let free = json!({});
        assert_eq!(choose(&survey((10, 0, 2), true, &free), &how()).unwrap(), MemoryMethod::Snapshot);
        // Before 9.0 a snapshot would start a guest that was found stopped.
        assert_eq!(choose(&survey((7, 2, 0), false, &free), &how()).unwrap(), MemoryMethod::Paused);
        assert_eq!(choose(&survey((9, 0, 0), false, &free), &how()).unwrap(), MemoryMethod::Snapshot);
        let stopped = How { require: Consistency::Instantaneous, ..how() };
        assert_eq!(choose(&survey((10, 0, 2), true, &free), &stopped).unwrap(), MemoryMethod::Paused);
    }

    #[test]
    fn a_migration_blocker_is_named_and_the_next_method_taken() {
        let vfio = json!({ "blocked-reasons": ["VFIO migration is not supported in kernel"] });
        let blocked = survey((10, 0, 2), true, &vfio);
        assert_eq!(choose(&blocked, &how()).unwrap(), MemoryMethod::Paused);
        assert!(blocked.warnings().iter().any(|warning| warning.contains("VFIO")));
        let asked = How { memory_method: Some("snapshot".to_owned()), ..how() };
        assert!(choose(&blocked, &asked).unwrap_err().why.contains("VFIO"));
        // A dump would stop the guest for seconds, and that was not allowed.
        let short = How { max_pause: Some(Duration::from_millis(500)), ..how() };
        let refused = choose(&blocked, &short).unwrap_err();
        assert!(refused.why.contains("VFIO") && refused.why.contains("500 ms are allowed"), "{refused}");
        let under_way = survey((10, 0, 2), true, &json!({ "status": "active" }));
        assert_eq!(choose(&under_way, &how()).unwrap(), MemoryMethod::Paused);
    }

    #[test]
    fn an_encrypted_guest_is_named_before_anything_starts() {
        let encrypted = Survey { encrypted: Some("sev-snp-guest".to_owned()), ..survey((10, 0, 2), true, &json!({})) };
        assert!(encrypted.warnings().iter().any(|warning| warning.contains("sev-snp-guest")));
    }
}
