//! ELF cores of a machine's memory: QEMU's `dump-guest-memory` and `virsh dump --memory-only`, VirtualBox's
//! `dumpvmcore`, `/proc/vmcore`, makedumpfile `-E`.
//!
//! Each `PT_LOAD` gives a range of physical addresses (`p_paddr`); what is longer in memory than in the file
//! (`p_memsz > p_filesz`) was left out by whoever wrote it and is unreadable, not zero. With more than 65,534 segments their
//! number stands in the first section header (`PN_XNUM`). Kernels map their own text twice: such a segment is taken only where
//! no other one lies. Specification: System V ABI, chapter 4 "Object Files" and 5 "Program Loading".
//!
//! Not read: cores of a process, which have no physical addresses; big-endian machines; cores that map by sections (Xen's:
//! see [`super::xen`]).

mod segments;

use std::sync::Arc;

use super::shared::lacking::Lacking;
use super::shared::notes;
use crate::image::fields::{Fields, read_structure};
use crate::image::{Below, Content, Layer, Machine, Opened, Opening, ReadAt, ReadError, Spans, Wrapping};

use segments::{Segment, merge};

/// See the module.
pub(super) static ELF: Wrapping = Wrapping {
    name: "elf",
    about: "ELF core of a machine's memory (QEMU, virsh, VirtualBox, kernel vmcore)",
    tested_against: "QEMU 10.0 dump-guest-memory (pc and q35, below and above 4 GiB); what impound exports, Volatility 3 reads alike",
    probe,
    open,
};

const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const ET_CORE: u16 = 4;
/// `e_phnum` that means: look into the first section header.
const PN_XNUM: u16 = 0xffff;
/// Why parts of a segment lack.
const LEFT_OUT: &str = "left out when the dump was made (p_filesz is less than p_memsz)";

fn probe(below: &Below) -> bool {
    let [0x7f, b'E', b'L', b'F', _, order, .., a, b] = below.head::<18>() else { return false };
    ET_CORE == if order == 2 { u16::from_be_bytes([a, b]) } else { u16::from_le_bytes([a, b]) }
}

/// Where the tables of an ELF file are.
struct Header {
    wide: bool,
    machine: u16,
    phoff: u64,
    phnum: u64,
}

fn open(below: &Below) -> Opening {
    let file = below.bytes.as_ref();
    let header = header(file)?;
    let segments = segments(file, &header)?;
    let mut layer = Layer::new("elf", Content::Memory);
    layer.fact("class", if header.wide { "ELF64" } else { "ELF32" }).fact("machine", machine(header.machine));
    layer.fact("segments", segments.iter().filter(|segment| segment.kind == PT_LOAD).count());
    let mut cpus = Vec::new();
    for segment in segments.iter().filter(|segment| segment.kind == PT_NOTE) {
        let bytes = notes::read(file, "ELF note section", segment.from, segment.stored)?;
        cpus.extend(notes::tell(&notes::notes("ELF note section", segment.from, &bytes)?, &mut layer)?);
    }
    let loads: Vec<Segment> =
        segments.into_iter().filter(|segment| segment.kind == PT_LOAD && segment.len > 0).collect();
    refuse_processes(&loads)?;
    let merged = merge(loads)?;
    if merged.without_address > 0 {
        layer.odd(format!("{} segments have no physical address and are left out", merged.without_address));
    }
    if merged.twice > 0 {
        layer.fact("kernel text", format!("{} segments of memory that others hold as well", merged.twice));
    }
    let spans = Spans::new(Arc::clone(&below.bytes), "ELF segment", merged.spans)?;
    let bytes: Arc<dyn ReadAt> = if merged.lacking.is_empty() {
        Arc::new(spans)
    } else {
        layer.odd(format!("{} segments are longer in memory than in the file", merged.lacking.len()));
        Arc::new(Lacking::new(Arc::new(spans), merged.lacking, LEFT_OUT))
    };
    Ok(Opened { bytes, layer, machine: Some(Machine { cpus, frames: None }) })
}

fn header(file: &dyn ReadAt) -> Result<Header, ReadError> {
    const WHAT: &str = "ELF header";
    let bytes = read_structure(file, WHAT, 0, 52)?;
    let fields = Fields::new(WHAT, 0, &bytes);
    let wide = match fields.u8(4)? {
        1 => false,
        2 => true,
        other => return Err(fields.corrupt(4, "class 1 or 2", other)),
    };
    match fields.u8(5)? {
        1 => {}
        2 => {
            let why = "only little-endian machines are known";
            return Err(ReadError::unsupported("the core of a big-endian machine", why));
        }
        other => return Err(fields.corrupt(5, "byte order 1 or 2", other)),
    }
    let bytes = read_structure(file, WHAT, 0, if wide { 64 } else { 52 })?;
    let fields = Fields::new(WHAT, 0, &bytes);
    let (phoff, shoff) =
        if wide { (fields.u64(32)?, fields.u64(40)?) } else { (fields.u32(28)?.into(), fields.u32(32)?.into()) };
    let sizes = if wide { 54 } else { 42 };
    let (phentsize, phnum) = (fields.u16(sizes)?, fields.u16(sizes + 2)?);
    let want = if wide { 56 } else { 32 };
    if phentsize != want {
        return Err(fields.corrupt(sizes, format_args!("program headers of {want} bytes"), phentsize));
    }
    let phnum = if phnum == PN_XNUM { many(file, shoff, wide)? } else { phnum.into() };
    Ok(Header { wide, machine: fields.u16(18)?, phoff, phnum })
}

/// The number of segments in the first section header.
fn many(file: &dyn ReadAt, shoff: u64, wide: bool) -> Result<u64, ReadError> {
    const WHAT: &str = "ELF section header";
    let bytes = read_structure(file, WHAT, shoff, if wide { 64 } else { 40 })?;
    Ok(Fields::new(WHAT, shoff, &bytes).u32(if wide { 44 } else { 28 })?.into())
}

fn segments(file: &dyn ReadAt, header: &Header) -> Result<Vec<Segment>, ReadError> {
    const WHAT: &str = "ELF program header table";
    let entry = if header.wide { 56 } else { 32 };
    let len = header.phnum.saturating_mul(entry);
    if header.phoff.checked_add(len).is_none_or(|end| end > file.len()) {
        let expected = format_args!("a table inside the {:#x} bytes of the file", file.len());
        return Err(ReadError::corrupt(WHAT, header.phoff, expected, format_args!("{} segments", header.phnum)));
    }
    let bytes = read_structure(file, WHAT, header.phoff, usize::try_from(len).unwrap_or(usize::MAX))?;
    let mut segments = Vec::with_capacity(bytes.len() / 32);
    for (index, part) in bytes.chunks_exact(usize::try_from(entry).unwrap_or(56)).enumerate() {
        let at = header.phoff + index as u64 * entry;
        let fields = Fields::new(WHAT, at, part);
        let kind = fields.u32(0)?;
        let n = |wide: usize, narrow: usize| -> Result<u64, ReadError> {
            if header.wide { fields.u64(wide) } else { fields.u32(narrow).map(u64::from) }
        };
        let none = if header.wide { u64::MAX } else { u32::MAX.into() };
        let address = n(24, 12)?;
        let address = (address != none).then_some(address);
        let (from, stored) = (n(8, 4)?, n(32, 16)?);
        if matches!(kind, PT_LOAD | PT_NOTE)
            && stored > 0
            && from.checked_add(stored).is_none_or(|end| end > file.len())
        {
            let expected = format_args!("a segment that ends before the file does, at {:#x}", file.len());
            return Err(fields.corrupt(
                if header.wide { 8 } else { 4 },
                expected,
                format_args!("{stored:#x} bytes at {from:#x}"),
            ));
        }
        segments.push(Segment {
            kind,
            address,
            virt: n(16, 8)?,
            from,
            stored,
            len: n(40, 20)?.max(stored),
            header: at,
        });
    }
    Ok(segments)
}

/// A core of a process has no physical addresses: all are zero.
fn refuse_processes(loads: &[Segment]) -> Result<(), ReadError> {
    let none = loads.iter().all(|load| load.address == Some(0));
    let several = loads.len() > 1 || loads.iter().any(|load| load.virt != 0);
    if loads.is_empty() {
        let why = "no segment of it holds memory";
        return Err(ReadError::unsupported("this ELF core", why));
    }
    if none && several {
        let why = "its segments have no physical addresses; a debugger reads it";
        return Err(ReadError::unsupported("the core of a process", why));
    }
    Ok(())
}

fn machine(number: u16) -> String {
    match number {
        3 => "i386".to_owned(),
        62 => "x86-64".to_owned(),
        183 => "aarch64".to_owned(),
        243 => "riscv".to_owned(),
        other => format!("ELF machine {other}"),
    }
}
