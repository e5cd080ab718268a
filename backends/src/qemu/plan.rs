//! What a capture would do, command by command, without doing it.

use super::methods::{self, MemoryMethod};
use super::survey::Survey;
use crate::{BackendError, Consistency, How, Item, ItemKind, Plan, PlannedItem};

/// Refuses what `prepare` would refuse, as far as the survey tells.
pub(super) fn make(survey: &Survey, items: &[Item], how: &How) -> Result<Plan, BackendError> {
    let wanted = |kind| items.iter().filter(move |item: &&Item| item.kind == kind);
    let memory = match wanted(ItemKind::Memory).next() {
        Some(_) => Some(methods::choose(survey, how)?),
        None => None,
    };
    let disks: Vec<_> = wanted(ItemKind::Disk).filter_map(|i| survey.disks.iter().find(|d| d.name == i.name)).collect();
    let (exports, _) = survey.busy_with();
    if !disks.is_empty() && !exports.is_empty() {
        let why =
            format!("somebody already exports disks over NBD ({}), and QEMU has one server only", exports.join(", "));
        return Err(BackendError::unsupported("capture disks", &survey.name, why)
            .advise("wait for that backup to end, or capture memory alone (--memory)"));
    }
    let mut planned = Vec::new();
    for item in items {
        let (method, consistency) = match (item.kind, memory) {
            (ItemKind::Memory, Some(method)) => (method.name().to_owned(), method.consistency()),
            _ => item.methods.first().map_or((String::new(), Consistency::Live), |m| (m.name.clone(), m.consistency)),
        };
        let (bytes, allocated) = sizes(survey, item);
        planned.push(PlannedItem { item: item.name.clone(), method, consistency, bytes, allocated });
    }
    let bytes = survey.memory().unwrap_or(0);
    let pause = match (survey.running, memory) {
        (false, _) => format!("none: the guest is {} and stays so", survey.state),
        (true, None | Some(MemoryMethod::Live)) if disks.is_empty() => "none".to_owned(),
        (true, Some(method)) => format!("about {} ms", method.expected_pause(bytes).max(10)),
        (true, None) => "about 10 ms".to_owned(),
    };
    let writable: Vec<_> = disks.iter().filter(|disk| !disk.read_only).collect();
    Ok(Plan {
        items: planned,
        pause,
        commands: commands(survey, memory, disks.len(), writable.len()),
        scratch_bytes: writable.iter().map(|disk| disk.size).sum(),
        warnings: survey.warnings(),
    })
}

/// What an item takes in the case: at worst, and for sure. Memory counts as touched to the half, since what a guest
/// never touched takes no space.
fn sizes(survey: &Survey, item: &Item) -> (u64, u64) {
    let len = item.len.unwrap_or(0);
    match item.kind {
        ItemKind::Memory => {
            let memory = survey.map.as_ref().map_or(0, |map| map.ranges.iter().map(|range| range.len).sum());
            (memory, memory / 2)
        }
        ItemKind::Disk => {
            let disk = survey.disks.iter().find(|disk| disk.name == item.name);
            (len, disk.map_or(0, |disk| disk.allocated.min(len)))
        }
        ItemKind::Container | ItemKind::Config => (len, 0),
    }
}

/// The names of the commands that change something, in order. `tests/qemu.rs` holds them against a real run's wire log.
fn commands(survey: &Survey, memory: Option<MemoryMethod>, disks: usize, writable: usize) -> Vec<String> {
    let mut list: Vec<&str> = vec!["object-add"];
    if disks > 0 {
        list.extend(["getfd", "nbd-server-start"]);
        for number in 0..disks {
            if number < writable {
                list.extend(["add-fd", "blockdev-add", "blockdev-create", "job-dismiss", "blockdev-add"]);
            }
            list.push("block-export-add");
        }
    }
    match memory {
        Some(MemoryMethod::Snapshot) => list.extend(["migrate-set-capabilities", "migrate-set-parameters", "getfd"]),
        Some(MemoryMethod::Paused) => list.push("getfd"),
        Some(MemoryMethod::Pmemsave | MemoryMethod::Live) => list.push("add-fd"),
        None => {}
    }
    let freezes = survey.running && (disks > 0 || memory.is_some_and(|m| m != MemoryMethod::Live));
    list.extend(freezes.then_some("stop"));
    list.extend((writable > 0).then_some("transaction"));
    list.extend(memory.map(|method| match method {
        MemoryMethod::Snapshot => "migrate",
        MemoryMethod::Paused => "dump-guest-memory",
        MemoryMethod::Pmemsave | MemoryMethod::Live => "pmemsave (once a chunk)",
    }));
    list.extend(freezes.then_some("cont"));
    let mut list: Vec<String> = list.into_iter().map(ToOwned::to_owned).collect();
    list.push("then everything made is taken away, last first".to_owned());
    list
}
