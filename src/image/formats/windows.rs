//! Windows crash dumps of 64-bit machines (`PAGEDU64`): complete (runs of pages) and bitmap (kernel, active) dumps.
//!
//! `DUMP_HEADER64` takes two pages; a complete dump goes on with the pages of its runs, in order; the others have a second
//! header (`SDMP` or `FDMP`) with a bitmap of the frames that follow. Layout as the Windows kernel debugger's documentation
//! and the public symbols name it (`_DUMP_HEADER64`, `_PHYSICAL_MEMORY_DESCRIPTOR64`, `_SUMMARY_DUMP64`). Frames of the runs
//! that a bitmap dump leaves out are unreadable.
//!
//! Refused by name: 32-bit dumps, small (triage) and live (`RDMP`) dumps, and hibernation files, which are compressed.

use std::sync::Arc;

use super::shared::lacking::Lacking;
use crate::image::fields::{Fields, read_structure};
use crate::image::{Below, Content, Cpu, Layer, Machine, Opened, Opening, ReadAt, ReadError, Span, Spans, Wrapping};

/// See the module.
pub(super) static CRASH: Wrapping = Wrapping {
    name: "windows-crash",
    about: "Windows crash dump of a 64-bit machine: complete, kernel or active memory",
    tested_against: "files written by the tests after _DUMP_HEADER64; Volatility 3 reads them alike; no dump of a real Windows",
    probe,
    open,
};

/// Windows' hibernation file: known by name, not read.
pub(super) static HIBERNATION: Wrapping = Wrapping {
    name: "hibernation",
    about: "Windows hibernation file: known, not read",
    tested_against: "nothing: it is refused",
    probe: probe_hibernation,
    open: refuse_hibernation,
};

const PAGE: u64 = 4096;
/// Length of the header in bytes.
const HEADER: usize = 0x2000;
/// Where the summary header's bitmap begins, from the header's own start.
const BITMAP: u64 = 0x38;
/// Runs that fit into the header.
const RUNS: u32 = 42;
/// What the header's unused fields are filled with.
const FILL: u32 = u32::from_le_bytes(*b"PAGE");
/// Bytes of a bitmap that are read at once.
const CHUNK: u64 = 1 << 20;
const LEFT_OUT: &str = "left out when Windows wrote the dump";

fn probe(below: &Below) -> bool {
    matches!(&below.head::<8>(), b"PAGEDU64" | b"PAGEDUMP")
}

fn open(below: &Below) -> Opening {
    const WHAT: &str = "crash dump header";
    if below.head::<8>() == *b"PAGEDUMP" {
        return Err(ReadError::unsupported("a crash dump of a 32-bit Windows", "only 64-bit dumps are known"));
    }
    let file = below.bytes.as_ref();
    let bytes = read_structure(file, WHAT, 0, HEADER)?;
    let fields = Fields::new(WHAT, 0, &bytes);
    let mut layer = Layer::new("windows-crash", Content::Memory);
    tell(&fields, &mut layer)?;
    let runs = runs(below, &fields)?;
    let bytes: Arc<dyn ReadAt> = match fields.u32(0xf98)? {
        1 => {
            layer.fact("kind", "complete");
            Arc::new(Spans::new(Arc::clone(&below.bytes), "crash dump", complete(file, &fields, &runs)?)?)
        }
        kind @ (2 | 5 | 6) => {
            layer.fact("kind", if kind == 5 { "active (bitmap)" } else { "kernel (bitmap)" });
            let spans = Spans::new(Arc::clone(&below.bytes), "crash dump", bitmap(below)?)?;
            Arc::new(Lacking::new(Arc::new(spans), runs, LEFT_OUT))
        }
        kind => {
            let why = "complete, kernel and active dumps are known; small and live dumps do not hold physical memory";
            return Err(ReadError::unsupported(format!("a crash dump of type {kind}"), why));
        }
    };
    let cpu = Cpu { cr3: Some(fields.u64(0x10)?), ..Cpu::default() };
    Ok(Opened { bytes, layer, machine: Some(Machine { cpus: vec![cpu], frames: None }) })
}

fn tell(fields: &Fields<'_>, layer: &mut Layer) -> Result<(), ReadError> {
    layer.fact("version", format!("{}.{}", fields.u32(8)?, fields.u32(12)?));
    let machine = match fields.u32(0x30)? {
        0x8664 => "x86-64".to_owned(),
        0xaa64 => "aarch64".to_owned(),
        other => return Err(fields.corrupt(0x30, "machine 0x8664 or 0xaa64", format_args!("{other:#x}"))),
    };
    layer.fact("machine", machine).fact("CPUs", fields.u32(0x34)?);
    layer.fact("bug check", format!("{:#x}", fields.u32(0x38)?));
    for (name, at) in [
        ("directory table base", 0x10),
        ("PsLoadedModuleList", 0x20),
        ("PsActiveProcessHead", 0x28),
        ("KdDebuggerDataBlock", 0x80),
    ] {
        layer.fact(name, format!("{:#x}", fields.u64(at)?));
    }
    Ok(())
}

/// The runs of physical memory: start and length in bytes. Empty if the header does not tell.
fn runs(below: &Below, fields: &Fields<'_>) -> Result<Vec<(u64, u64)>, ReadError> {
    let count = fields.u32(0x88)?;
    if count == FILL || count == 0 {
        return Ok(Vec::new());
    }
    if count > RUNS {
        return Err(fields.corrupt(0x88, format_args!("at most {RUNS} runs"), count));
    }
    let mut runs = Vec::new();
    for index in 0..usize::try_from(count).unwrap_or(0) {
        let field = 0x98 + index * 16;
        let (base, pages) = (fields.u64(field)?, fields.u64(field + 8)?);
        let Some(end) = base.checked_add(pages).and_then(|end| end.checked_mul(PAGE)).filter(|_| pages > 0) else {
            return Err(fields.corrupt(field, "a run of pages below 2^52", format_args!("{pages:#x} from {base:#x}")));
        };
        below.allow("a crash dump", end)?;
        runs.push((base * PAGE, pages * PAGE));
    }
    Ok(runs)
}

/// The runs as they follow the header.
fn complete(file: &dyn ReadAt, fields: &Fields<'_>, runs: &[(u64, u64)]) -> Result<Vec<Span>, ReadError> {
    let (mut spans, mut from) = (Vec::new(), HEADER as u64);
    for (index, &(at, len)) in runs.iter().enumerate() {
        if from.checked_add(len).is_none_or(|end| end > file.len()) {
            let expected = format_args!("runs that end before the file does, at {:#x}", file.len());
            let found = format_args!("{len:#x} bytes from {from:#x}");
            return Err(fields.corrupt(0x98 + index * 16, expected, found));
        }
        spans.push(Span { at, len, from: Some(from) });
        from += len;
    }
    if spans.is_empty() {
        return Err(fields.corrupt(0x88, "the runs of physical memory", "none"));
    }
    Ok(spans)
}

/// The frames of the bitmap behind the summary header.
fn bitmap(below: &Below) -> Result<Vec<Span>, ReadError> {
    const WHAT: &str = "crash dump summary header";
    let (file, start) = (below.bytes.as_ref(), HEADER as u64);
    let head = read_structure(file, WHAT, start, 0x38)?;
    let fields = Fields::new(WHAT, start, &head);
    if !matches!(fields.slice(0, 8)?, b"SDMPDUMP" | b"FDMPDUMP") {
        return Err(fields.corrupt(0, "SDMPDUMP or FDMPDUMP", fields.slice(0, 8)?.escape_ascii()));
    }
    let (first, present, bits) = (fields.u64(0x20)?, fields.u64(0x28)?, fields.u64(0x30)?);
    below.allow("a crash dump", bits.saturating_mul(PAGE))?;
    let (begin, len) = (start + BITMAP, bits.div_ceil(8));
    if begin + len > file.len() || first > file.len() {
        let expected = format_args!("a bitmap and pages inside the {:#x} bytes of the file", file.len());
        return Err(fields.corrupt(0x20, expected, format_args!("{bits:#x} frames, pages from {first:#x}")));
    }
    let (mut spans, mut seen, mut done): (Vec<Span>, u64, u64) = (Vec::new(), 0, 0);
    while done < len {
        let here = CHUNK.min(len - done);
        let bytes = read_structure(file, "crash dump bitmap", begin + done, usize::try_from(here).unwrap_or(0))?;
        for frame in set_bits(&bytes) {
            let at = (done * 8 + frame) * PAGE;
            if done * 8 + frame >= bits {
                break;
            }
            let from = first + seen * PAGE;
            if from + PAGE > file.len() {
                let expected = format_args!("{present:#x} pages from {first:#x} inside the file");
                return Err(fields.corrupt(0x28, expected, format_args!("page {seen:#x} behind {:#x}", file.len())));
            }
            seen += 1;
            match spans.last_mut() {
                Some(last) if last.at + last.len == at => last.len += PAGE,
                _ => spans.push(Span { at, len: PAGE, from: Some(from) }),
            }
        }
        done += here;
    }
    if seen != present {
        return Err(fields.corrupt(
            0x28,
            format_args!("{seen:#x} pages, as the bitmap has"),
            format_args!("{present:#x}"),
        ));
    }
    Ok(spans)
}

/// Numbers of the bits that are set.
fn set_bits(bytes: &[u8]) -> impl Iterator<Item = u64> {
    let of = |(index, byte): (usize, &u8)| {
        let byte = *byte;
        (0..8_u64).filter(move |bit| byte >> bit & 1 != 0).map(move |bit| index as u64 * 8 + bit)
    };
    bytes.iter().enumerate().flat_map(of)
}

/// `PO_MEMORY_IMAGE`: a signature of four letters, and its own length in the fourth word.
fn probe_hibernation(below: &Below) -> bool {
    let head = below.head::<16>();
    let len = head.last_chunk::<4>().map_or(0, |word| u32::from_le_bytes(*word));
    let known = [b"hibr", b"HIBR", b"wake", b"WAKE", b"rstr", b"RSTR"];
    known.iter().any(|name| head.starts_with(*name)) && (0x80..=0x2000).contains(&len)
}

fn refuse_hibernation(_: &Below) -> Opening {
    let why =
        "its pages are compressed in a form that is not known here; convert it with hibr2bin or Volatility 2 first";
    Err(ReadError::unsupported("a Windows hibernation file", why))
}
