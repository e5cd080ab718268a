//! What a responder asks for, and what follows from it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use impound_backends::{Access, Backend, BackendError, Capture, Consistency, How, Item, ItemKind, Plan, Uri};
use jiff::Timestamp;

use crate::case::ingest::{Digest, Format, IngestOptions, ResumePoint, Zstd};
use crate::case::{Case, CaseError, Draft};

/// Everything that is asked for.
#[derive(Debug)]
pub struct Request {
    /// The target.
    pub uri: Uri,
    /// How it is reached; its log is that of the run.
    pub access: Access,
    /// Where the exhibits go.
    pub case: Case,
    /// Who takes it.
    pub who: String,
    /// How this program was built.
    pub build: String,
    /// What to take.
    pub wanted: Wanted,
    /// The memory method asked for by name.
    pub memory_method: Option<String>,
    /// The worst class of consistency to accept.
    pub require: Consistency,
    /// The longest pause to accept.
    pub max_pause: Option<Duration>,
    /// Where overlays go, on the hypervisor's machine; the case's own folder unless said, or `/var/tmp` if that is another.
    pub scratch: Option<PathBuf>,
    /// How to store it.
    pub store: Store,
    /// Number of this piece of evidence.
    pub evidence_number: Option<String>,
    /// Free text for the manifest.
    pub notes: Option<String>,
    /// This program, to stand guard while the guest stands still.
    pub guardian: Option<PathBuf>,
    /// Go on with unfinished drafts of the same items, and take nothing else if there are any.
    pub resume: bool,
    /// Earlier exhibits of the same disks: only what changed since is fetched.
    pub since: Vec<PathBuf>,
    /// What only some backends know, by name.
    pub options: BTreeMap<String, String>,
}

/// Which items. All false, none and empty means: memory, all disks and the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Memory.
    pub memory: bool,
    /// Disks.
    pub disks: Disks,
    /// The configuration.
    pub config: bool,
    /// The files that hold the chosen disks too.
    pub containers: bool,
}

/// Which disks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Disks {
    /// None.
    #[default]
    None,
    /// All.
    All,
    /// These.
    Named(Vec<String>),
}

/// How to store an image.
#[derive(Debug, Clone)]
pub struct Store {
    /// Form of memory images; disks are raw.
    pub format: Format,
    /// Compress.
    pub compress: Option<Zstd>,
    /// Length of a block of the hash map in bytes.
    pub block: u64,
    /// Digests besides SHA-256.
    pub digests: BTreeSet<Digest>,
    /// Space to be left free, in bytes.
    pub min_free: u64,
}

impl Default for Store {
    fn default() -> Self {
        let plain = IngestOptions::default();
        Self {
            format: plain.format,
            compress: plain.compress,
            block: plain.block,
            digests: plain.digests,
            min_free: plain.min_free,
        }
    }
}

/// Picks the wanted items out of what can be captured.
pub fn select(wanted: &Wanted, items: Vec<Item>) -> Result<Vec<Item>, BackendError> {
    let everything = !wanted.memory && !wanted.config && wanted.disks == Disks::None;
    let disk = |name: &str| match &wanted.disks {
        Disks::None => everything,
        Disks::All => true,
        Disks::Named(names) => names.iter().any(|wanted| wanted == name),
    };
    // A file is chosen with the item that needs it.
    let of = |item: &'_ Item| item.file.as_ref().and_then(|file| file.of.clone());
    let chosen = |item: &Item| match item.kind {
        ItemKind::Memory => wanted.memory || everything,
        ItemKind::Config => wanted.config || everything,
        ItemKind::Disk => disk(of(item).as_deref().unwrap_or(&item.name)),
        ItemKind::Container => wanted.containers && disk(item.name.trim_end_matches("-container")),
    };
    if let Disks::Named(names) = &wanted.disks {
        let disks = items.iter().filter(|item| item.kind == ItemKind::Disk && of(item).is_none());
        let known: Vec<_> = disks.map(|item| item.name.as_str()).collect();
        if let Some(missing) = names.iter().find(|name| !known.contains(&name.as_str())) {
            return Err(BackendError::caller("choose the disks", missing, "the VM has no disk of that name")
                .advise(format!("it has: {}", if known.is_empty() { "none".to_owned() } else { known.join(", ") })));
        }
    }
    let memory_there = items.iter().any(|item| item.kind == ItemKind::Memory);
    if wanted.memory && !memory_there {
        return Err(BackendError::unsupported("take memory", "this target", "it has no memory that could be captured")
            .advise("impound show says why"));
    }
    let items: Vec<_> = items.into_iter().filter(chosen).collect();
    if items.is_empty() {
        return Err(BackendError::caller(
            "choose what to take",
            "this target",
            "nothing of what was asked for is there",
        ));
    }
    Ok(items)
}

/// A short id, different for each run.
pub(super) fn run_id() -> String {
    const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let now = Timestamp::now().as_nanosecond().unsigned_abs() ^ (u128::from(std::process::id()) << 64);
    let digest = blake3::hash(&now.to_le_bytes());
    let letter = |byte: &u8| LETTERS.get(usize::from(*byte) % LETTERS.len()).copied().map_or('x', char::from);
    digest.as_bytes().iter().take(8).map(letter).collect()
}

impl Request {
    pub(super) fn how(&self, run: &str, start_at: BTreeMap<String, u64>, begun_by: BTreeMap<String, String>) -> How {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let holder = format!(
            "impound {} run {run} by {} on {host}, pid {}, since {:.0}, case {}",
            env!("CARGO_PKG_VERSION"),
            self.who,
            std::process::id(),
            Timestamp::now(),
            self.case.info().number
        );
        How {
            memory_method: self.memory_method.clone(),
            require: self.require,
            max_pause: self.max_pause,
            scratch: self.scratch.clone().unwrap_or_else(|| self.case.dir().to_owned()),
            scratch_there: self.scratch.clone(),
            holder,
            run: run.to_owned(),
            start_at,
            begun_by,
            options: self.options.clone(),
            since: BTreeMap::new(),
        }
    }

    /// Does what is asked for belong to one instant? A live copy of memory alone does not, and needs no stop.
    pub(super) fn needs_instant(&self, items: &[Item]) -> bool {
        let live = self.memory_method.as_deref() == Some("live");
        items.iter().any(|item| item.kind == ItemKind::Disk || (item.kind == ItemKind::Memory && !live))
    }

    pub(super) fn ingest_options(
        &self,
        capture: &Capture,
        resume: Option<ResumePoint>,
        form: Option<&'static str>,
        compared: BTreeSet<Digest>,
    ) -> IngestOptions {
        let store = &self.store;
        let memory = capture.item.kind == ItemKind::Memory && capture.item.file.is_none() && form.is_none();
        IngestOptions {
            stem: capture.item.name.clone(),
            format: if memory { store.format } else { Format::Raw },
            own_form: form,
            compress: store.compress.filter(|_| capture.item.kind != ItemKind::Config),
            block: store.block,
            digests: store.digests.clone(),
            compared,
            min_free: store.min_free,
            resume,
            keep_draft: capture.item.resumable,
            ..IngestOptions::default()
        }
    }

    /// An unfinished draft of this item, with the place where it goes on; without one if the run that began it had come no further
    /// than to `slow` preparations.
    pub(super) fn unfinished(
        &self,
        item: &Item,
        slow: bool,
    ) -> Result<Option<(Draft, Option<ResumePoint>)>, CaseError> {
        for name in self.case.unfinished()? {
            let Ok(draft) = Draft::reopen(&self.case, &name) else { continue };
            match ResumePoint::find(draft.dir())? {
                Some(point) if point.head.item == item.name && point.head.source == item.source => {
                    return Ok(Some((draft, Some(point))));
                }
                None if slow && draft.is_empty() && draft.is_for(&item.name, &item.source) => {
                    return Ok(Some((draft, None)));
                }
                _ => {}
            }
        }
        Ok(None)
    }

    /// An option that the backend would pass over is refused: whoever gave it relies on it.
    pub(super) fn check_options(&self, backend: &dyn Backend) -> Result<(), BackendError> {
        let known = backend.options();
        let since = (!self.since.is_empty()).then_some("since");
        let mut asked = self.options.keys().map(String::as_str).chain(since);
        match asked.find(|name| !known.contains(name)) {
            None => Ok(()),
            Some(name) => {
                let why = format!("`{}:` knows no --{name}", backend.scheme());
                Err(BackendError::caller("choose how to take it", self.uri.to_string(), why))
            }
        }
    }

    /// Refuses to begin what cannot end well.
    pub(super) fn check_space(&self, plan: &Plan) -> Result<(), CaseError> {
        let need = plan.items.iter().map(|item| item.allocated).fold(self.store.min_free, u64::saturating_add);
        let dir = self.case.dir();
        let state = rustix::fs::statvfs(dir).map_err(|e| CaseError::io("look for free space", dir)(e.into()))?;
        let free = state.f_bavail.saturating_mul(state.f_frsize);
        if free < need {
            let (free, need) = (crate::report::human_bytes(free), crate::report::human_bytes(need));
            return Err(CaseError::caller(
                "begin the capture",
                dir,
                format!(
                    "{free} are free and at least {need} are needed; free space, or take less (--memory, --disk NAME), or --compress zstd into a larger file system"
                ),
            ));
        }
        Ok(())
    }
}
