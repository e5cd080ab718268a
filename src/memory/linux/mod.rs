//! Linux guests: the kernel that was found, and one file for each question.
//!
//! Structures and their members are named as in the kernel's own sources; columns are at least those of Volatility 3's plugins of
//! the same names, so that an examiner finds what they know.

pub mod bash;
pub mod boottime;
pub mod capabilities;
pub mod check_syscall;
mod content;
mod discover;
pub mod elfs;
pub mod envars;
pub mod fbdev;
mod files;
pub mod findings;
pub mod hidden_modules;
pub mod hooks;
pub mod info;
pub mod ip;
pub mod isf;
pub mod kmsg;
pub mod kthreads;
mod landmarks;
mod list;
pub mod lsmod;
pub mod lsof;
pub mod malfind;
pub mod maps;
pub mod module_extract;
mod module_symbols;
mod module_types;
pub mod mountinfo;
pub mod namespaces;
mod object;
mod owners;
pub mod pagecache;
pub mod pidhashtable;
mod place;
pub mod psaux;
pub mod pscallstack;
pub mod pslist;
pub mod psscan;
pub mod pstree;
pub mod settle;
pub mod sockets;
pub mod sockscan;
pub mod strings;
pub mod suspects;
pub mod tables;
mod task;
mod terms;
pub mod tracing;
mod trampoline;
mod vma;
pub mod vmaregexscan;
pub mod vmcoreinfo;
pub mod yarascan;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use jiff::Timestamp;

use super::paging::{Space, Tables};
use super::symbols::btf::{Btf, Id};
use super::symbols::isf::Isf;
use super::symbols::kallsyms::{KERNEL_MAP, Kallsyms};
use super::{MemoryError, Outcome, Physical};
pub use list::Walked;
pub use module_symbols::ModuleSymbol;
pub use object::Object;
pub use place::Place;
pub use task::Task;
pub use terms::{Output, Terms};
use vmcoreinfo::Vmcoreinfo;

/// A kernel that was found, and what is needed to read it. Shared by all threads.
pub struct Kernel {
    /// Its own address space.
    pub space: Space,
    /// Its names.
    pub symbols: Arc<Kallsyms>,
    /// Its types.
    pub types: Arc<Btf>,
    /// Where its image lies.
    pub place: Place,
    /// Physical address of its token table.
    pub symbols_at: u64,
    /// How symbols were found.
    pub symbols_from: &'static str,
    /// How types were found.
    pub types_from: &'static str,
    /// Modules whose types are among them.
    pub typed_modules: usize,
    /// Modules whose types were refused, and why.
    pub refused_types: Vec<(String, String)>,
    /// Its memory changes while it is read.
    pub live: bool,
    note: OnceLock<Option<Vmcoreinfo>>,
    paths: Arc<RwLock<HashMap<(Id, &'static str), object::Path>>>,
    landmarks: landmarks::Seen,
    first_page: content::FirstPage,
    spaces: Mutex<HashMap<u64, Arc<Space>>>,
    of_modules: module_symbols::OfModules,
}

/// What is asked: which rows, and where notes go.
#[derive(Default)]
pub struct Ask {
    /// Only these processes; all if there are none.
    pub pids: Vec<i64>,
    /// Threads as well as processes.
    pub threads: bool,
    /// What only some questions look at.
    pub terms: Terms,
    notes: Mutex<Vec<String>>,
    /// Files that were written and lack something.
    incomplete: AtomicUsize,
}

impl Ask {
    /// Asks for these processes, or for all.
    pub fn new(pids: Vec<i64>, threads: bool) -> Self {
        Self { pids, threads, ..Self::default() }
    }

    /// The same, with what only some questions look at.
    #[must_use]
    pub fn with(mut self, terms: Terms) -> Self {
        self.terms = terms;
        self
    }

    /// Something is missing from the answer, and this is why.
    pub fn note(&self, text: impl Into<String>) {
        let text = text.into();
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        // Hostile memory could fill a terminal; and what two parts of an answer lack is told once.
        if notes.len() < 100 && !notes.contains(&text) {
            notes.push(text);
        }
    }

    /// What was noted.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match self.incomplete.load(Ordering::Relaxed) {
            0 => {}
            count => notes.push(format!(
                "{count} files were written that memory does not hold all of: manifest.jsonl names each gap"
            )),
        }
        notes
    }

    /// The members of a walk; says so if it broke.
    pub fn all<'k>(&self, what: &str, walked: Walked<'k>) -> Vec<Object<'k>> {
        if let Some(broken) = walked.broken {
            self.note(format!("{what} ends after {} members: {broken}", walked.members.len()));
        }
        walked.members
    }

    /// Is this process asked for?
    pub fn wants(&self, pid: i64) -> bool {
        self.pids.is_empty() || self.pids.contains(&pid)
    }
}

impl Kernel {
    /// Finds the Linux kernel in memory.
    pub fn find(physical: Physical) -> Outcome<Self> {
        Ok(Self::of(discover::discover(&Arc::new(physical))?).with_module_types())
    }

    /// Finds the Linux kernel that a symbol file was made for, with the file's symbols and types.
    pub fn find_with(physical: Physical, isf: Isf) -> Outcome<Self> {
        Ok(Self::of(discover::discover_with(&Arc::new(physical), isf)?))
    }

    fn of(found: discover::Found) -> Self {
        Self {
            space: found.space,
            symbols: Arc::new(found.symbols),
            types: Arc::new(found.types),
            note: found.note,
            place: found.place,
            symbols_at: found.symbols_at,
            symbols_from: found.symbols_from,
            types_from: found.types_from,
            typed_modules: 0,
            refused_types: Vec::new(),
            live: false,
            paths: Arc::default(),
            landmarks: landmarks::Seen::default(),
            first_page: content::FirstPage::default(),
            spaces: Mutex::default(),
            of_modules: module_symbols::OfModules::default(),
        }
    }

    /// The same kernel, of a guest that runs on.
    #[must_use]
    pub fn running(self) -> Self {
        Self { live: true, ..self }
    }

    /// The same kernel with nothing of its memory read yet. Where it lies, what its symbols and types are, and what a pass over all of
    /// memory found stays known.
    #[must_use]
    pub fn afresh(&self) -> Self {
        let physical = Arc::new(self.physical().afresh());
        Self {
            space: Space::new(physical, self.place.root, self.place.tables),
            symbols: Arc::clone(&self.symbols),
            types: Arc::clone(&self.types),
            note: self.note.clone(),
            refused_types: self.refused_types.clone(),
            paths: Arc::clone(&self.paths),
            landmarks: self.landmarks.clone(),
            first_page: self.first_page.clone(),
            spaces: Mutex::default(),
            of_modules: module_symbols::OfModules::default(),
            ..*self
        }
    }

    fn known_path(&self, id: Id, text: &'static str) -> Option<object::Path> {
        self.paths.read().unwrap_or_else(PoisonError::into_inner).get(&(id, text)).cloned()
    }

    fn remember_path(&self, id: Id, text: &'static str, path: &object::Path) {
        self.paths.write().unwrap_or_else(PoisonError::into_inner).insert((id, text), path.clone());
    }

    /// The address of a symbol.
    pub fn symbol(&self, name: &str) -> Outcome<u64> {
        self.symbols.address(name).ok_or_else(|| MemoryError::NoSymbol(name.to_owned()))
    }

    /// Physical memory.
    pub fn physical(&self) -> &Arc<Physical> {
        self.space.physical()
    }

    /// Its crash note: the one that it points at itself, or the first in memory.
    pub fn note(&self) -> Option<&Vmcoreinfo> {
        if self.note.get().is_none() {
            // Not while others wait for it: a thread that waits for parts of a scan may be given a question that asks the same.
            let found = Vmcoreinfo::of(self).or_else(|| Vmcoreinfo::find(self.physical()));
            drop(self.note.set(found));
        }
        self.note.get()?.as_ref()
    }

    /// What was added to the kernel's addresses when it started (KASLR).
    pub fn slide(&self) -> Option<u64> {
        let noted = self.note().and_then(|note| u64::from_str_radix(note.get("KERNELOFFSET")?, 16).ok());
        // Every x86-64 kernel is linked to begin 16 MiB above the map.
        noted.or_else(|| match self.place.tables {
            Tables::X86(_) => self.symbols.address("_text")?.checked_sub(KERNEL_MAP + 0x100_0000),
            Tables::Arm64(_) => None,
        })
    }

    /// What is added to a physical address to get its place in the direct map.
    pub fn direct_map(&self) -> Outcome<u64> {
        if matches!(self.place.tables, Tables::X86(_)) {
            return Ok(self.space.u64(self.symbol("page_offset_base")?)?);
        }
        // Where memory begins, for a map that begins at the lowest address of so many bits; the kernel was built for as many as it
        // may have, and runs with as many as the processor has: its own top table tells by being where it is.
        let begin = self.space.u64(self.symbol("memstart_addr")?)?;
        let root = self.space.root();
        let bases = [52, 48, 47, 42, 39, 36].map(|bits| u64::MAX.wrapping_shl(bits).wrapping_sub(begin));
        let leads =
            |base: &u64| self.space.translate(base.wrapping_add(root)).is_ok_and(|mapped| mapped.physical == root);
        let wrong = || MemoryError::corrupt("memstart_addr", begin, "no direct map leads to the kernel's page tables");
        bases.into_iter().find(leads).ok_or_else(wrong)
    }

    /// Do the page tables that a register names map the kernel's first byte to where it lies?
    pub(super) fn reaches_text(&self, register: u64) -> bool {
        let Some(text) = self.symbols.address("_text") else { return false };
        let root = self.physical().guest_address(register);
        let mapped = root.and_then(|root| self.place.tables.walk(self.physical(), root, text));
        mapped.is_ok_and(|mapped| mapped.physical == self.place.physical(text))
    }

    /// Does the address lie in the kernel's own code?
    pub fn in_text(&self, address: u64) -> bool {
        let ends = (self.symbols.address("_stext"), self.symbols.address("_etext"));
        let init = (self.symbols.address("_sinittext"), self.symbols.address("_einittext"));
        let within = |ends: (Option<u64>, Option<u64>)| match ends {
            (Some(begin), Some(end)) => (begin..end).contains(&address),
            _ => false,
        };
        within(ends) || within(init)
    }

    /// `name+0x10` for an address of the kernel's image.
    pub fn name_of(&self, address: u64) -> Option<String> {
        let ends = (self.symbols.address("_text")?, self.symbols.address("_end")?);
        if !(ends.0..ends.1).contains(&address) {
            return None;
        }
        let symbol = self.symbols.at(address)?;
        match address - symbol.address {
            0 => Some(symbol.name.to_owned()),
            more => Some(format!("{}+{more:#x}", symbol.name)),
        }
    }

    /// The address space of a program, by the kernel's pointer to its top table.
    pub fn space_of(&self, pgd: u64) -> Outcome<Arc<Space>> {
        let root = self.space.translate(pgd)?.physical;
        let mut spaces = self.spaces.lock().unwrap_or_else(PoisonError::into_inner);
        if spaces.len() > 4096 {
            spaces.clear();
        }
        let fresh = || Arc::new(Space::new(Arc::clone(self.physical()), root, self.space.tables()));
        Ok(Arc::clone(spaces.entry(root).or_insert_with(fresh)))
    }

    /// When the guest was booted: what is added to the time since boot.
    pub fn boot_time(&self) -> Outcome<Timestamp> {
        let timekeeper = match self.symbols.address("timekeeper_data") {
            Some(at) => self.object("tk_data", at)?.get("timekeeper")?,
            // Before 6.13, in a structure that has no name: behind a counter.
            None => self.object("timekeeper", self.symbol("tk_core")?.wrapping_add(8))?,
        };
        let nanoseconds = timekeeper.i64("offs_real")?.wrapping_sub(timekeeper.i64("offs_boot")?);
        Timestamp::from_nanosecond(i128::from(nanoseconds))
            .map_err(|_| MemoryError::corrupt("the time of boot", timekeeper.at, "no such time"))
    }

    /// The text of `linux_banner`.
    pub fn banner(&self) -> Outcome<String> {
        let text = self.space.text(self.symbol("linux_banner")?, 512)?;
        Ok(String::from_utf8_lossy(&text).trim_end().to_owned())
    }

    /// The names that the guest gives itself.
    pub fn uts(&self) -> Outcome<Object<'_>> {
        self.global("init_uts_ns", "uts_namespace")?.get("name")
    }

    /// CPUs that were ever there, by number.
    pub fn cpus(&self) -> Vec<u32> {
        let mask = self.symbols.address("__cpu_possible_mask").and_then(|at| self.space.vec(at, 1024).ok());
        let size = self.types.find("cpumask").map_or(8, |id| self.types.size(id)) as usize;
        let bytes = mask.unwrap_or_default();
        let bits =
            bytes.iter().take(size).enumerate().flat_map(|(n, byte)| {
                (0..8).filter(move |bit| byte >> bit & 1 == 1).map(move |bit| 8 * n as u32 + bit)
            });
        bits.collect()
    }

    /// Where a CPU's own copy of a per-CPU variable lies.
    pub fn per_cpu(&self, symbol: &str, cpu: u32) -> Outcome<u64> {
        let base = self.space.u64(self.symbol("__per_cpu_offset")?.wrapping_add(8 * u64::from(cpu)))?;
        Ok(self.symbol(symbol)?.wrapping_add(base))
    }
}

/// The environment of a process, if it reads.
fn envars_of(task: &Task<'_>) -> Vec<String> {
    psaux::strings(task, "env_start", "env_end").unwrap_or_default()
}
