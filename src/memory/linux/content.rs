//! Content that lies in pages here and there, as bytes that can be read at any place: of a file in the page cache, of a range of a program.
//! What memory does not hold is a gap.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use super::super::paging::Space;
use super::super::{Fault, MemoryError, Outcome, Physical};
use super::list::Span;
use super::vma::Vma;
use super::{Kernel, Object, Task};
use crate::image::{Extent, Kind, ReadAt, ReadError, Why, inside};

/// The most that is written of one range of a program, in bytes: one may claim to be as long as the address space.
const LONGEST: u64 = 1 << 30;

/// The `struct page` of the first frame, once it was looked for: the same for as long as the kernel runs.
#[derive(Default, Clone)]
pub(super) struct FirstPage(OnceLock<u64>);

/// A file's pages.
pub(super) struct Cached {
    physical: Arc<Physical>,
    page: u64,
    len: u64,
    /// Where in memory each of them lies, by its number.
    pages: BTreeMap<u64, u64>,
}

/// A page of a file in memory.
pub(super) struct CachedPage<'k> {
    /// Its `struct page`, or `folio` if it is the first of one.
    pub(super) page: Object<'k>,
    /// Its number in the file.
    pub(super) index: u64,
    /// Where it lies.
    pub(super) physical: Outcome<u64>,
}

impl Kernel {
    /// The `struct page` of the first frame there is or would be: that of any other is so many of them further on. Each section of
    /// memory tells it, with flags in the lowest bits (`include/linux/mmzone.h`, `section_mem_map`).
    fn page_of_frame_0(&self) -> Outcome<u64> {
        if let Some(known) = self.first_page.0.get() {
            return Ok(*known);
        }
        let found = self.find_page_of_frame_0()?;
        Ok(*self.first_page.0.get_or_init(|| found))
    }

    fn find_page_of_frame_0(&self) -> Outcome<u64> {
        let at = self.symbol("mem_section")?;
        let id = self.types.find("mem_section").ok_or_else(|| MemoryError::NoType("mem_section".to_owned()))?;
        let each = self.types.size(id).max(1);
        let roots = self.space.u64(at)?;
        for root in 0..64 {
            let Ok(root @ 1..) = self.space.u64(roots.wrapping_add(8 * root)) else { continue };
            for n in 0..self.space.tables().page() / each {
                let map = self.of_type(id, root.wrapping_add(n * each)).u64("section_mem_map")?;
                // Present, and with a map.
                if map & 3 == 3 {
                    return Ok(map & !0x3f);
                }
            }
        }
        Err(MemoryError::corrupt("mem_section", at, "no section of memory has a map"))
    }

    /// The `struct page` of the frame at a physical address.
    pub(super) fn page_at(&self, physical: u64) -> Outcome<Object<'_>> {
        let first = self.object("page", self.page_of_frame_0()?)?;
        Ok(first.element(physical / self.space.tables().page()))
    }

    /// Where the frame of a `struct page` lies in physical memory.
    pub(super) fn frame_of(&self, page: u64) -> Outcome<u64> {
        let size = self.types.find("page").map_or(64, |id| self.types.size(id)).max(1);
        let beyond = page.wrapping_sub(self.page_of_frame_0()?);
        if !beyond.is_multiple_of(size) {
            return Err(MemoryError::corrupt("a page", page, "it stands between two"));
        }
        let address = (beyond / size).checked_mul(self.space.tables().page()).ok_or(Fault::NoAddress(page))?;
        if address >= self.physical().len() { Err(Fault::NotInImage(address).into()) } else { Ok(address) }
    }

    /// The pages of a file that are in memory, by their number.
    pub(super) fn cached(&self, inode: &Object<'_>) -> Outcome<Vec<CachedPage<'_>>> {
        let mapping = inode.follow("i_mapping")?;
        let size = self.types.find("page").map_or(64, |id| self.types.size(id));
        let kind = if self.types.find("folio").is_some() { "folio" } else { "page" };
        let mut pages = Vec::new();
        for Span { index, count, entry } in self.spans(mapping.either(&["i_pages", "page_tree"])?)? {
            // A number in place of a page: it was thrown out, or is in swap.
            if entry & 3 != 0 {
                continue;
            }
            let first = self.object(kind, entry)?;
            // The page itself says whose it is; and what a folio holds is its own business.
            if first.u64("mapping").ok() != Some(mapping.at) {
                continue;
            }
            let frames = self.physical().len() / self.space.tables().page();
            if count > frames || pages.len() as u64 > frames {
                return Err(MemoryError::corrupt("a file", inode.at, "it has more pages than there is memory"));
            }
            for n in 0..count {
                let page = self.of_type(first.id, entry.wrapping_add(n.wrapping_mul(size)));
                pages.push(CachedPage { page, index: index.wrapping_add(n), physical: self.frame_of(page.at) });
            }
        }
        pages.sort_by_key(|page| page.index);
        pages.dedup_by_key(|page| page.index);
        Ok(pages)
    }

    /// What of a file's content is in memory.
    pub(super) fn content(&self, inode: &Object<'_>) -> Outcome<Cached> {
        let len = inode.u64("i_size")?;
        let page = self.space.tables().page();
        if len >> 63 == 1 {
            return Err(MemoryError::corrupt("a file", inode.at, "its length is negative"));
        }
        let pages = self.cached(inode)?.into_iter();
        let inside = |page: &CachedPage<'_>| page.index < len.div_ceil(self.space.tables().page());
        let pages = pages.filter(inside).filter_map(|page| Some((page.index, page.physical.ok()?))).collect();
        Ok(Cached { physical: Arc::clone(self.physical()), page, len, pages })
    }
}

impl ReadAt for Cached {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> Result<(), ReadError> {
        inside("file", self.len, at, into.len() as u64)?;
        each(self.page, at, into, |at, part| {
            let frame = self.pages.get(&(at / self.page));
            frame.is_some_and(|frame| self.physical.read(frame + at % self.page, part).is_ok())
        })
    }

    fn extent(&self, at: u64) -> Result<Extent, ReadError> {
        inside("file", self.len, at, 1)?;
        let number = at / self.page;
        let end = match self.pages.range(number..).next() {
            Some((found, frame)) if *found == number => {
                let held = self.physical.read(*frame, &mut [0; 1]).is_ok();
                let end = (number + 1).saturating_mul(self.page).min(self.len);
                return Ok(Extent { at, len: end - at, kind: if held { Kind::Data } else { missing() } });
            }
            Some((next, _)) => next.saturating_mul(self.page).min(self.len),
            None => self.len,
        };
        Ok(Extent { at, len: end - at, kind: missing() })
    }
}

/// A range of a program's memory.
pub(super) struct Range {
    space: Arc<Space>,
    start: u64,
    len: u64,
}

impl Range {
    /// The memory of a range; told if it is longer than is written.
    pub(super) fn of(task: &Task<'_>, vma: &Vma<'_>) -> Outcome<Self> {
        let len = vma.end.saturating_sub(vma.start);
        if len > LONGEST {
            let why = format!("it is {len} bytes long; no more than {LONGEST} are written");
            return Err(MemoryError::corrupt("a range", vma.start, why));
        }
        Ok(Self { space: task.space()?, start: vma.start, len })
    }
}

impl ReadAt for Range {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> Result<(), ReadError> {
        inside("range", self.len, at, into.len() as u64)?;
        each(4096, self.start.wrapping_add(at), into, |at, part| self.space.read(at, part).is_ok())
            .map_err(|error| error.moved(self.start, 0))
    }

    fn extent(&self, at: u64) -> Result<Extent, ReadError> {
        inside("range", self.len, at, 1)?;
        let end = (at / 4096 + 1).saturating_mul(4096).min(self.len);
        let held = self.space.read(self.start.wrapping_add(at), &mut [0; 1]).is_ok();
        Ok(Extent { at, len: end - at, kind: if held { Kind::Data } else { missing() } })
    }
}

fn missing() -> Kind {
    Kind::Gap(Why::Unreadable("not in memory".to_owned()))
}

/// Fills `into` page by page; the first that does not read is a gap.
fn each(page: u64, at: u64, into: &mut [u8], mut read: impl FnMut(u64, &mut [u8]) -> bool) -> Result<(), ReadError> {
    let (mut at, mut into) = (at, into);
    while !into.is_empty() {
        let here = usize::try_from(page - at % page).unwrap_or(1).min(into.len());
        let (part, rest) = into.split_at_mut(here);
        if !read(at, part) {
            return Err(ReadError::Gap { at, len: here as u64, why: Why::Unreadable("not in memory".to_owned()) });
        }
        at = at.wrapping_add(here as u64);
        into = rest;
    }
    Ok(())
}
