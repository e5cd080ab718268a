//! What a capture would do, command by command, without doing it.

use super::methods::{self, MemoryMethod};
use super::quiesce::QUIESCE;
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
    let quiesce = how.options.contains_key(QUIESCE);
    if quiesce {
        quiet(survey, freezes(survey, memory, &disks))?;
    }
    Ok(Plan {
        items: planned,
        pause,
        commands: commands(survey, memory, &disks, quiesce),
        scratch_bytes: writable.iter().map(|disk| disk.size).sum(),
        warnings: survey.warnings(),
    })
}

/// Is there an instant to be quiet at, and a guest that hears?
fn quiet(survey: &Survey, freezes: bool) -> Result<(), BackendError> {
    let why = if !survey.running {
        format!("the guest is {}, so its agent cannot answer", survey.state)
    } else if !freezes {
        "nothing of one instant is taken".to_owned()
    } else {
        return Ok(());
    };
    Err(BackendError::unsupported("freeze the guest's file systems", &survey.name, why).advise("leave --quiesce out"))
}

/// Is the guest stopped for the instant?
fn freezes(survey: &Survey, memory: Option<MemoryMethod>, disks: &[&DiskFound]) -> bool {
    survey.running && (!disks.is_empty() || memory.is_some_and(|m| m != MemoryMethod::Live))
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

/// The commands that change something, in order, each with what it is for; `sh` is what is done beside the monitor. Tests
/// hold them against a real run's wire log.
fn commands(survey: &Survey, memory: Option<MemoryMethod>, disks: &[&DiskFound], quiesce: bool) -> Vec<String> {
    let place = survey.place.as_deref();
    let mut list = vec!["object-add: mark the VM as taken".to_owned()];
    if !disks.is_empty() {
        list.extend(prepare_disks(place, disks));
    }
    list.extend(memory.into_iter().flat_map(|method| prepare_memory(place, method)));
    let freezes = freezes(survey, memory, disks);
    let [freeze, thaw] = super::quiesce::commands();
    list.extend(quiesce.then_some(freeze));
    if freezes {
        list.push("stop: the instant begins".to_owned());
    }
    let writable: Vec<_> = disks.iter().filter(|disk| !disk.read_only).map(|disk| disk.name.as_str()).collect();
    if !writable.is_empty() {
        list.push(format!("transaction: blockdev-backup, sync none, of {}", writable.join(", ")));
    }
    let begun = memory.map(|method| match (method, place) {
        (MemoryMethod::Snapshot, None) => "migrate: into the pipe",
        (MemoryMethod::Snapshot, Some(_)) => "migrate: to the port",
        (MemoryMethod::Paused, None) => "dump-guest-memory: into the pipe",
        (MemoryMethod::Paused, Some(_)) if survey.is_behind_libvirt() => "virDomainCoreDumpWithFormat: into the file",
        (MemoryMethod::Paused, Some(_)) => "dump-guest-memory: into the file",
        (MemoryMethod::Pmemsave | MemoryMethod::Live, _) => "pmemsave: into the pipe, range by range",
    });
    list.extend(begun.map(str::to_owned));
    if freezes {
        list.push("cont: the guest runs on".to_owned());
    }
    list.extend(quiesce.then_some(thaw));
    list.push("then all of that is taken away, last first".to_owned());
    list
}

fn prepare_disks(place: Option<&str>, disks: &[&DiskFound]) -> Vec<String> {
    let mut list = vec![match place {
        None => "getfd: pass a listening socket".to_owned(),
        Some(place) => format!("sh: make a folder on {place} for overlays and a socket"),
    }];
    list.push("nbd-server-start: serve disks over it".to_owned());
    for disk in disks {
        let name = &disk.name;
        if !disk.read_only {
            if place.is_some() {
                list.push(format!("blockdev-create: make a file for what the guest overwrites on {name}"));
                list.push("job-dismiss: forget the making".to_owned());
            } else {
                list.push(format!("add-fd: pass an unnamed file for what the guest overwrites on {name}"));
            }
            list.push("blockdev-add: open that file".to_owned());
            let size = disk.size.next_multiple_of(512);
            list.push(format!("blockdev-create: format it as an overlay of {size} bytes"));
            list.push("job-dismiss: forget the formatting".to_owned());
            list.push(format!("blockdev-add: lay it over {}", disk.node));
        }
        list.push(format!("block-export-add: serve {name}, read-only"));
    }
    if place.is_some() {
        list.push("sh: take the names of these files and of the folder away; QEMU holds them open".to_owned());
    }
    list
}

fn prepare_memory(place: Option<&str>, method: MemoryMethod) -> Vec<String> {
    let mut list = Vec::new();
    if method == MemoryMethod::Snapshot {
        list.push("migrate-set-capabilities: background-snapshot on".to_owned());
        list.push("migrate-set-parameters: no limit of bandwidth".to_owned());
    }
    list.push(match (method, place) {
        (MemoryMethod::Pmemsave | MemoryMethod::Live, _) => "add-fd: pass a pipe for memory".to_owned(),
        (_, None) => "getfd: pass a pipe for memory".to_owned(),
        (MemoryMethod::Snapshot, Some(place)) => format!("sh: open a port on the loopback of {place} that leads here"),
        (MemoryMethod::Paused, Some(place)) => {
            format!("sh: make a folder on {place} for a file of the size of memory, taken away once it is read")
        }
    });
    list
}
