//! Xen's `xl dump-core` (and `xm dump-core`): an ELF core without program headers, its content in sections.
//!
//! `.xen_pages` holds the pages; `.xen_p2m` (PV) the pair of guest frame and machine frame of each, `.xen_pfn` (PVH, HVM) its
//! guest frame, where ~0 is padding; `.note.Xen` the counts; `.xen_prstatus` one `vcpu_guest_context` a CPU (Xen's
//! `docs/misc/dump-core-format.txt`, version 1). PV page tables hold machine frames: [`Frames`] finds the guest's.
//!
//! A dump that xl could not finish is empty or cut short: cut short is damage here; an empty file is raw, and said to be odd.

use std::sync::Arc;

use super::shared::notes;
use crate::image::fields::{Fields, read_structure};
use crate::image::{
    Below, Content, Cpu, Frames, Layer, Machine, Opened, Opening, ReadAt, ReadError, Span, Spans, Wrapping,
};

/// See the module.
pub(super) static XEN: Wrapping = Wrapping {
    name: "xen-core",
    about: "Xen dump-core (xl, xm): PV, PVH, HVM",
    tested_against: "PV cores of a real Xen 4.17, and by hand a PVH one; PVH with Linux in it and damaged ones are written by the tests, Volatility 3 reads the PVH one alike and no PV one",
    probe,
    open,
};

const NOTE_HEADER: u32 = 0x0200_0001;
const NOTE_XEN_VERSION: u32 = 0x0200_0002;
const NOTE_FORMAT: u32 = 0x0200_0003;
/// Length of a vcpu_guest_context in bytes (x86-64).
const CONTEXT: u64 = 5168;
/// Most CPUs whose registers are taken.
const CPUS: u64 = 4096;
/// Bytes of a table that are read at once.
const CHUNK: u64 = 1 << 20;

fn probe(below: &Below) -> bool {
    let head = below.head::<64>();
    // ET_CORE, no program headers, section headers directly behind.
    head.starts_with(b"\x7fELF\x02\x01")
        && head.get(16..18) == Some(&[4, 0])
        && head.get(56..58) == Some(&[0, 0])
        && head.get(60..62) != Some(&[0, 0])
}

/// A section: its name, where it is, how long it is.
struct Section {
    name: Vec<u8>,
    at: u64,
    len: u64,
    header: u64,
}

/// What the note about the dump says.
struct Counts {
    magic: u64,
    vcpus: u64,
    pages: u64,
    page: u64,
}

fn open(below: &Below) -> Opening {
    let file = below.bytes.as_ref();
    let sections = sections(file)?;
    let mut layer = Layer::new("xen-core", Content::Memory);
    let note = want(&sections, b".note.Xen")?;
    let bytes = notes::read(file, "Xen core note section", note.at, note.len)?;
    let counts = tell(&notes::notes("Xen core note section", note.at, &bytes)?, note.at, &mut layer)?;
    let pages = want(&sections, b".xen_pages")?;
    measure(pages, counts.pages, counts.page)?;
    let (table, entry) = match sections.iter().find(|section| section.name == b".xen_p2m") {
        Some(p2m) => (p2m, 16),
        None => (want(&sections, b".xen_pfn")?, 8),
    };
    measure(table, counts.pages, entry)?;
    layer.fact("guest", if entry == 16 { "PV" } else { "PVH or HVM" });
    let read = read_table(file, table, entry, pages.at, counts.page)?;
    if read.padding > 0 {
        layer.fact("padding", format!("{} pages without an address", read.padding));
    }
    let frames =
        if entry == 16 { Some(Arc::new(MachineFrames::new(read.frames, table)?) as Arc<dyn Frames>) } else { None };
    let cpus = match sections.iter().find(|section| section.name == b".xen_prstatus") {
        Some(section) => cpus(file, section, counts.vcpus)?,
        None => Vec::new(),
    };
    let spans = Spans::new(Arc::clone(&below.bytes), "Xen core", read.spans)?;
    Ok(Opened { bytes: Arc::new(spans), layer, machine: Some(Machine { cpus, frames }) })
}

fn want<'a>(sections: &'a [Section], name: &[u8]) -> Result<&'a Section, ReadError> {
    sections.iter().find(|section| section.name == name).ok_or_else(|| {
        let names: Vec<_> = sections.iter().map(|section| String::from_utf8_lossy(&section.name)).collect();
        ReadError::corrupt(
            "Xen core section list",
            64,
            format!("a section {}", String::from_utf8_lossy(name)),
            names.join(" "),
        )
    })
}

/// The section must be as long as its entries.
fn measure(section: &Section, count: u64, entry: u64) -> Result<(), ReadError> {
    if count.checked_mul(entry) == Some(section.len) {
        return Ok(());
    }
    let what = format!("Xen core section {}", String::from_utf8_lossy(&section.name));
    let found = format_args!("{:#x} bytes", section.len);
    Err(ReadError::corrupt(what, section.header, format_args!("{count} entries of {entry} bytes"), found))
}

fn sections(file: &dyn ReadAt) -> Result<Vec<Section>, ReadError> {
    const WHAT: &str = "Xen core section header table";
    let head = read_structure(file, "ELF header", 0, 64)?;
    let fields = Fields::new("ELF header", 0, &head);
    let (shoff, entry, count, names) = (fields.u64(40)?, fields.u16(58)?, fields.u16(60)?, fields.u16(62)?);
    if entry != 64 || names >= count {
        return Err(fields.corrupt(58, "section headers of 64 bytes, one of them for the names", entry));
    }
    let bytes = read_structure(file, WHAT, shoff, usize::from(count) * 64)?;
    let part = |index: usize| -> Result<(u32, u32, u64, u64, u64), ReadError> {
        let fields = Fields::new(WHAT, shoff, &bytes);
        let from = index * 64;
        let header = shoff + from as u64;
        Ok((fields.u32(from)?, fields.u32(from + 4)?, fields.u64(from + 24)?, fields.u64(from + 32)?, header))
    };
    let (_, _, at, len, header) = part(usize::from(names))?;
    if len > 1 << 16 || at.checked_add(len).is_none_or(|end| end > file.len()) {
        let expected = format_args!("the sections' names inside the {:#x} bytes of the file", file.len());
        return Err(ReadError::corrupt(WHAT, header + 24, expected, format_args!("{len:#x} bytes at {at:#x}")));
    }
    let text = read_structure(file, "Xen core section name table", at, usize::try_from(len).unwrap_or(0))?;
    let mut sections = Vec::new();
    for index in 0..usize::from(count) {
        let (name, kind, at, len, header) = part(index)?;
        let name = text.get(usize::try_from(name).unwrap_or(usize::MAX)..).unwrap_or_default();
        let name = name.split(|&byte| byte == 0).next().unwrap_or_default().to_vec();
        // 0: no section, 8: takes no room.
        if matches!(kind, 0 | 8) {
            continue;
        }
        if at.checked_add(len).is_none_or(|end| end > file.len()) {
            let expected = format_args!("a section that ends before the file does, at {:#x}", file.len());
            let found = format_args!("{} of {len:#x} bytes at {at:#x}", String::from_utf8_lossy(&name));
            return Err(ReadError::corrupt(WHAT, header + 24, expected, found));
        }
        sections.push(Section { name, at, len, header });
    }
    Ok(sections)
}

fn tell(notes: &[notes::Note<'_>], at: u64, layer: &mut Layer) -> Result<Counts, ReadError> {
    let mut counts = None;
    for note in notes.iter().filter(|note| note.name == b"Xen") {
        let desc = &note.desc;
        match note.kind {
            NOTE_HEADER => {
                let page = desc.u64(24)?;
                if page != 4096 {
                    return Err(desc.corrupt(24, "a page size of 4096", page));
                }
                counts = Some(Counts { magic: desc.u64(0)?, vcpus: desc.u64(8)?, pages: desc.u64(16)?, page });
            }
            NOTE_XEN_VERSION if desc.bytes().len() >= 32 => {
                layer.fact("creator", format!("Xen {}.{}{}", desc.u64(0)?, desc.u64(8)?, desc.text(16, 16)?));
            }
            NOTE_FORMAT => {
                layer.fact("version", desc.u64(0)?);
                if desc.u64(0)? != 1 {
                    layer.odd(format!("format version {}, of which only 1 is known", desc.u64(0)?));
                }
            }
            _ => {}
        }
    }
    let counts =
        counts.ok_or_else(|| ReadError::corrupt("Xen core note section", at, "the note with the counts", "none"))?;
    layer.fact("magic", format!("{:#x}", counts.magic)).fact("CPUs", counts.vcpus).fact("pages", counts.pages);
    Ok(counts)
}

/// What the table of frames says.
struct Read {
    spans: Vec<Span>,
    /// Machine frame, guest frame, how many go on like that.
    frames: Vec<(u64, u64, u64)>,
    padding: u64,
}

fn read_table(file: &dyn ReadAt, table: &Section, entry: u64, pages: u64, page: u64) -> Result<Read, ReadError> {
    const WHAT: &str = "Xen core table of frames";
    let mut read = Read { spans: Vec::new(), frames: Vec::new(), padding: 0 };
    let (mut done, mut number) = (0, 0_u64);
    while done < table.len {
        let len = CHUNK.min(table.len - done);
        let bytes = read_structure(file, WHAT, table.at + done, usize::try_from(len).unwrap_or(0))?;
        for part in bytes.chunks_exact(usize::try_from(entry).unwrap_or(16)) {
            let fields = Fields::new(WHAT, table.at + number * entry, part);
            let pfn = fields.u64(0)?;
            let from = pages + number * page;
            number += 1;
            if pfn == u64::MAX {
                read.padding += 1;
                continue;
            }
            let Some(at) = pfn.checked_mul(page).filter(|at| at.checked_add(page).is_some()) else {
                return Err(fields.corrupt(0, "a guest frame below 2^52", format_args!("{pfn:#x}")));
            };
            match read.spans.last_mut() {
                Some(last) if last.at + last.len == at && last.from.map(|from| from + last.len) == Some(from) => {
                    last.len += page;
                }
                _ => read.spans.push(Span { at, len: page, from: Some(from) }),
            }
            if entry == 16 {
                let gmfn = fields.u64(8)?;
                match read.frames.last_mut() {
                    Some((m, g, n)) if m.checked_add(*n) == Some(gmfn) && *g + *n == pfn => *n += 1,
                    _ => read.frames.push((gmfn, pfn, 1)),
                }
            }
        }
        done += len;
    }
    Ok(read)
}

/// Machine frame → guest frame, in runs.
struct MachineFrames(Vec<(u64, u64, u64)>);

impl MachineFrames {
    fn new(mut runs: Vec<(u64, u64, u64)>, table: &Section) -> Result<Self, ReadError> {
        runs.sort_unstable();
        for pair in runs.windows(2) {
            if let [(m, _, n), (next, ..)] = pair
                && m.checked_add(*n).is_none_or(|end| end > *next)
            {
                let found = format_args!("{next:#x} twice");
                return Err(ReadError::corrupt("Xen core table of frames", table.at, "each machine frame once", found));
            }
        }
        Ok(Self(runs))
    }
}

impl Frames for MachineFrames {
    fn guest_frame(&self, machine_frame: u64) -> Option<u64> {
        let after = self.0.partition_point(|(m, ..)| *m <= machine_frame);
        let (m, g, n) = self.0.get(after.checked_sub(1)?)?;
        let into = machine_frame - m;
        (into < *n).then(|| g + into)
    }
}

/// Registers: `vcpu_guest_context` of Xen's `public/arch-x86/xen.h`.
fn cpus(file: &dyn ReadAt, section: &Section, vcpus: u64) -> Result<Vec<Cpu>, ReadError> {
    const WHAT: &str = "Xen vcpu context";
    measure(section, vcpus, CONTEXT)?;
    let mut cpus = Vec::new();
    for number in 0..vcpus.min(CPUS) {
        let at = section.at + number * CONTEXT;
        let bytes = read_structure(file, WHAT, at, 5168)?;
        let fields = Fields::new(WHAT, at, &bytes);
        let control = |n: usize| fields.u64(4984 + n * 8);
        cpus.push(Cpu {
            cr0: Some(control(0)?),
            cr3: Some(control(3)?),
            cr4: Some(control(4)?),
            rip: Some(fields.u64(648)?),
            idt: None,
        });
    }
    Ok(cpus)
}
