//! ELF notes as memory dumps carry them: registers of the CPUs, the kernel's VMCOREINFO.
//!
//! Layout: System V ABI, "Note Section"; the note `QEMU` is `QEMUCPUState` of QEMU's `target/i386/arch_dump.c`; `CORE` is
//! Linux's `elf_prstatus`. Only x86-64 registers are taken.

use crate::image::fields::{Fields, read_structure};
use crate::image::{Cpu, Layer, ReadAt, ReadError};

/// Most bytes of notes that are read: a CPU has some hundred.
const NOTES: u64 = 64 << 20;
/// Most bytes of VMCOREINFO that become a fact.
const VMCOREINFO: usize = 64 << 10;
/// Length of QEMU's note in bytes.
const QEMU_NOTE: usize = 0x1b8;

/// One note.
pub(crate) struct Note<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) kind: u32,
    pub(crate) desc: Fields<'a>,
}

/// Reads a block of notes, to be taken apart by [`notes`].
pub(crate) fn read(file: &dyn ReadAt, what: &'static str, at: u64, len: u64) -> Result<Vec<u8>, ReadError> {
    match usize::try_from(len) {
        Ok(wanted) if len <= NOTES => read_structure(file, what, at, wanted),
        _ => Err(ReadError::corrupt(what, at, format_args!("at most {NOTES} bytes"), len)),
    }
}

/// The notes in `bytes`, which stand at `at` of the file.
pub(crate) fn notes<'a>(what: &'static str, at: u64, bytes: &'a [u8]) -> Result<Vec<Note<'a>>, ReadError> {
    let fields = Fields::new(what, at, bytes);
    let (mut found, mut next) = (Vec::new(), 0_usize);
    while bytes.len().saturating_sub(next) >= 12 {
        let (name_len, desc_len) = (fields.u32(next)?, fields.u32(next + 4)?);
        let kind = fields.u32(next + 8)?;
        if name_len == 0 && desc_len == 0 && kind == 0 {
            break;
        }
        let name_len = usize::try_from(name_len).unwrap_or(usize::MAX);
        let desc_len = usize::try_from(desc_len).unwrap_or(usize::MAX);
        let name = fields.slice(next + 12, name_len)?;
        let desc_at = (next + 12 + name_len).next_multiple_of(4);
        let desc = fields.slice(desc_at, desc_len)?;
        let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
        found.push(Note { name, kind, desc: Fields::new(what, at.saturating_add(desc_at as u64), desc) });
        next = (desc_at + desc_len).next_multiple_of(4);
    }
    Ok(found)
}

/// The CPUs that notes tell of, and facts about who wrote them.
pub(crate) fn tell(notes: &[Note<'_>], layer: &mut Layer) -> Result<Vec<Cpu>, ReadError> {
    let (mut full, mut brief) = (Vec::new(), Vec::new());
    for note in notes {
        let desc = &note.desc;
        match (note.name, note.kind) {
            (b"QEMU", _) if desc.bytes().len() >= QEMU_NOTE => full.push(Cpu {
                cr0: Some(desc.u64(392)?),
                cr3: Some(desc.u64(416)?),
                cr4: Some(desc.u64(424)?),
                rip: Some(desc.u64(136)?),
                idt: Some(desc.u64(384)?),
            }),
            (b"CORE", 1) if desc.bytes().len() >= 336 => {
                brief.push(Cpu { rip: Some(desc.u64(240)?), ..Cpu::default() });
            }
            (b"VMCOREINFO", _) => vmcoreinfo(desc.bytes(), layer),
            (b"VBCORE", _) => {
                layer.fact("creator", "VirtualBox");
            }
            _ => {}
        }
    }
    if !full.is_empty() {
        layer.fact("creator", "QEMU");
    }
    let cpus = if full.is_empty() { brief } else { full };
    layer.fact("CPUs", cpus.len());
    Ok(cpus)
}

/// The kernel's own words about itself.
pub(crate) fn vmcoreinfo(text: &[u8], layer: &mut Layer) {
    let text = text.get(..text.len().min(VMCOREINFO)).unwrap_or_default();
    let text = String::from_utf8_lossy(text);
    let text = text.trim_end_matches('\0').trim_end();
    for (key, fact) in
        [("OSRELEASE=", "kernel release"), ("BUILD-ID=", "kernel build id"), ("CRASHTIME=", "crash time")]
    {
        if let Some(value) = text.lines().find_map(|line| line.strip_prefix(key)) {
            layer.fact(fact, value);
        }
    }
    layer.fact("vmcoreinfo", text);
}
