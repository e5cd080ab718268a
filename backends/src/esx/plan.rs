//! Which way a VM is taken, and what stands against it.

use super::command;
use super::items::{self, READ, SNAPSHOT, SUSPEND, Source, Sourced};
use super::snapshot::{is_ours, name_of};
use super::target::EsxTarget;
use crate::{BackendError, Consistency, How, Item, ItemKind};

/// The option that leaves the snapshot.
pub(super) const KEEP: &str = "keep-snapshot";
/// Space beyond the memory itself that a snapshot needs at least: its state, and a delta that grows. In bytes.
const BESIDE_MEMORY: u64 = 64 << 20;

/// Which way a VM is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Snapshot { memory: bool },
    Suspend,
    Read,
}

impl Way {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Snapshot { .. } => SNAPSHOT,
            Self::Suspend => SUSPEND,
            Self::Read => READ,
        }
    }

    pub(super) fn class(self, item: &Item, runs: bool) -> Consistency {
        match self {
            Self::Snapshot { .. } if item.kind != ItemKind::Config => Consistency::QuasiInstantaneous,
            Self::Snapshot { .. } | Self::Read if runs => Consistency::Live,
            _ => Consistency::Instantaneous,
        }
    }
}

impl EsxTarget {
    /// Which way these items are taken; refuses what cannot be done.
    pub(super) fn way(&self, chosen: &[Sourced], how: &How) -> Result<Way, BackendError> {
        let refuse = |why: &str| BackendError::unsupported("choose a method", &self.survey.vm.name, why);
        let of_guest = chosen.iter().filter(|one| one.item.kind != ItemKind::Config);
        let (refused, guest): (Vec<_>, Vec<_>) = of_guest.partition(|one| matches!(one.source, Source::Refused(_)));
        if let (Some(Sourced { source: Source::Refused(why), .. }), true) =
            (refused.first(), refused.len() == chosen.len())
        {
            return Err(refuse(why));
        }
        let memory = guest.iter().any(|one| one.item.kind == ItemKind::Memory);
        let way = match (how.memory_method.as_deref(), self.survey.runs(), guest.is_empty()) {
            (None | Some(SNAPSHOT | SUSPEND), true, true) | (None | Some(READ), false, _) => Way::Read,
            (None | Some(SNAPSHOT), true, false) => Way::Snapshot { memory },
            (Some(SUSPEND), true, false) => Way::Suspend,
            (Some(READ), true, _) => return Err(refuse("it runs, so its files are written and locked")),
            (Some(SNAPSHOT | SUSPEND), false, _) => {
                let why = format!("it is {}, so nothing has to be done to it", self.survey.state.to_lowercase());
                return Err(refuse(&why).advise("leave the method away, or name `read`"));
            }
            (Some(other), ..) => {
                let known = BackendError::caller("choose a method", other, "ESXi has no memory method of that name");
                return Err(known.advise("known are snapshot, suspend and read"));
            }
        };
        let class = guest.first().map_or(Consistency::Instantaneous, |one| way.class(&one.item, self.survey.runs()));
        if class > how.require {
            let why = format!("{} is {}, not {}", way.name(), class.name(), how.require.name());
            return Err(refuse(&why).advise("suspend it: --memory-method suspend"));
        }
        if way == Way::Suspend && how.max_pause.is_some() {
            return Err(refuse(
                "a suspended VM stands still until all is copied, and nobody can promise how long that takes",
            ));
        }
        Ok(way)
    }

    /// The chosen items with their sources.
    pub(super) fn chosen(&self, items: &[Item]) -> Result<Vec<Sourced>, BackendError> {
        let all = items::all(&self.survey);
        let find = |item: &Item| {
            all.iter().find(|one| one.item.name == item.name && one.item.kind == item.kind).cloned().ok_or_else(|| {
                BackendError::caller("choose what to take", &item.name, "the VM has nothing of that name now")
            })
        };
        items.iter().map(find).collect()
    }

    /// A snapshot with memory writes as much as the guest has, into the VM's folder.
    pub(super) fn check_space(&self, way: Way) -> Result<(), BackendError> {
        let memory = if matches!(way, Way::Snapshot { memory: true } | Way::Suspend) {
            self.survey.vm.memory.unwrap_or(0)
        } else {
            0
        };
        if way == Way::Read {
            return Ok(());
        }
        let need = memory.saturating_add(BESIDE_MEMORY);
        match self.survey.volume(&self.survey.working()) {
            Some(volume) if volume.free < need => {
                let why =
                    format!("{} MiB are free on {}, and it needs {} MiB", volume.free >> 20, volume.name, need >> 20);
                Err(BackendError::unsupported(format!("take a {}", way.name()), &self.survey.vm.name, why)
                    .advise("free space there, or take disks only: --disk all"))
            }
            _ => Ok(()),
        }
    }

    /// The commands that change something, in order.
    pub(super) fn acts(&self, way: Way, how: &How) -> Vec<String> {
        let vm = self.survey.vm.id;
        let remove = "vim-cmd vmsvc/snapshot.remove, of that snapshot only".to_owned();
        match way {
            Way::Read => Vec::new(),
            Way::Suspend => vec![command::suspend(vm).to_string(), command::power_on(vm).to_string()],
            Way::Snapshot { memory } => {
                let create = command::create_snapshot(vm, &name_of(&how.run), &how.holder, memory).to_string();
                if how.options.contains_key(KEEP) { vec![create] } else { vec![create, remove] }
            }
        }
    }

    /// Another run has it.
    pub(super) fn check_claim(&self, mine: &str) -> Result<(), BackendError> {
        match self.survey.snapshots.iter().find(|one| is_ours(&one.name) && one.name != mine) {
            None => Ok(()),
            Some(other) => {
                let why = format!("it has the snapshot {}: {}", other.name, other.about.escape_debug());
                Err(BackendError::unsupported("take the VM", &self.survey.vm.name, why)
                    .advise("if that run is over, end it with `impound case recover`; if the snapshot was kept on purpose, remove it first"))
            }
        }
    }
}
