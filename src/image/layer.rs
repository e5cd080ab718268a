//! What was found while an image was opened: one [`Layer`] a wrapping, from the file inwards.

use std::fmt::Display;
use std::sync::Arc;

use super::{ReadAt, ReadError};

/// What a layer's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// A disk as the guest sees it.
    Disk,
    /// Memory at its guest-physical addresses.
    Memory,
    /// Another file, in parts or compressed: its own format is looked for next.
    Carrier,
    /// Nobody can say from the bytes alone.
    Unknown,
}

impl Content {
    /// The word in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Memory => "memory",
            Self::Carrier => "carrier",
            Self::Unknown => "unknown",
        }
    }
}

/// A digest that a container carries of its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Carried {
    /// `md5`, `sha1`, `sha256`.
    pub algorithm: &'static str,
    /// Lower-case hex.
    pub hex: String,
}

/// One wrapping that was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Name of the wrapping: `qcow2`.
    pub wrapping: &'static str,
    /// What its bytes are.
    pub content: Content,
    /// Length in bytes of what it presents.
    pub len: u64,
    /// Length in bytes of what it reads from: this file, without the others of its chain.
    pub stored: u64,
    /// What its headers say, by name: version, cluster size, creator …. Hostile text.
    pub facts: Vec<(&'static str, String)>,
    /// Digests that it carries of its content.
    pub digests: Vec<Carried>,
    /// Other files that it needs, in the order of the chain, with what each is: ("backing file", "base.qcow2").
    pub files: Vec<(&'static str, String)>,
    /// What an examiner should know: a dirty flag, a wrong copy of a header, an assumed address map.
    pub odd: Vec<String>,
}

impl Layer {
    /// A layer of `content` that nothing is known of yet.
    pub fn new(wrapping: &'static str, content: Content) -> Self {
        Self {
            wrapping,
            content,
            len: 0,
            stored: 0,
            facts: Vec::new(),
            digests: Vec::new(),
            files: Vec::new(),
            odd: Vec::new(),
        }
    }

    /// Adds a fact.
    pub fn fact(&mut self, name: &'static str, value: impl Display) -> &mut Self {
        self.facts.push((name, value.to_string()));
        self
    }

    /// Adds something odd.
    pub fn odd(&mut self, text: impl Into<String>) -> &mut Self {
        self.odd.push(text.into());
        self
    }
}

/// Registers of one virtual CPU that finding the kernel needs. `None`: the image does not tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cpu {
    /// CR0, CR3, CR4 on x86.
    pub cr0: Option<u64>,
    /// Physical address of the page tables, as in the register: with PCID or PCD/PWT bits.
    pub cr3: Option<u64>,
    /// Bit 12: five levels of page tables.
    pub cr4: Option<u64>,
    /// Instruction pointer.
    pub rip: Option<u64>,
    /// Linear address of the interrupt descriptor table.
    pub idt: Option<u64>,
}

/// What a memory image tells beside its bytes.
#[derive(Clone, Default)]
pub struct Machine {
    /// Its virtual CPUs.
    pub cpus: Vec<Cpu>,
    /// Xen PV: page tables hold machine frames; this finds the guest's own.
    pub frames: Option<Arc<dyn Frames>>,
}

/// Translates the frames of the machine into those of the guest (Xen PV: gmfn → pfn).
pub trait Frames: Send + Sync {
    /// The guest's frame number of a machine's frame, if the guest has it.
    fn guest_frame(&self, machine_frame: u64) -> Option<u64>;
}

/// What [`Wrapping::open`](super::Wrapping) answers.
pub struct Opened {
    /// The bytes inside.
    pub bytes: Arc<dyn ReadAt>,
    /// What it was.
    pub layer: Layer,
    /// For memory: registers and frames.
    pub machine: Option<Machine>,
}

impl Opened {
    /// A layer without registers.
    pub fn new(bytes: Arc<dyn ReadAt>, layer: Layer) -> Self {
        Self { bytes, layer, machine: None }
    }
}

/// What opening an image answers.
pub type Opening = Result<Opened, ReadError>;
