//! What can be taken of a domain and how, and what that would do to it.

use super::config::DiskConfig;
use super::survey::{Survey, Tool};
use super::undo::PREFIX;
use super::volumes::{self, Place, Volume};
use crate::{BackendError, Consistency, How, Item, ItemKind, Method, Plan, PlannedItem};

/// Bytes a second that are expected of what holds the guest: a network of a gigabit.
const HELD_RATE: u64 = 100_000_000;
/// A core has its tables and contexts beside the pages: 24 bytes a page at most, and this.
const CORE_EXTRA: u64 = 1 << 20;

/// How one item is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Way {
    /// `xl dump-core`, the guest held or not.
    Core { live: bool },
    /// A snapshot of a logical volume, called so and so long.
    Snapshot { volume: Volume, name: String, bytes: u64 },
    /// Read while the guest is held.
    Held { path: String, len: u64 },
    /// What was told already.
    Told,
}

impl Way {
    /// As the manifest names it.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Core { live: true } => "live",
            Self::Core { live: false } | Self::Held { .. } => "paused",
            Self::Snapshot { .. } => "lvm-snapshot",
            Self::Told => "query",
        }
    }

    pub(super) fn holds(&self) -> bool {
        matches!(self, Self::Core { live: false } | Self::Held { .. })
    }

    pub(super) fn consistency(&self, runs: bool) -> Consistency {
        match self {
            Self::Core { live: true } if runs => Consistency::Live,
            Self::Snapshot { .. } if runs => Consistency::QuasiInstantaneous,
            Self::Told => Consistency::Live,
            _ => Consistency::Instantaneous,
        }
    }
}

/// The disks that are there, each with a name that is safe to use.
pub(super) fn disks(survey: &Survey) -> Vec<(String, &DiskConfig, &Place)> {
    let mut named: Vec<(String, &DiskConfig, &Place)> = Vec::new();
    for (number, (disk, place)) in survey.domain.disks.iter().zip(&survey.places).enumerate() {
        if disk.removable && disk.path.is_empty() {
            continue;
        }
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let fits = (1..=16).contains(&disk.vdev.len()) && disk.vdev.chars().all(plain);
        let twice = named.iter().any(|(name, ..)| *name == disk.vdev);
        let reserved = matches!(disk.vdev.as_str(), "memory" | "config");
        let name = if fits && !twice && !reserved { disk.vdev.clone() } else { format!("disk-{number}") };
        named.push((name, disk, place));
    }
    named
}

/// Milliseconds to copy so many bytes.
fn millis(bytes: u64) -> u64 {
    bytes.saturating_mul(1000) / HELD_RATE
}

fn method(way: &Way, runs: bool, bytes: u64) -> Method {
    let pause = match way {
        _ if !runs => "none: it stands still already".to_owned(),
        Way::Core { live: true } | Way::Told => "none".to_owned(),
        Way::Snapshot { .. } => "about 1 s for the snapshots of all volumes".to_owned(),
        Way::Core { .. } | Way::Held { .. } => format!("about {} ms: the whole copy, at 100 MB/s", millis(bytes)),
    };
    Method {
        name: way.name().to_owned(),
        consistency: way.consistency(runs),
        pause,
        holds_guest: way.holds(),
        unusable: None,
    }
}

/// What can be captured.
pub(super) fn items(survey: &Survey) -> Vec<Item> {
    let (runs, memory) = (survey.runs(), survey.domain.memory.unwrap_or(0));
    let core = |live| method(&Way::Core { live }, runs, memory);
    let mut items = vec![Item {
        kind: ItemKind::Memory,
        name: "memory".to_owned(),
        // Where its tables end is only known once Xen tells.
        len: survey.domain.memory,
        source: format!("domain {}", survey.domain.id),
        resumable: false,
        file: None,
        methods: vec![core(false), core(true)],
    }];
    for (name, disk, place) in disks(survey) {
        let bytes = place.len().unwrap_or(0);
        let held = method(&Way::Held { path: String::new(), len: 0 }, runs, bytes);
        let methods = match place {
            Place::Volume(volume) => {
                vec![method(&Way::Snapshot { volume: volume.clone(), name: String::new(), bytes: 0 }, runs, bytes)]
            }
            Place::Device(_, why) => vec![Method { pause: format!("{} ({why})", held.pause), ..held }],
            Place::File(..) => vec![held],
            Place::Unusable(why) => vec![Method { unusable: Some(why.clone()), ..held }],
        };
        let (source, resumable) = (disk.path.clone(), false);
        items.push(Item { kind: ItemKind::Disk, name, len: place.len(), source, resumable, file: None, methods });
    }
    items.push(Item {
        kind: ItemKind::Config,
        name: "config".to_owned(),
        len: None,
        source: format!("{} list -l", survey.dom0.tool.name()),
        resumable: false,
        file: None,
        methods: vec![method(&Way::Told, runs, 0)],
    });
    items
}

/// How each of these items is taken. Refuses what cannot be, as far as the survey tells.
pub(super) fn ways(survey: &Survey, items: &[Item], how: &How) -> Result<Vec<Way>, BackendError> {
    let disks = disks(survey);
    let mut ways = Vec::new();
    for item in items {
        ways.push(match item.kind {
            ItemKind::Memory => Way::Core { live: live(how)? },
            ItemKind::Config => Way::Told,
            ItemKind::Container => return Err(unknown(item)),
            ItemKind::Disk => {
                let found = disks.iter().find(|(name, ..)| *name == item.name);
                let (_, disk, place) = found.ok_or_else(|| unknown(item))?;
                match place {
                    Place::Volume(volume) => {
                        let name = format!("{PREFIX}{}-{}", how.run, item.name);
                        Way::Snapshot { volume: volume.clone(), name, bytes: 0 }
                    }
                    Place::Device(len, _) | Place::File(len, _) => Way::Held { path: disk.path.clone(), len: *len },
                    Place::Unusable(why) => {
                        return Err(BackendError::unsupported("take the disk", &item.name, why)
                            .advise("leave it out (--disk NAME for the others)"));
                    }
                }
            }
        });
    }
    size_snapshots(&mut ways)?;
    check(survey, items, &ways, how)?;
    Ok(ways)
}

fn unknown(item: &Item) -> BackendError {
    BackendError::caller("capture", &item.name, "the domain has no such item")
}

fn live(how: &How) -> Result<bool, BackendError> {
    match how.memory_method.as_deref() {
        None | Some("paused") => Ok(false),
        Some("live") => Ok(true),
        Some(other) => Err(BackendError::caller("choose a method", "memory", format!("Xen has no method `{other}`"))
            .advise("it has: paused, live")),
    }
}

fn size_snapshots(ways: &mut [Way]) -> Result<(), BackendError> {
    let volumes: Vec<Volume> = ways
        .iter()
        .filter_map(|way| if let Way::Snapshot { volume, .. } = way { Some(volume.clone()) } else { None })
        .collect();
    let mut sizes = volumes::snapshot_sizes(&volumes.iter().collect::<Vec<_>>())?.into_iter();
    for way in ways {
        if let Way::Snapshot { bytes, .. } = way {
            *bytes = sizes.next().unwrap_or(0);
        }
    }
    Ok(())
}

/// Bytes that hold the guest while they are copied.
fn held_bytes(survey: &Survey, ways: &[Way]) -> u64 {
    let bytes = |way: &Way| match way {
        Way::Core { live: false } => survey.domain.memory.unwrap_or(0),
        Way::Held { len, .. } => *len,
        _ => 0,
    };
    ways.iter().map(bytes).fold(0, u64::saturating_add)
}

fn check(survey: &Survey, items: &[Item], ways: &[Way], how: &How) -> Result<(), BackendError> {
    for (item, way) in items.iter().zip(ways) {
        let has = way.consistency(survey.runs());
        if has > how.require && item.kind != ItemKind::Config {
            let why = format!("it would be {}, and {} is required", has.name(), how.require.name());
            return Err(
                BackendError::unsupported("take an item", &item.name, why).advise("leave it out, or require less")
            );
        }
    }
    let pause = u128::from(millis(held_bytes(survey, ways)));
    match how.max_pause {
        Some(max) if survey.runs() && pause > max.as_millis() => {
            let why =
                format!("it is expected to stop the guest for {pause} ms, and {} ms are allowed", max.as_millis());
            Err(BackendError::unsupported("keep the pause short", &survey.domain.name, why)
                .advise("take memory with --memory-method live, or only disks that are logical volumes"))
        }
        _ => Ok(()),
    }
}

/// What a capture would do, command by command.
pub(super) fn make(survey: &Survey, items: &[Item], how: &How) -> Result<Plan, BackendError> {
    let ways = ways(survey, items, how)?;
    let planned = items.iter().zip(&ways).map(|(item, way)| {
        let bytes = match way {
            Way::Core { .. } => core_bytes(survey),
            _ => item.len.unwrap_or(0),
        };
        let sparse = disks(survey).into_iter().find(|(name, ..)| *name == item.name).map(|(.., place)| place.clone());
        let allocated = match sparse {
            Some(Place::File(_, allocated)) => allocated,
            _ => bytes / 2,
        };
        let (item, method, consistency) = (item.name.clone(), way.name().to_owned(), way.consistency(survey.runs()));
        PlannedItem { item, method, consistency, bytes, allocated }
    });
    let stops = survey.runs() && ways.iter().any(needs_stop);
    let pause = match held_bytes(survey, &ways) {
        _ if !survey.runs() => format!("none: the guest is {} and stays so", survey.state.words()),
        _ if !stops => "none".to_owned(),
        0 => "about 1 s".to_owned(),
        held => format!("about {} s: {held} bytes are copied meanwhile, at 100 MB/s", millis(held) / 1000 + 1),
    };
    let mut warnings = survey.warnings();
    if stops && ways.iter().any(|way| matches!(way, Way::Held { .. })) {
        warnings.push("a disk is read while the guest stands still: the longer, the larger it is".to_owned());
    }
    for way in &ways {
        if let Way::Snapshot { volume, bytes, .. } = way
            && *bytes < volume.len
        {
            let (group, name) = (&volume.group, &volume.name);
            warnings.push(format!("{group} has room for a snapshot of {bytes} bytes of {name}; if the guest writes more meanwhile, that disk fails"));
        }
    }
    Ok(Plan { items: planned.collect(), pause, commands: commands(survey, &ways, stops), scratch_bytes: 0, warnings })
}

/// Bytes of a core at most.
pub(super) fn core_bytes(survey: &Survey) -> u64 {
    let memory = survey.domain.memory.unwrap_or(0);
    memory.saturating_add(memory / 4096 * 24).saturating_add(CORE_EXTRA)
}

/// Only a live dump, and what was told, need no instant.
pub(super) fn needs_stop(way: &Way) -> bool {
    !matches!(way, Way::Core { live: true } | Way::Told)
}

fn commands(survey: &Survey, ways: &[Way], stops: bool) -> Vec<String> {
    let (tool, id) = (survey.dom0.tool.name(), survey.domain.id);
    let mut list = vec![format!("ln -s HOLDER /run/{PREFIX}{}: mark the domain as taken", survey.domain.uuid)];
    let held = ways.iter().any(needs_stop);
    if held {
        list.push("a watchdog on dom0: undoes all of the following if this program dies".to_owned());
    }
    if stops {
        list.push(format!("{tool} pause {id}: the instant begins"));
    }
    for way in ways {
        if let Way::Snapshot { volume, name, bytes } = way {
            list.push(format!("lvcreate -A n -s -L {bytes}b -n {name} {}/{}", volume.group, volume.name));
        }
    }
    for way in ways {
        match way {
            Way::Core { .. } if survey.dom0.tool == Tool::Xl => {
                list.push(format!("xl dump-core {id} /proc/self/fd/3: into a pipe, nothing on dom0's disk"));
            }
            Way::Core { .. } => list.push(format!("xm dump-core -L {id}: into a FIFO in /run")),
            Way::Held { path, .. } => list.push(format!("cat {}", path.escape_debug())),
            Way::Snapshot { .. } | Way::Told => {}
        }
    }
    if stops {
        list.push(format!("{tool} unpause {id}: the guest runs on"));
    }
    for way in ways {
        if let Way::Snapshot { volume, name, .. } = way {
            list.push(format!("cat /dev/{}/{name}, then lvremove -f -A n {}/{name}", volume.group, volume.group));
        }
    }
    list.push("rm of the mark".to_owned());
    list
}
