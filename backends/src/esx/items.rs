//! What can be taken of a VM, and from which file.

use super::files::FileAt;
use super::survey::Survey;
use crate::{Consistency, HostFile, Item, ItemKind, Method};

/// By a snapshot: what was there before it is not written any more.
pub(super) const SNAPSHOT: &str = "snapshot";
/// By suspending: nothing runs until all is copied.
pub(super) const SUSPEND: &str = "suspend";
/// As it lies there: the VM does not run.
pub(super) const READ: &str = "read";

/// What an item is read from.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// The state of a snapshot or of a suspended VM: `.vmsn`, `.vmss`.
    State,
    /// Its memory, if that is a file of its own: `.vmem`.
    Memory,
    /// A file that is there.
    File(FileAt),
    /// Nothing, for this reason.
    Refused(String),
}

/// An item and its source.
#[derive(Debug, Clone)]
pub(super) struct Sourced {
    pub(super) item: Item,
    pub(super) source: Source,
}

/// Everything, memory first.
pub(super) fn all(survey: &Survey) -> Vec<Sourced> {
    let mut all = memory(survey);
    for disk in &survey.disks {
        let refused = disk.refused.clone().or_else(|| {
            let why = format!("it is {}: no snapshot covers it, and its files are locked while the VM runs", disk.mode);
            (disk.independent && survey.runs()).then_some(why)
        });
        let methods = methods(survey, false, refused.as_deref());
        let item = |name: String, part: &super::disks::Part, of: Option<String>| Item {
            kind: ItemKind::Disk,
            name,
            len: Some(part.file.len),
            source: part.file.path.clone(),
            resumable: false,
            methods: methods.clone(),
            file: Some(HostFile { path: part.file.path.clone(), wrapping: part.wrapping.to_owned(), of }),
        };
        if disk.parts.is_empty() || refused.is_some() {
            let (why, methods) = (refused.clone().unwrap_or_default(), methods.clone());
            let (kind, name, source) = (ItemKind::Disk, disk.name.clone(), disk.file.clone());
            let item = Item { kind, name, len: disk.capacity, source, resumable: false, methods, file: None };
            all.push(Sourced { item, source: Source::Refused(why) });
            continue;
        }
        for (number, part) in disk.parts.iter().enumerate() {
            let of = (number > 0).then(|| disk.name.clone());
            all.push(Sourced {
                item: item(part_name(&disk.name, number), part, of),
                source: Source::File(part.file.clone()),
            });
        }
    }
    all.extend(config(survey));
    all
}

/// `disk0`, `disk0.1`, ….
fn part_name(whole: &str, number: usize) -> String {
    if number == 0 { whole.to_owned() } else { format!("{whole}.{number}") }
}

/// The two files of saved memory. What they are called is known once they are there; until then by the VM's name.
fn memory(survey: &Survey) -> Vec<Sourced> {
    if survey.state == "Powered off" {
        return Vec::new();
    }
    let stem = survey.vmx.strip_suffix(".vmx").unwrap_or(&survey.vmx);
    let ending = if survey.runs() { "vmsn" } else { "vmss" };
    let file = |name: &str, ending: &str, len: Option<u64>, of: Option<&str>| Item {
        kind: ItemKind::Memory,
        name: name.to_owned(),
        len,
        source: format!("{} ({ending})", survey.vm.vmx),
        resumable: false,
        methods: methods(survey, true, None),
        file: Some(HostFile {
            path: format!("{stem}-impound.{ending}"),
            wrapping: "vmware".to_owned(),
            of: of.map(str::to_owned),
        }),
    };
    vec![
        Sourced { item: file("memory", ending, None, None), source: Source::State },
        Sourced { item: file("memory.vmem", "vmem", survey.vm.memory, Some("memory")), source: Source::Memory },
    ]
}

/// The VM's own files beside its disks: settings, list of snapshots, firmware variables, log.
fn config(survey: &Survey) -> Vec<Sourced> {
    let (folder, name) = survey.vmx.rsplit_once('/').unwrap_or(("", &survey.vmx));
    let stem = name.strip_suffix(".vmx").unwrap_or(name);
    let names = [name.to_owned(), format!("{stem}.vmsd"), format!("{stem}.nvram"), "vmware.log".to_owned()];
    let paths = names.map(|name| format!("{folder}/{name}"));
    let found = paths.iter().filter_map(|path| survey.files.iter().find(|file| file.path == *path));
    let consistency = if survey.runs() { Consistency::Live } else { Consistency::Instantaneous };
    let method =
        Method { name: READ.to_owned(), consistency, pause: "none".to_owned(), holds_guest: false, unusable: None };
    found
        .enumerate()
        .map(|(number, file)| Sourced {
            item: Item {
                kind: ItemKind::Config,
                name: part_name("config", number),
                len: Some(file.len),
                source: file.path.clone(),
                resumable: false,
                methods: vec![method.clone()],
                file: Some(HostFile {
                    path: file.path.clone(),
                    wrapping: "raw".to_owned(),
                    of: (number > 0).then(|| "config".to_owned()),
                }),
            },
            source: Source::File(file.clone()),
        })
        .collect()
}

fn methods(survey: &Survey, memory: bool, refused: Option<&str>) -> Vec<Method> {
    let method = |name: &str, consistency, pause: &str, holds_guest| Method {
        name: name.to_owned(),
        consistency,
        pause: pause.to_owned(),
        holds_guest,
        unusable: refused.map(str::to_owned),
    };
    if !survey.runs() {
        return vec![method(READ, Consistency::Instantaneous, "none: it does not run", false)];
    }
    let stun = if memory {
        "the host stuns it; vmware.log tells for how long"
    } else {
        "a short stun; vmware.log tells for how long"
    };
    let snapshot = method(SNAPSHOT, Consistency::QuasiInstantaneous, stun, false);
    let suspend = method(SUSPEND, Consistency::Instantaneous, "until all is copied", true);
    vec![snapshot, suspend]
}
