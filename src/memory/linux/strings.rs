//! `linux.strings`: whose memory a place of the image is: a process's, the page cache's, the kernel's, or free.
//!
//! Source: the page tables of every process, the ranges of the kernel and its modules, and for the rest what the kernel's own record of each
//! frame (`struct page`) says. Places come from a list (`strings -t x` of the image), or from a pattern that is looked for in all of it.

use std::collections::{HashMap, HashSet};

use rayon::prelude::*;

use super::super::cells::some_text;
use super::super::{Outcome, Physical};
use super::terms::needed;
use super::{Ask, Kernel, Object, files, lsmod, vma};
use crate::image::{Kind, map};
use crate::report::{Cell, Column, Rows};

/// Its columns.
pub const COLUMNS: &[Column] = &[
    Column("physical"),
    Column("string"),
    Column("region"),
    Column("pid"),
    Column("process"),
    Column("virtual"),
    Column("detail"),
];

/// Bytes that are looked through at a time, and that what is found may reach into the next ones.
const WINDOW: u64 = 1 << 20;
const REACH: u64 = 4096;
/// Places of one window, and bytes of one that are shown.
const MOST: usize = 1 << 16;
const SHOWN: usize = 256;
/// Pages of one process that are asked for.
const PAGES: u64 = 1 << 20;
/// The largest free block of frames, as a power of two (`MAX_PAGE_ORDER`).
const ORDERS: u64 = 10;

/// The region that tells the symbol of each place.
const IMAGE: &str = "kernel image";

/// Where a frame is in the memory of a process.
struct Use {
    pid: i64,
    comm: String,
    at: u64,
}

/// See the module.
pub fn run(kernel: &Kernel, ask: &Ask, rows: &mut dyn Rows) -> Outcome<()> {
    let places = places(kernel, ask)?;
    let page = kernel.space.tables().page();
    let frames: HashSet<u64> = places.iter().map(|(at, _)| at / page).collect();
    let uses = uses(kernel, ask, &frames)?;
    let modules = modules(kernel, ask, &frames)?;
    let mut regions: HashMap<u64, (&'static str, Option<String>)> = HashMap::new();
    for (at, string) in &places {
        let frame = at / page;
        let (region, detail) = regions.entry(frame).or_insert_with(|| region(kernel, frame * page, &modules)).clone();
        let detail = if region == IMAGE { kernel.name_of(at.wrapping_add(kernel.place.offset)) } else { detail };
        let within = at % page;
        let head = [Cell::Address(*at), Cell::text(string)];
        let users = uses.get(&frame).map(Vec::as_slice).unwrap_or_default();
        for one in users {
            let place = Cell::Address(one.at.wrapping_add(within));
            let rest =
                [Cell::Word("process"), Cell::Int(one.pid), Cell::text(&one.comm), place, some_text(detail.clone())];
            rows.row(head.iter().cloned().chain(rest).collect())?;
        }
        // Of what a program maps its page tables have told; the cache holds it besides.
        if users.is_empty() && ask.pids.is_empty() {
            let place = super::super::cells::address(virtual_of(kernel, *at));
            let rest = [Cell::Word(region), some_text(None), some_text(None), place, some_text(detail.clone())];
            rows.row(head.iter().cloned().chain(rest).collect())?;
        }
    }
    Ok(())
}

/// Physical places and what stands there.
fn places(kernel: &Kernel, ask: &Ask) -> Outcome<Vec<(u64, String)>> {
    if let Some(given) = &ask.terms.strings {
        return Ok(given.as_ref().clone());
    }
    let pattern = needed(ask.terms.regex.as_ref(), "--strings or --regex")?;
    let (found, cut) = everywhere(kernel.physical(), |at, bytes, own| {
        let hits = pattern.find_iter(bytes).filter(|hit| hit.start() < own && !hit.is_empty());
        let shown = |hit: regex::bytes::Match<'_>| {
            let text = String::from_utf8_lossy(hit.as_bytes().get(..hit.len().min(SHOWN)).unwrap_or_default());
            (at + hit.start() as u64, text.into_owned())
        };
        hits.map(shown).collect()
    });
    if cut {
        ask.note(format!("a part of memory holds the pattern more than {MOST} times"));
    }
    Ok(found)
}

/// What `look` finds in all of memory, by all cores: it is given where a window begins, its bytes, and how many of these are its own. Also:
/// was there more in one of them than is kept?
pub(super) fn everywhere<T: Send>(
    memory: &Physical,
    look: impl Fn(u64, &[u8], usize) -> Vec<T> + Sync,
) -> (Vec<T>, bool) {
    let mut windows = Vec::new();
    for extent in map::walk(memory.image().as_ref(), 0..memory.len()).map_while(Result::ok) {
        let mut at = extent.at;
        while extent.kind == Kind::Data && at < extent.end() {
            let end = at.saturating_add(WINDOW).min(extent.end());
            windows.push((at, end, end.saturating_add(REACH).min(extent.end())));
            at = end;
        }
    }
    let found: Vec<(Vec<T>, bool)> = windows
        .par_iter()
        .map(|&(begin, end, upto)| match memory.vec(begin, (upto - begin) as usize) {
            Ok(bytes) => {
                let mut found = look(begin, &bytes, (end - begin) as usize);
                let cut = found.len() > MOST;
                found.truncate(MOST);
                (found, cut)
            }
            Err(_) => (Vec::new(), false),
        })
        .collect();
    let cut = found.iter().any(|(_, cut)| *cut);
    (found.into_iter().flat_map(|(found, _)| found).collect(), cut)
}

/// Who has which of the frames mapped.
fn uses(kernel: &Kernel, ask: &Ask, frames: &HashSet<u64>) -> Outcome<HashMap<u64, Vec<Use>>> {
    let page = kernel.space.tables().page();
    let tasks = kernel.processes(ask)?;
    let each: Vec<Vec<(u64, Use)>> = tasks
        .par_iter()
        .map(|task| {
            let (mut found, mut left) = (Vec::new(), PAGES);
            let Ok(space) = task.space() else { return found };
            for vma in vma::all(task, ask) {
                let mut at = vma.start;
                while at < vma.end && left > 0 {
                    left -= 1;
                    if let Ok(mapped) = space.translate(at)
                        && frames.contains(&(mapped.physical / page))
                    {
                        let (pid, comm) = (task.pid().unwrap_or(0), task.comm().unwrap_or_default());
                        found.push((mapped.physical / page, Use { pid, comm, at }));
                    }
                    at = at.saturating_add(page);
                }
            }
            if left == 0 {
                ask.note(format!("the task at {:#x} has more memory than was looked at", task.0.at));
            }
            found
        })
        .collect();
    let mut uses: HashMap<u64, Vec<Use>> = HashMap::new();
    for (frame, one) in each.into_iter().flatten() {
        uses.entry(frame).or_default().push(one);
    }
    Ok(uses)
}

/// Modules that the frames belong to.
fn modules(kernel: &Kernel, ask: &Ask, frames: &HashSet<u64>) -> Outcome<HashMap<u64, String>> {
    let page = kernel.space.tables().page();
    let mut found = HashMap::new();
    for (name, base, size) in lsmod::all_ranges(kernel, ask)? {
        for n in 0..size.div_ceil(page).min(1 << 16) {
            let Ok(mapped) = kernel.space.translate(base.wrapping_add(n * page)) else { continue };
            let frame = mapped.physical / page;
            if frames.contains(&frame) {
                found.insert(frame, name.clone());
            }
        }
    }
    Ok(found)
}

/// The kernel's own address for a place: in its image, or in the map of all memory.
fn virtual_of(kernel: &Kernel, physical: u64) -> Outcome<u64> {
    let image = physical.wrapping_add(kernel.place.offset);
    if in_image(kernel, image) { Ok(image) } else { Ok(kernel.direct_map()?.wrapping_add(physical)) }
}

fn in_image(kernel: &Kernel, at: u64) -> bool {
    let ends = (kernel.symbols.address("_text"), kernel.symbols.address("_end"));
    matches!(ends, (Some(begin), Some(end)) if (begin..end).contains(&at))
}

/// What the frame at a physical address is used for.
fn region(kernel: &Kernel, physical: u64, modules: &HashMap<u64, String>) -> (&'static str, Option<String>) {
    let known = of_frame(kernel, physical).unwrap_or(("unknown", None));
    // What only served to start the kernel was given back, and may be anything now.
    if in_image(kernel, physical.wrapping_add(kernel.place.offset)) && matches!(known.0, "kernel" | "unknown") {
        return (IMAGE, None);
    }
    match modules.get(&(physical / kernel.space.tables().page())) {
        Some(name) => ("module", Some(name.clone())),
        None => known,
    }
}

/// The same by the kernel's record of the frame.
fn of_frame(kernel: &Kernel, physical: u64) -> Outcome<(&'static str, Option<String>)> {
    if physical >= kernel.physical().len() {
        return Ok(("unknown", None));
    }
    let mut page = kernel.page_at(physical)?;
    if is_free(kernel, physical) {
        return Ok(("free", None));
    }
    // Later pages of a larger one point at the first, with a mark.
    if let Ok(head) = page.either(&["compound_head", "compound_info"]).and_then(|head| head.value())
        && head & 1 == 1
    {
        page = kernel.object("page", head & !1)?;
    }
    if has_type(&page, "slab") {
        return Ok(("kernel slab", None));
    }
    let mapping = page.u64("mapping")?;
    match mapping & 3 {
        _ if page.i64("_refcount.counter")? <= 0 => Ok(("free", None)),
        1 => Ok(("program, not mapped now", None)),
        0 if mapping >> 63 == 1 => {
            let inode = kernel.object("address_space", mapping)?.follow("host");
            Ok(("page cache", inode.and_then(|inode| path_of(&inode)).ok()))
        }
        _ => Ok(("kernel", None)),
    }
}

/// Is the frame in a block that the kernel has nothing in? The first page of the block says so, and how large the block is.
fn is_free(kernel: &Kernel, physical: u64) -> bool {
    let bytes = kernel.space.tables().page();
    (0..=ORDERS).any(|order| {
        let first = kernel.page_at(physical & !((bytes << order) - 1));
        first.is_ok_and(|first| {
            has_type(&first, "buddy") && first.u64("private").is_ok_and(|size| (order..=ORDERS).contains(&size))
        })
    })
}

/// Does the page say that it is of this type? As numbers since 6.12 (`PGTY_…`), as bits that are cleared up to 6.10; slabs had a flag of
/// their own before.
fn has_type(page: &Object<'_>, name: &str) -> bool {
    let types = &page.kernel.types;
    let value = |of: &str, name: String| {
        let id = types.find_enum(of)?;
        types.values(id).find(|(known, _)| *known == name.as_bytes()).map(|(_, value)| value as u64)
    };
    if let Some(bit) = value("pageflags", format!("PG_{name}")) {
        return page
            .either(&["flags.f", "flags"])
            .and_then(|flags| flags.value())
            .is_ok_and(|flags| flags >> bit.min(63) & 1 == 1);
    }
    let Ok(kind) = page.u64("page_type") else { return false };
    match value("pagetype", format!("PGTY_{name}")) {
        Some(number) => kind >> 24 & 0xff == number,
        // `PG_buddy`, cleared below `PAGE_TYPE_BASE`.
        None => name == "buddy" && kind & 0xf000_0080 == 0xf000_0000,
    }
}

/// The path of a file in its file system, by one of its names.
fn path_of(inode: &Object<'_>) -> Outcome<String> {
    let kernel = inode.kernel;
    let first = inode.u64("i_dentry.first")?;
    let back = kernel.offset("dentry", "d_u.d_alias").or_else(|_| kernel.offset("dentry", "d_alias"))?;
    if first == 0 {
        return Err(super::super::MemoryError::Null("i_dentry"));
    }
    files::from_top(kernel.object("dentry", first.wrapping_sub(back))?)
}
