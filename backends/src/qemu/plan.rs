//! What a capture would do, command by command, without doing it.

use super::methods::{self, MemoryMethod};
use super::survey::{DiskFound, Survey};
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
        // The configuration is what was asked, when it was asked: no promise is made for it.
        if consistency > how.require && item.kind != ItemKind::Config {
            let why = format!("it would be {}, and {} is required", consistency.name(), how.require.name());
            return Err(
                BackendError::unsupported("take an item", &item.name, why).advise("leave it out, or require less")
            );
        }
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
        commands: commands(survey, memory, &disks),
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

/// The commands that change something, in order, each with what it is for. `tests/qemu.rs` holds them against a real run's
/// wire log.
fn commands(survey: &Survey, memory: Option<MemoryMethod>, disks: &[&DiskFound]) -> Vec<String> {
    let mut list = vec!["object-add: mark the VM as taken".to_owned()];
    let mut add = |command: &str| list.push(command.to_owned());
    let writable: Vec<_> = disks.iter().filter(|disk| !disk.read_only).collect();
    if !disks.is_empty() {
        add("getfd: pass a listening socket");
        add("nbd-server-start: serve disks over it");
    }
    for disk in disks {
        let name = &disk.name;
        if !disk.read_only {
            add(&format!("add-fd: pass an unnamed file for what the guest overwrites on {name}"));
            add("blockdev-add: open that file");
            add(&format!("blockdev-create: format it as an overlay of {} bytes", disk.size.next_multiple_of(512)));
            add("job-dismiss: forget the formatting");
            add(&format!("blockdev-add: lay it over {}", disk.node));
        }
        add(&format!("block-export-add: serve {name}, read-only"));
    }
    match memory {
        Some(MemoryMethod::Snapshot) => {
            add("migrate-set-capabilities: background-snapshot on");
            add("migrate-set-parameters: no limit of bandwidth");
            add("getfd: pass a pipe for memory");
        }
        Some(MemoryMethod::Paused) => add("getfd: pass a pipe for memory"),
        Some(MemoryMethod::Pmemsave | MemoryMethod::Live) => add("add-fd: pass a pipe for memory"),
        None => {}
    }
    let freezes = survey.running && (!disks.is_empty() || memory.is_some_and(|m| m != MemoryMethod::Live));
    if freezes {
        add("stop: the instant begins");
    }
    if !writable.is_empty() {
        let names: Vec<_> = writable.iter().map(|disk| disk.name.as_str()).collect();
        add(&format!("transaction: blockdev-backup, sync none, of {}", names.join(", ")));
    }
    match memory {
        Some(MemoryMethod::Snapshot) => add("migrate: into the pipe"),
        Some(MemoryMethod::Paused) => add("dump-guest-memory: into the pipe"),
        Some(MemoryMethod::Pmemsave | MemoryMethod::Live) => add("pmemsave: into the pipe, range by range"),
        None => {}
    }
    if freezes {
        add("cont: the guest runs on");
    }
    add("then all of that is taken away, last first");
    list
}
