//! Where the kernel is: its slide, its place in physical memory, its page tables, its symbols, its types.
//!
//! The page tables that x86-64 leaves in low memory first (`trampoline`): they lead to the kernel however much memory there is. Then
//! VMCOREINFO; if there is none or it leads nowhere, the kernel's tables are found by what they look like. In each case the
//! page tables have to map the kernel's first byte to where it was found (`place`), or nothing is believed.

use std::iter;
use std::sync::{Arc, OnceLock};

use super::super::paging::Space;
use super::super::scan::{Verdict, scan, scan_in};
use super::super::symbols::btf::{self, Btf};
use super::super::symbols::isf::Isf;
use super::super::symbols::kallsyms::{DECOY, Form, Kallsyms, TOKENS};
use super::super::{MemoryError, Outcome, Physical};
use super::place::{self, Place};
use super::trampoline;
use super::vmcoreinfo::Vmcoreinfo;

/// What is looked at before and behind the token table, in bytes: names and offsets of kallsyms. Those of most kernels lie in the first.
const AROUND: [(u64, u64); 3] = [(3 << 20, 1 << 20), (6 << 20, 3 << 20), (16 << 20, 8 << 20)];
/// What the tokens before the ten digits, and those from there on with their index, take at most, in bytes.
const TABLE: (u64, u64) = (12 << 10, 54 << 10);
/// A kernel's BTF has more types than this; those of modules have less.
const TYPES_LEAST: usize = 500_000;

/// Room for the types of modules behind the kernel's, in bytes: what is not used costs nothing.
const MODULES: usize = 4 << 20;

/// What was found, and how.
pub(super) struct Found {
    /// The kernel's names.
    pub symbols: Kallsyms,
    /// The kernel's types.
    pub types: Btf,
    /// The kernel's address space.
    pub space: Space,
    /// The crash note, if it was looked for and is there.
    pub note: OnceLock<Option<Vmcoreinfo>>,
    /// Where its image lies.
    pub place: Place,
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
    place: Place,
    at: u64,
}

/// Finds the kernel in `physical`.
pub(super) fn discover(physical: &Arc<Physical>) -> Outcome<Found> {
    let (names, symbols_from, note) = if let Some(names) = by_page_tables(physical) {
        (names, "kallsyms where page tables map the kernel", OnceLock::new())
    } else {
        let note = Vmcoreinfo::find(physical);
        let (names, from) = match note.as_ref().and_then(|note| by_note(physical, note)) {
            Some(names) => (names, "kallsyms where VMCOREINFO says"),
            None => (by_signature(physical, note.as_ref())?, "kallsyms by its structure"),
        };
        (names, from, OnceLock::from(note))
    };
    let (types, types_from) = types(physical, &names)?;
    let Names { symbols, place, at: symbols_at } = names;
    let space = Space::new(Arc::clone(physical), place.root, place.tables);
    Ok(Found { symbols, types, space, note, place, symbols_at, symbols_from, types_from })
}

fn by_page_tables(memory: &Physical) -> Option<Names> {
    trampoline::images(memory).iter().find_map(|image| {
        // One part after the other: the table is among the kernel's constants, which come first.
        image.parts.iter().find_map(|part| {
            let hits = scan_in(memory, part.clone(), &[TOKENS], |_, _| Verdict::Yes);
            hits.iter().take(16).find_map(|hit| names(memory, hit.at, Some(image.offset)).ok())
        })
    })
}

fn by_note(memory: &Physical, note: &Vmcoreinfo) -> Option<Names> {
    let offset = note.image_offset()?;
    let at = note.symbol("kallsyms_token_table")?.wrapping_sub(offset);
    // The digits stand in the first few hundred bytes: tokens are short.
    let head = memory.vec(at, 1024).ok()?;
    let hit = memchr::memmem::find(&head, TOKENS)?;
    names(memory, at + hit as u64, Some(offset)).ok()
}

fn by_signature(memory: &Physical, note: Option<&Vmcoreinfo>) -> Outcome<Names> {
    let offset = note.and_then(Vmcoreinfo::image_offset);
    let hits = scan(memory, &[TOKENS], |_, _| Verdict::Yes);
    let (mut tried, mut decoys) = (Vec::new(), 0);
    for hit in hits.iter().take(256) {
        match names(memory, hit.at, offset) {
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
    format!("no Linux kernel that can be analysed: {what}; {} ({WANTED})", banner_seen(memory))
}

/// What would help.
const WANTED: &str = "it takes a kernel for x86-64 or 64-bit ARM with CONFIG_KALLSYMS_ALL and CONFIG_DEBUG_INFO_BTF, or with --symbols a \
                      symbol file of Volatility 3 that was made for this very banner";

/// The kernel's banner in words, or that there is none.
fn banner_seen(memory: &Physical) -> String {
    let banner: &[u8] = b"Linux version ";
    let banners = scan(memory, &[banner], |_, rest| {
        // The kernel's own goes on with its version and ends with a line feed; others are parts of messages and scripts.
        let rest = rest.get(banner.len()..512.min(rest.len())).unwrap_or_default();
        let line = rest.split(|&byte| byte < b' ').next().unwrap_or_default();
        let own =
            rest.first().is_some_and(u8::is_ascii_digit) && rest.get(line.len()) == Some(&b'\n') && line.len() > 40;
        if own { Verdict::Stop } else { Verdict::No }
    });
    match banners.first().and_then(|hit| memory.vec(hit.at, 512).ok()) {
        Some(found) => format!("a banner is there: {}", line(&found)),
        None => {
            "no banner of a Linux kernel is there either: is this the memory of a Linux guest, and whole?".to_owned()
        }
    }
}

fn line(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|&byte| byte < b' ').next().unwrap_or_default()).into_owned()
}

/// Finds the kernel that a symbol file was made for: its banner tells where the image lies, page tables where it ran.
pub(super) fn discover_with(physical: &Arc<Physical>, isf: Isf) -> Outcome<Found> {
    let Isf { types, symbols, banner } = isf;
    let linked = symbols.address("linux_banner").ok_or_else(|| MemoryError::NoSymbol("linux_banner".to_owned()))?;
    // Where page tables map the kernel, its banner stands where the file says; else anywhere.
    let mapped = trampoline::images(physical).into_iter().filter_map(|image| {
        let within = linked.wrapping_sub(symbols.address("_text").or(symbols.address("_stext"))?);
        let at = image.text.wrapping_sub(image.offset).wrapping_add(within);
        let stands = physical.vec(at, banner.len()).is_ok_and(|bytes| bytes == banner);
        stands.then_some((at, Some(image.offset)))
    });
    let note = OnceLock::new();
    let anywhere = iter::once_with(|| {
        let told = note.get_or_init(|| Vmcoreinfo::find(physical)).as_ref().and_then(Vmcoreinfo::image_offset);
        let hits = scan(physical, &[&banner], |_, _| Verdict::Yes);
        hits.into_iter().take(64).map(move |hit| (hit.at, told))
    });
    let mut why = None;
    for (at, told) in mapped.chain(anywhere.flatten()) {
        let less = linked.wrapping_sub(at);
        match place::by_physical(physical, &symbols, less, told) {
            Ok(place) => {
                let space = Space::new(Arc::clone(physical), place.root, place.tables);
                let symbols = symbols.moved(place.offset.wrapping_sub(less));
                let (symbols_from, types_from) = ("the symbol file, by its banner", "the symbol file");
                return Ok(Found { symbols, types, space, note, place, symbols_at: at, symbols_from, types_from });
            }
            Err(error) => why = Some(error),
        }
    }
    let file = format!("the symbol file is for {}", line(&banner));
    Err(MemoryError::NoKernel(match why {
        Some(why) => format!("{file}: this banner is there, but {why}"),
        None => format!("{file}, which is not in memory; {}", banner_seen(physical)),
    }))
}

/// Reads the names around the token table at `hit`; where the table lies then tells where the kernel does.
fn names(memory: &Physical, hit: u64, offset: Option<u64>) -> Result<Names, String> {
    let symbols = symbols(memory, hit)?;
    let place = match symbols.form() {
        Form::Relative => place::by_physical(memory, &symbols, 0, offset),
        _ => place::by_virtual(memory, &symbols, hit, offset),
    };
    let place = place?;
    let symbols = if symbols.form() == Form::Relative { symbols.moved(place.offset) } else { symbols };
    Ok(Names { symbols, place, at: hit })
}

/// The table of names around the token table at `hit`.
fn symbols(memory: &Physical, hit: u64) -> Result<Kallsyms, String> {
    let around = |(before, behind): (u64, u64)| {
        // The tables are aligned: so is the window.
        let begin = hit.saturating_sub(before) & !4095;
        let len = (behind + hit - begin).min(memory.len() - begin) as usize;
        let (begin, window) = window(memory, begin, hit, len).ok_or("the image is not whole around it")?;
        Ok::<_, String>((begin, (hit - begin) as usize, window))
    };
    // Most are decoys, which a few pages tell.
    let (_, within, near) = around(TABLE)?;
    let mut found = Err(DECOY.to_owned());
    if !Kallsyms::has_tokens(&near, within) {
        return found;
    }
    for range in AROUND {
        let (begin, within, window) = around(range)?;
        found = Kallsyms::parse(window, within, begin);
        // What is no token table does not become one in a larger window.
        if found.as_ref().err().is_none_or(|why| why == DECOY) {
            break;
        }
    }
    found
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

fn types(memory: &Physical, names: &Names) -> Outcome<(Btf, &'static str)> {
    let ends = (names.symbols.address("__start_BTF"), names.symbols.address("__stop_BTF"));
    let mut why = "the kernel has no symbol __start_BTF".to_owned();
    if let (Some(begin), Some(end)) = ends {
        let len = usize::try_from(end.saturating_sub(begin)).unwrap_or(usize::MAX);
        let at = names.place.physical(begin);
        let bytes = if len <= btf::MOST_BYTES { memory.vec_with_room(at, len, MODULES).ok() } else { None };
        match bytes.ok_or("the image does not hold it".to_owned()).and_then(Btf::parse) {
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
        let parsed = memory.vec(hit.at, len).ok().and_then(|bytes| Btf::parse(bytes).ok());
        if let Some(types) = parsed.filter(|types| types.find("task_struct").is_some()) {
            return Ok((types, "BTF by its structure"));
        }
    }
    let banner = names.symbols.address("linux_banner").map(|at| names.place.physical(at));
    let banner = line(&banner.and_then(|at| memory.vec(at, 512).ok()).unwrap_or_default());
    Err(MemoryError::NoKernel(format!(
        "the kernel and its {} symbols were found ({banner}), but not its types: {why}, and no other copy is in memory \
         ({WANTED})",
        names.symbols.len()
    )))
}
