//! Where the kernel is: its slide, its place in physical memory, its page tables, its symbols, its types.
//!
//! VMCOREINFO first; if there is none or it leads nowhere, the kernel's tables are found by what they look like. Either way the
//! page tables have to map the kernel's first byte to where it was found, or nothing is believed.

use std::sync::Arc;

use super::super::paging::{Space, x86};
use super::super::scan::{Verdict, scan};
use super::super::symbols::btf::{self, Btf};
use super::super::symbols::kallsyms::{DECOY, KERNEL_MAP, Kallsyms, TOKENS};
use super::super::{Fault, MemoryError, Outcome, Physical};
use super::vmcoreinfo::Vmcoreinfo;

/// What is looked at around the token table: names and offsets of kallsyms.
const BEFORE: u64 = 16 << 20;
const BEHIND: u64 = 8 << 20;
/// Where a kernel's image may begin.
const ALIGNED: u64 = 2 << 20;
/// A kernel's BTF has more types than this; those of modules have less.
const TYPES_LEAST: usize = 500_000;

/// What was found, and how.
pub(super) struct Found {
    /// The kernel's names.
    pub symbols: Kallsyms,
    /// The kernel's types.
    pub types: Btf,
    /// The kernel's address space.
    pub space: Space,
    /// The crash note, if there is one.
    pub note: Option<Vmcoreinfo>,
    /// What is added to an address in the kernel's image, less [`KERNEL_MAP`], to get its physical one.
    pub phys_base: u64,
    /// Physical address of the token table.
    pub symbols_at: u64,
    /// How symbols and types were found, in words.
    pub symbols_from: &'static str,
    /// The same for types.
    pub types_from: &'static str,
}

/// Names with their place in physical memory.
struct Names {
    symbols: Kallsyms,
    phys_base: u64,
    at: u64,
}

/// Finds the kernel in `physical`.
pub(super) fn discover(physical: &Arc<Physical>) -> Outcome<Found> {
    let note = Vmcoreinfo::find(physical);
    let by_note = note.as_ref().and_then(|note| by_note(physical, note));
    let (names, symbols_from) = match by_note {
        Some(names) => (names, "kallsyms where VMCOREINFO says"),
        None => (by_signature(physical, note.as_ref())?, "kallsyms by its structure"),
    };
    let (root, levels) = root(physical, &names.symbols, names.phys_base)?;
    let space = Space::new(Arc::clone(physical), root, levels);
    let (types, types_from) = types(physical, &names)?;
    let Names { symbols, phys_base, at: symbols_at } = names;
    Ok(Found { symbols, types, space, note, phys_base, symbols_at, symbols_from, types_from })
}

fn physical_of(phys_base: u64, address: u64) -> u64 {
    address.wrapping_sub(KERNEL_MAP).wrapping_add(phys_base)
}

fn by_note(memory: &Physical, note: &Vmcoreinfo) -> Option<Names> {
    let phys_base = note.number("phys_base")? as u64;
    let at = physical_of(phys_base, note.symbol("kallsyms_token_table")?);
    // The digits stand in the first few hundred bytes: tokens are short.
    let head = memory.vec(at, 1024).ok()?;
    let hit = memchr::memmem::find(&head, TOKENS)?;
    names(memory, at + hit as u64, Some(phys_base)).ok()
}

fn by_signature(memory: &Physical, note: Option<&Vmcoreinfo>) -> Outcome<Names> {
    let phys_base = note.and_then(|note| note.number("phys_base")).map(|base| base as u64);
    let hits = scan(memory, &[TOKENS], |_, _| Verdict::Yes);
    let (mut tried, mut decoys) = (Vec::new(), 0);
    for hit in hits.iter().take(256) {
        match names(memory, hit.at, phys_base) {
            Ok(names) => return Ok(names),
            // Tables of digits are common; what came further than that tells more.
            Err(why) if why == DECOY => decoys += 1,
            Err(why) => tried.push(format!("at {:#x} {why}", hit.at)),
        }
    }
    if decoys > 0 {
        tried.push(format!("{decoys} times {DECOY}"));
    }
    Err(MemoryError::NoKernel(no_symbols(memory, note, &tried)))
}

/// What was found instead of a kernel, and what would help.
fn no_symbols(memory: &Physical, note: Option<&Vmcoreinfo>, tried: &[String]) -> String {
    let what = match (note, tried.is_empty()) {
        (_, false) => format!("what looks like a symbol table is none ({})", tried.join("; ")),
        (Some(note), _) => {
            let release = note.get("OSRELEASE").unwrap_or("?");
            format!("VMCOREINFO names Linux {release}, but no symbol table (kallsyms) is in memory")
        }
        (None, _) => "neither VMCOREINFO nor a symbol table (kallsyms) is in memory".to_owned(),
    };
    let banner: &[u8] = b"Linux version ";
    let banners = scan(memory, &[banner], |_, rest| {
        // The kernel's own goes on with its version and ends with a line feed; others are parts of messages and scripts.
        let rest = rest.get(banner.len()..512.min(rest.len())).unwrap_or_default();
        let line = rest.split(|&byte| byte < b' ').next().unwrap_or_default();
        let own =
            rest.first().is_some_and(u8::is_ascii_digit) && rest.get(line.len()) == Some(&b'\n') && line.len() > 40;
        if own { Verdict::Stop } else { Verdict::No }
    });
    let found = banners.first().and_then(|hit| memory.vec(hit.at, 256).ok());
    let seen = match found {
        Some(found) => {
            let line = found.split(|&byte| byte < b' ').next().unwrap_or_default();
            format!("a banner is there: {}", String::from_utf8_lossy(line))
        }
        None => {
            "no banner of a Linux kernel is there either: is this the memory of a Linux guest, and whole?".to_owned()
        }
    };
    format!(
        "no Linux kernel that can be analysed: {what}; {seen} (it takes an x86-64 kernel with CONFIG_KALLSYMS_ALL and \
         CONFIG_DEBUG_INFO_BTF)"
    )
}

/// Reads the names around the token table at `hit`; where the table lies then tells where the kernel does.
fn names(memory: &Physical, hit: u64, phys_base: Option<u64>) -> Result<Names, String> {
    // The tables are aligned: so is the window.
    let begin = hit.saturating_sub(BEFORE) & !4095;
    let len = (BEHIND + hit - begin).min(memory.len() - begin) as usize;
    let (begin, window) = window(memory, begin, hit, len).ok_or("the image is not whole around it")?;
    let within = (hit - begin) as usize;
    let virtual_of = |at: usize| {
        let physical = begin + at as u64;
        phys_base.map(|base| physical.wrapping_sub(base).wrapping_add(KERNEL_MAP))
    };
    let symbols = Kallsyms::parse(&window, within, virtual_of)?;
    // kallsyms leaves its own tables out, but they lie in the kernel's image; and that begins at a multiple of 2 MiB, at the place
    // that its own page tables say.
    let ends = symbols.address("_text").zip(symbols.address("_end")).ok_or("it names neither _text nor _end")?;
    let base = |address: u64| hit.wrapping_sub(address.wrapping_sub(KERNEL_MAP));
    let first = base(ends.1).checked_next_multiple_of(ALIGNED).unwrap_or(0);
    let count = ends.1.saturating_sub(ends.0).min(1 << 30) / ALIGNED + 1;
    let candidates = phys_base.into_iter().chain((0..count).map(|n| first.wrapping_add(n * ALIGNED)));
    let mapped = candidates.into_iter().find(|&base| root(memory, &symbols, base).is_ok());
    let phys_base = mapped.ok_or("no page tables of the kernel are there that map it to where it lies")?;
    Ok(Names { symbols, phys_base, at: hit })
}

/// The bytes around `hit`, as far as the image holds them without a gap.
fn window(memory: &Physical, begin: u64, hit: u64, len: usize) -> Option<(u64, Vec<u8>)> {
    if let Ok(bytes) = memory.vec(begin, len) {
        return Some((begin, bytes));
    }
    let step = 1 << 20;
    let (mut from, mut bytes) = (hit & !(step - 1), Vec::new());
    bytes.extend(memory.vec(from, (step.min(memory.len() - from)) as usize).ok()?);
    while from > begin
        && let Ok(mut more) = memory.vec(from - step, step as usize)
    {
        more.append(&mut bytes);
        (from, bytes) = (from - step, more);
    }
    while bytes.len() < len
        && let Ok(more) = memory.vec(from + bytes.len() as u64, step as usize)
    {
        bytes.extend(more);
    }
    Some((from, bytes))
}

/// The page tables that map the kernel to where `phys_base` says, and their levels: five are tried before four.
fn root(memory: &Physical, symbols: &Kallsyms, phys_base: u64) -> Outcome<(u64, u8)> {
    let text = symbols.address("_text").or(symbols.address("_stext"));
    let text = text.ok_or_else(|| MemoryError::NoSymbol("_text".to_owned()))?;
    let table = symbols.address("init_top_pgt").or(symbols.address("swapper_pg_dir"));
    let table = table.ok_or_else(|| MemoryError::NoSymbol("init_top_pgt".to_owned()))?;
    let root = physical_of(phys_base, table);
    let maps = |levels: &u8| {
        x86::walk(memory, root, *levels, text).is_ok_and(|mapped| mapped.physical == physical_of(phys_base, text))
    };
    let levels = [5, 4].into_iter().find(maps).ok_or(Fault::NotMapped(text))?;
    Ok((root, levels))
}

fn types(memory: &Physical, names: &Names) -> Outcome<(Btf, &'static str)> {
    let ends = (names.symbols.address("__start_BTF"), names.symbols.address("__stop_BTF"));
    let mut why = "the kernel has no symbol __start_BTF".to_owned();
    if let (Some(begin), Some(end)) = ends {
        let len = usize::try_from(end.saturating_sub(begin)).unwrap_or(usize::MAX);
        let at = physical_of(names.phys_base, begin);
        let bytes = if len <= btf::MOST_BYTES { memory.vec(at, len).ok() } else { None };
        match bytes.ok_or("the image does not hold it".to_owned()).and_then(|bytes| Btf::parse(&bytes)) {
            Ok(types) if types.find("task_struct").is_some() => return Ok((types, "BTF at the kernel's own symbol")),
            Ok(_) => "its types hold no task_struct".clone_into(&mut why),
            Err(error) => why = format!("its types (BTF) at physical {at:#x}: {error}"),
        }
    }
    let hits = scan(memory, &[&btf::MAGIC], |_, rest| {
        let large = rest.get(..24).and_then(Btf::claimed).is_none_or(|(_, types)| types > TYPES_LEAST);
        if large { Verdict::Yes } else { Verdict::No }
    });
    for hit in hits.iter().take(64) {
        let Some((len, types)) = memory.vec(hit.at, 24).ok().and_then(|head| Btf::claimed(&head)) else { continue };
        if types < TYPES_LEAST {
            continue;
        }
        let parsed = memory.vec(hit.at, len).ok().and_then(|bytes| Btf::parse(&bytes).ok());
        if let Some(types) = parsed.filter(|types| types.find("task_struct").is_some()) {
            return Ok((types, "BTF by its structure"));
        }
    }
    let banner = names.symbols.address("linux_banner").map(|at| physical_of(names.phys_base, at));
    let banner = banner.and_then(|at| memory.vec(at, 128).ok()).unwrap_or_default();
    let banner = String::from_utf8_lossy(banner.split(|&byte| byte < b' ').next().unwrap_or_default()).into_owned();
    Err(MemoryError::NoKernel(format!(
        "the kernel and its {} symbols were found ({banner}), but not its types: {why}, and no other copy is in memory \
         (it takes CONFIG_DEBUG_INFO_BTF, or an image that holds all of the kernel)",
        names.symbols.len()
    )))
}
